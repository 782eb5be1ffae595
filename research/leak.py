"""Does the inverted noise of a source carry the source's appearance into an edit?

    python -m research.leak [--clips 24]

Edits of held-out hard clips: frames generated from the clip's outlines and a caption with another colour, with noise of
several origins. Neither outlines nor caption contain the clip's patches, so patches in an edit came from the noise.
Measures the runs that are missing in research/rows/leak.jsonl, and fills the table of research/pages/leak.md.
"""

from __future__ import annotations

import pandas
import torch
from torch import Tensor

from bivdiff_core.blend import correlation
from research import toy_world
from research.demo_chain import FRAME_CFG, DemoChain
from research.page_tables import describe_run, format_mean, markdown_table
from research.rows_and_jobs import run_study
from research.toy_metrics import erode_mask, measure_figures

STEPS = 25
FIRST_CLIP = 24
"""First held-out clip, as in claims.py."""
MARGIN = 4
"""Distance from the shapes, in pixels, within which background is ignored."""
FIGURES = ("shape flicker", "background flicker", "IoU", "caption")


def make_edits(chain: DemoChain, clip: toy_world.ToyClip, goal: toy_world.ToyClip, seed: int) -> dict[str, Tensor]:
    """The decoded clip, and the clip in the goal's colours from noise of every origin: videos `[F, H, W, 3]`."""
    encoded, empty = chain.encode(clip.frames), chain.empty_latent(len(clip.frames))
    controlled = chain.apply_outline_control(clip.frames, chain.encode_text(goal.caption))
    made = {"the source itself": encoded}
    for noise in ("independent", "shared"):
        made[noise] = chain.generate_frames(*controlled, empty, seed, noise, STEPS)
    for solver in ("ddim", "uni_inv"):
        for name, text in {"": clip.caption, ", no caption": ""}.items():
            inverted = chain.invert_image(encoded, chain.encode_text(text), 1.0, solver, STEPS)
            edited = chain.denoise_by_frame(inverted, *controlled, STEPS, FRAME_CFG)
            made[f"the source's, {solver}{name}"] = edited
    return {name: chain.decode(latent) for name, latent in made.items()}


def edge_strength(frames: Tensor) -> Tensor:
    """Difference of each pixel of `[F, H, W, 3]` from the pixels to the right and below, `[F, H-1, W-1]`."""
    down, across = frames.diff(dim=1)[:, :, :-1], frames.diff(dim=2)[:, :-1]
    return (down.square() + across.square()).sum(dim=-1).sqrt()


def edge_correlation(frames: Tensor, clip: toy_world.ToyClip) -> float:
    """Correlation of the edge strength in the background with that of the clip, mean over frames; 0 is unrelated.

    Uses edges because an edit may change the colours on either side of them.
    """
    inside = erode_mask(clip.ground, MARGIN)[:, :-1, :-1]
    pairs = zip(edge_strength(frames), edge_strength(clip.frames), inside, strict=True)
    return torch.stack([correlation(made[where], real[where]) for made, real, where in pairs]).mean().item()


def make_jobs(clips: int) -> list[dict]:
    """The held-out clips from `FIRST_CLIP`."""
    return [{"clip": clip, "seed": 0} for clip in range(FIRST_CLIP, FIRST_CLIP + clips)]


def measure(chain: DemoChain, job: dict) -> dict:
    """A row: the figures of every edit of a clip."""
    clip = toy_world.held_out_clip("hard", job["clip"])
    goal = toy_world.recolour(clip, clip.seed)
    ways = {}
    for name, video in make_edits(chain, clip, goal, job["seed"]).items():
        figures = measure_figures(video, goal)
        ways[name] = {"look": edge_correlation(video, clip)} | {figure: figures[figure] for figure in FIGURES}
    return {"ways": ways}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    lines = []
    for origin in rows[0]["ways"]:
        table = pandas.DataFrame([row["ways"][origin] for row in rows]).astype(float)
        line = {"noise": origin, "look": format_mean(table["look"], 2)}
        lines.append(line | {figure: f"{table[figure].mean():.3f}" for figure in FIGURES})
    return {"run": describe_run(rows, f"{len(rows)} hard clips."), "edits": markdown_table(lines)}


if __name__ == "__main__":
    run_study("leak", make_jobs, DemoChain, measure, render_tables, clips=24)

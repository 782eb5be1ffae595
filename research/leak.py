"""Does the inverted noise of a source carry the source's appearance into an edit?

    python -m research.leak [--clips 24]

Edits of held-out hard clips: frames generated from the clip's outlines and a caption with another colour, with noise of
several origins. Neither outlines nor caption contain the clip's patches, so patches in an edit came from the noise.
Measures the runs that are missing in research/rows/leak.jsonl, and fills the table of research/pages/leak.md.
"""

from __future__ import annotations

import argparse

import pandas
import torch
from torch import Tensor

from bivdiff_core.blend import correlation
from research import toy_world
from research.demo_chain import FRAME_CFG, DemoChain, start
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import confidence_interval, run_jobs
from research.toy_metrics import erode_mask, measure_figures

STEPS = 25
FIRST_CLIP = 24
"""First held-out clip, as in claims.py."""
MARGIN = 4
"""Distance from the shapes, in pixels, within which background is ignored."""
FIGURES = ("look", "shape flicker", "background flicker", "IoU", "caption")


class Leak(DemoChain):
    """Edits of one clip."""

    def make_edits(self, clip: toy_world.ToyClip, goal: toy_world.ToyClip, seed: int) -> dict[str, Tensor]:
        """The decoded clip, and the clip in the goal's colours from noise of every origin: videos `[F, H, W, 3]`."""
        encoded, empty = self.encode(clip.frames), self.empty_latent(len(clip.frames))
        controlled = self.apply_outline_control(clip.frames, self.encode_text(goal.caption))
        captions = {"": clip.caption, ", no caption": ""}
        inverted = {
            f"the source's, {solver}{name}": self.invert_image(encoded, self.encode_text(text), 1.0, solver, STEPS)
            for solver in ("ddim", "uni_inv")
            for name, text in captions.items()
        }
        made = {"the source itself": encoded}
        for noise in ("independent", "shared"):
            made[noise] = self.generate_frames(*controlled, empty, seed, noise, STEPS)
        for name, noise in inverted.items():
            made[name] = self.denoise_by_frame(noise, *controlled, STEPS, FRAME_CFG)
        return {name: self.decode(latent) for name, latent in made.items()}


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


def init_worker() -> None:
    """Load the chain into this process."""
    global chain
    chain = Leak(start())


def run_job(job: dict) -> dict:
    """A row: the figures of every edit of a clip."""
    clip = toy_world.held_out_clip("hard", job["clip"])
    goal = toy_world.recolour(clip, clip.seed)
    ways = {}
    for name, video in chain.make_edits(clip, goal, job["seed"]).items():
        found = {"look": edge_correlation(video, clip)} | measure_figures(video, goal)
        ways[name] = {figure: found[figure] and round(found[figure], 4) for figure in FIGURES}
    return {"ways": ways}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    lines = []
    for way in rows[0]["ways"]:
        found = pandas.DataFrame([row["ways"][way] for row in rows]).astype(float)
        low, high = confidence_interval(found["look"])
        line = {"noise": way, "look": f"{found['look'].mean():.2f} ({low:.2f} to {high:.2f})"}
        lines.append(line | {figure: f"{found[figure].mean():.3f}" for figure in FIGURES[1:]})
    return {
        "run": describe_run(rows, f"{len(rows)} hard clips."),
        "edits": markdown_table(lines),
    }


def main() -> None:
    """Measure the missing runs and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24, help="how many held-out clips")
    clips = range(FIRST_CLIP, FIRST_CLIP + parser.parse_args().clips)
    write_page(
        "research/pages/leak.md",
        render_tables(run_jobs("leak", [{"clip": clip, "seed": 0} for clip in clips], run_job, init_worker)),
    )


if __name__ == "__main__":
    main()

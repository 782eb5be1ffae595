"""Does noise that the source inverts to carry the source's look into an edit?

    python -m research.leak [--clips 24]

Held-out hard clips whose outlines are drawn under the caption of another colour, from noise of several origins: their
patches are in neither, so that whatever an edit has of them came with the noise. Measures the runs that
research/rows/leak.jsonl lacks, and fills the table of research/pages/leak.md.
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
"""Of the held-out clips: claims.py's."""
MARGIN = 4
"""Pixels from a shape within which the background is not looked at."""
FIGURES = ("look", "shape flicker", "background flicker", "IoU", "caption")


class Leak(DemoChain):
    """Edits of one clip."""

    def edits(self, clip: toy_world.ToyClip, goal: toy_world.ToyClip, seed: int) -> dict[str, Tensor]:
        """A clip through the autoencoder, and in the goal's colours from noise of every origin, `[F, H, W, 3]`."""
        encoded, empty = self.encode(clip.frames), self.nothing(len(clip.frames))
        controlled = self.outlined(clip.frames, self.encode_text(goal.caption))
        captions = {"": clip.caption, ", no caption": ""}
        inverted = {
            f"the source's, {solver}{name}": self.invert_image(encoded, self.encode_text(text), 1.0, solver, STEPS)
            for solver in ("ddim", "uni_inv")
            for name, text in captions.items()
        }
        made = {"the source itself": encoded}
        for noise in ("independent", "shared"):
            made[noise] = self.draw(*controlled, empty, seed, noise, STEPS)
        for name, noise in inverted.items():
            made[name] = self.redraw(noise, *controlled, STEPS, FRAME_CFG)
        return {name: self.decode(latent) for name, latent in made.items()}


def edge_strength(frames: Tensor) -> Tensor:
    """How much each pixel of `[F, H, W, 3]` differs from those right and below, `[F, H-1, W-1]`."""
    down, across = frames.diff(dim=1)[:, :, :-1], frames.diff(dim=2)[:, :-1]
    return (down.square() + across.square()).sum(dim=-1).sqrt()


def edge_correlation(frames: Tensor, clip: toy_world.ToyClip) -> float:
    """Correlation, mean over frames, of where the background's edges lie with where the clip's do; 0 is no relation.

    Edges, since an edit may change what lies on either side of them.
    """
    inside = erode_mask(clip.ground, MARGIN)[:, :-1, :-1]
    pairs = zip(edge_strength(frames), edge_strength(clip.frames), inside, strict=True)
    return torch.stack([correlation(made[where], real[where]) for made, real, where in pairs]).mean().item()


def init_worker() -> None:
    """Load the chain into this process."""
    global chain
    chain = Leak(start())


def run_job(job: dict) -> dict:
    """A row: figures of every edit of a job's clip."""
    clip = toy_world.held_out_clip("hard", job["clip"])
    goal = toy_world.recolour(clip, clip.seed)
    ways = {}
    for name, video in chain.edits(clip, goal, job["seed"]).items():
        found = {"look": edge_correlation(video, clip)} | measure_figures(video, goal)
        ways[name] = {figure: found[figure] and round(found[figure], 4) for figure in FIGURES}
    return {"ways": ways}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
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
    """Measure what is missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24, help="how many held-out clips")
    clips = range(FIRST_CLIP, FIRST_CLIP + parser.parse_args().clips)
    write_page(
        "research/pages/leak.md",
        render_tables(run_jobs("leak", [{"clip": clip, "seed": 0} for clip in clips], run_job, init_worker)),
    )


if __name__ == "__main__":
    main()

"""Is `steadiness` better if it is restricted to the low band, or follows the motion?

    python -m research.steadiness [--clips 8]

Runs the chain with the structure pass on held-out hard clips, at original speed and faster. The image branch is not
smoothed over time, smoothed as in Mixed Inversion Blend, or smoothed by the two variants. Measures the runs that are
missing in research/rows/steadiness.jsonl, and fills the tables of research/pages/steadiness.md.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from bivdiff_core.blend import smooth_over_time
from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import DemoChain
from research.page_tables import describe_run, format_difference, markdown_table
from research.rows_and_jobs import run_study
from research.toy_metrics import FIGURES, measure_figures

STEPS, STEADINESS = 25, 0.5
STRENGTHS = (0.5, 1.0)
FASTER = 3
"""Speed of the fast clips relative to hard clips."""
KINDS = ("hard", "fast")
REACH = 3
"""Number of frames to each side along the motion: twice the standard deviation of the average over time."""


def smooth_low_band(noise: Tensor, clip: toy_world.ToyClip) -> Tensor:
    """Smooth only the low spatial frequencies of noise `[F, C, H, W]` over time."""
    low = gaussian_blur(noise, kernel_size=[5, 5], sigma=[1.0, 1.0])
    return match_std(noise, noise - low + smooth_over_time(low, STEADINESS))


def smooth_along_motion(noise: Tensor, clip: toy_world.ToyClip) -> Tensor:
    """Blend noise `[F, C, H, W]` with its average along the clip's optical flow."""
    mean = average_along_flow(noise.movedim(1, -1), clip.frames, REACH)[0].movedim(-1, 1)
    return match_std(noise, torch.lerp(noise, mean, STEADINESS))


def match_std(noise: Tensor, smoothed: Tensor) -> Tensor:
    """Scale smoothed noise so that every frame has its original std."""
    dims = (1, 2, 3)
    return smoothed * noise.std(dim=dims, keepdim=True) / smoothed.std(dim=dims, keepdim=True)


METHODS = {
    "none": lambda noise, clip: noise,
    "over time": lambda noise, clip: smooth_over_time(noise, STEADINESS),
    "over time, low band": smooth_low_band,
    "along the motion": smooth_along_motion,
}


def make_jobs(clips: int) -> list[dict]:
    """The first held-out clips, at both speeds."""
    return [{"clip": clip, "kind": kind, "seed": 0} for clip, kind in product(range(clips), KINDS)]


def measure(chain: DemoChain, job: dict) -> dict:
    """A row: the figures of every method on a clip."""
    inverted_latents = chain.pack.import_module("bivdiff_core.host.inverted_latents")
    clip = toy_world.held_out_clip("hard", job["clip"])
    if job["kind"] == "fast":
        clip = toy_world.change_motion(clip, FASTER)
    text = chain.encode_text(clip.caption)
    controlled = chain.apply_outline_control(clip.frames, text)
    frames = chain.generate_frames(*controlled, chain.empty_latent(len(clip.frames)), job["seed"], steps=STEPS)
    ways = {}
    for strength in STRENGTHS:
        inverted = chain.invert_image(frames, text, strength, steps=STEPS)
        parsed = inverted_latents.InvertedLatent.from_latent(inverted)
        for name, smooth in METHODS.items():
            smoothed = replace(parsed, samples=smooth(inverted["samples"], clip))
            blended = chain.blend(smoothed.to_latent(), None, 1.0)
            video = chain.structure_pass(chain.smooth(blended, text, STEPS), text, controlled, STEPS)
            ways[f"{name}, strength {strength:g}"] = measure_figures(chain.decode(video), clip)
    return {"ways": ways}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    blocks = {"run": describe_run(rows, f"{len(rows) // len(KINDS)} clips of each kind.")}
    for kind in KINDS:
        ways = [row["ways"] for row in rows if row["kind"] == kind]
        tables = {name: pandas.DataFrame([figures[name] for figures in ways]).astype(float) for name in ways[0]}
        lines = []
        for name, table in tables.items():
            line = {"steadiness": name}
            plain = tables["none," + name.rpartition(",")[2]]
            for figure in FIGURES:
                values = table[figure]
                line[figure] = f"{values.mean():.3f}" if table is plain else format_difference(values, plain[figure])
            lines.append(line)
        blocks[kind] = markdown_table(lines)
    return blocks


if __name__ == "__main__":
    run_study("steadiness", make_jobs, DemoChain, measure, render_tables, clips=8)

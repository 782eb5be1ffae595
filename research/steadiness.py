"""Is `steadiness` better restricted to the low band, or carried along the motion?

    python -m research.steadiness [--clips 8]

Held-out hard clips, at their own pace and faster, through the chain with the structure pass: the image branch as it is,
steadied as Mixed Inversion Blend does, and in the two other ways. Measures the runs that
research/rows/steadiness.jsonl lacks, and fills the tables of research/pages/steadiness.md.
"""

from __future__ import annotations

import argparse
from itertools import product

import pandas
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from bivdiff_core.blend import smooth_over_time
from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import DemoChain, start
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import format_difference, run_jobs
from research.toy_metrics import measure_figures

STEPS, STEADINESS = 25, 0.5
STRENGTHS = (0.5, 1.0)
FASTER = 3
"""How much faster the fast clips move than hard clips do."""
KINDS = ("hard", "fast")
REACH = 3
"""Frames to either side along the motion: twice the standard deviation of the mean over time."""
FIGURES = ("shape flicker", "background flicker", "IoU", "caption", "sharpness")


def low_band(noise: Tensor, clip: toy_world.ToyClip) -> Tensor:
    """Only what varies slowly across `[F, C, H, W]` drawn towards its mean over time."""
    low = gaussian_blur(noise, kernel_size=[5, 5], sigma=[1.0, 1.0])
    return match_std(noise, noise - low + smooth_over_time(low, STEADINESS))


def along_motion(noise: Tensor, clip: toy_world.ToyClip) -> Tensor:
    """Noise `[F, C, H, W]` drawn towards its mean along the clip's optical flow."""
    mean = average_along_flow(noise.movedim(1, -1), clip.frames, REACH)[0].movedim(-1, 1)
    return match_std(noise, torch.lerp(noise, mean, STEADINESS))


def match_std(noise: Tensor, drawn: Tensor) -> Tensor:
    """Frames drawn together with the std that each had."""
    std = (1, 2, 3)
    return drawn * noise.std(dim=std, keepdim=True) / drawn.std(dim=std, keepdim=True)


WAYS = {
    "none": lambda noise, clip: noise,
    "over time": lambda noise, clip: smooth_over_time(noise, STEADINESS),
    "over time, low band": low_band,
    "along the motion": along_motion,
}


def init_worker() -> None:
    """Load the chain into this process."""
    global chain, host
    chain = DemoChain(start())
    host = chain.pack.import_module("bivdiff_core.host.inverted_latents")


def run_job(job: dict) -> dict:
    """A row: figures of every way on a job's clip."""
    clip = toy_world.held_out_clip("hard", job["clip"])
    if job["kind"] == "fast":
        clip = toy_world.change_motion(clip, FASTER)
    text = chain.encode_text(clip.caption)
    controlled = chain.outlined(clip.frames, text)
    drawn = chain.draw(*controlled, chain.nothing(len(clip.frames)), job["seed"], steps=STEPS)
    ways = {}
    for strength in STRENGTHS:
        inverted = chain.invert_image(drawn, text, strength, steps=STEPS)
        for name, steady in WAYS.items():
            samples = steady(inverted["samples"], clip)
            blended = chain.blend(
                host.make_inverted_latent(inverted, samples, host.read_inversion_info(inverted)), None, 1.0
            )
            video = chain.structure_pass(chain.smooth(blended, text, STEPS), text, controlled, STEPS)
            found = measure_figures(chain.decode(video), clip)
            ways[f"{name}, strength {strength:g}"] = {k: v if v is None else round(v, 4) for k, v in found.items()}
    return {"ways": ways}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    made = {"run": describe_run(rows, f"{len(rows) // len(KINDS)} clips of each kind.")}
    for kind in KINDS:
        of_kind = [row["ways"] for row in rows if row["kind"] == kind]
        found = {way: pandas.DataFrame([ways[way] for ways in of_kind]).astype(float) for way in rows[0]["ways"]}
        lines = []
        for way, figures in found.items():
            line = {"steadiness": way}
            plain = found["none," + way.rpartition(",")[2]]
            for figure in FIGURES:
                values = figures[figure]
                line[figure] = f"{values.mean():.3f}" if figures is plain else format_difference(values, plain[figure])
            lines.append(line)
        made[kind] = markdown_table(lines)
    return made


def main() -> None:
    """Measure what is missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8, help="how many held-out clips of each kind")
    clips = range(parser.parse_args().clips)
    jobs = [{"clip": clip, "kind": kind, "seed": 0} for clip, kind in product(clips, KINDS)]
    write_page("research/pages/steadiness.md", render_tables(run_jobs("steadiness", jobs, run_job, init_worker)))


if __name__ == "__main__":
    main()

"""How few model calls does the chain need to match 50 steps of DDIM?

    python -m research.calls [--clips 8]

Runs the whole chain with the structure pass on held-out clips of the toy world, with every plan in `PLANS`. Measures
the runs that are missing in research/rows/calls.jsonl, and fills the tables of research/pages/calls.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import pandas
from torch import Tensor

from research import toy_world
from research.demo_chain import SMOOTH_CFG, STRUCTURE_PASS_STRENGTH
from research.frame_counter import CountingChain
from research.page_tables import describe_run, format_difference, markdown_table
from research.rows_and_jobs import run_study
from research.toy_metrics import FIGURES, measure_figures

NOISES = ("independent", "shared")
STRENGTH = 1.0


@dataclass(frozen=True)
class StepPlan:
    """Steps of each stage, and the scheduler, sampler and inversion solver of all stages."""

    draw: int
    invert: int
    smooth: int
    structure_pass: int
    scheduler: str = "ddim_uniform"
    sampler: str = "ddim"
    solver: str = "ddim"


def uniform_plan(steps: int, scheduler: str = "ddim_uniform", sampler: str = "ddim", solver: str = "ddim") -> StepPlan:
    """A plan with the same number of steps in every stage."""
    return StepPlan(steps, steps, steps, steps, scheduler, sampler, solver)


REFERENCE = "50"
PLANS = {str(steps): uniform_plan(steps) for steps in (50, 25, 16, 12, 8)}
PLANS |= {
    f"{steps} {scheduler}, dpmpp_2m, uni_inv": uniform_plan(steps, scheduler, "dpmpp_2m", "uni_inv")
    for steps, scheduler in ((12, "ddim_uniform"), *product((12, 8), ("simple", "karras")))
}
PLANS |= {f"{steps} ddim_uniform, ddim, uni_inv": uniform_plan(steps, solver="uni_inv") for steps in (50, 25, 12)}
PLANS |= {f"12 {scheduler}, ddim, ddim": uniform_plan(12, scheduler) for scheduler in ("simple", "karras")}
PLANS |= {"12 ddim_uniform, dpmpp_2m, ddim": uniform_plan(12, sampler="dpmpp_2m")}
PLANS |= {
    f"25, {stage} 12": replace(uniform_plan(25), **{stage: 12})
    for stage in ("draw", "invert", "smooth", "structure_pass")
}
HELD_OUT_CLIPS, HELD_OUT_PLANS = range(24, 48), (REFERENCE, "12", "12 ddim_uniform, ddim, uni_inv")
"""Held-out clips, which chose no setting (the clips of claims.py), and the plans that are measured on them."""


def make_video(chain: CountingChain, clip: toy_world.ToyClip, noise: str, seed: int, plan: StepPlan) -> Tensor:
    """Frames `[F, H, W, 3]` generated from a clip's outlines, smoothed, and with their structure restored."""
    text, empty = chain.encode_text(clip.caption), chain.empty_latent(len(clip.frames))
    controlled = chain.apply_outline_control(clip.frames, text)
    sampling = {"scheduler": plan.scheduler, "sampler_name": plan.sampler}
    inverting = {"solver": plan.solver, "scheduler": plan.scheduler}
    frames = chain.generate_frames(*controlled, empty, seed, noise, plan.draw, **sampling)
    inverted = chain.invert_image(frames, text, STRENGTH, steps=plan.invert, **inverting)
    smoothed = chain.smooth(inverted, text, plan.smooth, **sampling)
    again = chain.invert_image(smoothed, text, STRUCTURE_PASS_STRENGTH, steps=plan.structure_pass, **inverting)
    restored = chain.generate_frames(*controlled, again, seed, noise, plan.structure_pass, cfg=SMOOTH_CFG, **sampling)
    return chain.decode(restored)


def make_jobs(clips: int) -> list[dict]:
    """Every plan on the first held-out clips of each kind, and `HELD_OUT_PLANS` on `HELD_OUT_CLIPS`."""
    settings = [
        *product(range(clips), toy_world.CLIP_KINDS, NOISES, PLANS),
        *product(HELD_OUT_CLIPS, toy_world.CLIP_KINDS, NOISES[:1], HELD_OUT_PLANS),
    ]
    return [dict(zip(("clip", "kind", "noise", "plan"), job, strict=True)) for job in settings]


def measure(chain: CountingChain, job: dict) -> dict:
    """A row: the figures of a plan on a clip."""
    clip = toy_world.held_out_clip(job["kind"], job["clip"])
    video = chain.run_step(make_video, chain, clip, job["noise"], job["clip"], PLANS[job["plan"]])
    return measure_figures(video.result, clip) | {"calls": video.calls}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = pandas.DataFrame(rows).astype(dict.fromkeys(FIGURES, float))
    table = table.set_index(["kind", "noise", "plan", "clip"]).sort_index()
    tuning, held_out = (table[table.index.isin(HELD_OUT_CLIPS, level="clip") == value] for value in (False, True))
    counts = [len(part.index.unique("clip")) for part in (tuning, held_out)]
    blocks = {"run": describe_run(rows, f"{counts[0]} clips of each kind, {counts[1]} judge.")}
    for kind, noise in product(toy_world.CLIP_KINDS, NOISES):
        blocks[f"{kind}, {noise}"] = plans_table(tuning.loc[kind, noise], PLANS)
    for kind in toy_world.CLIP_KINDS:
        blocks[f"{kind}, judged"] = plans_table(held_out.loc[kind, NOISES[0]], HELD_OUT_PLANS)
    return blocks


def plans_table(table: pandas.DataFrame, plans: Iterable[str]) -> str:
    """A line for each plan, with the differences from `REFERENCE` on the same clips, as Markdown."""
    reference, lines = table.loc[REFERENCE], []
    for plan in plans:
        of_plan = table.loc[plan]
        line = {"plan": plan, "calls": f"{of_plan['calls'].mean():.0f}"}
        for figure in FIGURES:
            values = of_plan[figure]
            line[figure] = f"{values.mean():.3f}" if plan == REFERENCE else format_difference(values, reference[figure])
        lines.append(line)
    return markdown_table(lines)


if __name__ == "__main__":
    run_study("calls", make_jobs, CountingChain, measure, render_tables, clips=8)

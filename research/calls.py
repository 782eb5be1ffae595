"""How few model calls does the chain need to match 50 steps of DDIM?

    python -m research.calls [--clips 8]

Runs the whole chain with the structure pass on held-out clips of the toy world, with every plan in `PLANS`. Measures
the runs that are missing in research/rows/calls.jsonl, and fills the tables of research/pages/calls.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import product

import pandas

from research import toy_world
from research.demo_chain import FRAME_CFG, SMOOTH_CFG, STRUCTURE_PASS_STRENGTH, start
from research.frame_counter import CountingChain, PricedResult
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import format_difference, run_jobs
from research.toy_metrics import measure_figures

NOISES = ("independent", "shared")
STRENGTH = 1.0
FIGURES = ("shape flicker", "background flicker", "IoU", "caption", "sharpness")


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


class CallsChain(CountingChain):
    """The chain with the steps of a plan."""

    def run_plan(self, clip, noise: str, seed: int, plan: StepPlan) -> PricedResult:
        """Generate frames from a clip's outlines and smooth them: a video `[F, H, W, 3]`."""
        text = self.encode_text(clip.caption)
        controlled = dict(zip(("positive", "negative"), self.apply_outline_control(clip.frames, text), strict=True))
        plain = {"positive": text, "negative": self.empty}
        sampling = {"scheduler": plan.scheduler, "sampler_name": plan.sampler}
        inverting = {"scheduler": plan.scheduler, "solver": plan.solver, "conditioning": text, "model": self.image}

        def sample(latent: dict, steps: int, cfg: float) -> dict:
            settings = {**controlled, **sampling, "latent_image": latent, "steps": steps, "cfg": cfg}
            return self.pack.run("BIVDiffFrameSampler", model=self.image, **settings, seed=seed, frame_noise=noise)[0]

        def invert(latent: dict, steps: int, strength: float) -> dict:
            return self.pack.run("BIVDiffInvertImage", **inverting, latent=latent, steps=steps, strength=strength)[0]

        def smooth(latent: dict) -> dict:
            settings = {**plain, **sampling, "latent": latent, "steps": plan.smooth, "cfg": SMOOTH_CFG}
            return self.pack.run("BIVDiffTemporalSmoother", model=self.video, **settings)[0]

        def chain(latent: dict) -> dict:
            smoothed = smooth(invert(sample(latent, plan.draw, FRAME_CFG), plan.invert, STRENGTH))
            inverted = invert(smoothed, plan.structure_pass, STRUCTURE_PASS_STRENGTH)
            return sample(inverted, plan.structure_pass, SMOOTH_CFG)

        return self.run_step(lambda: self.decode(chain(self.empty_latent(len(clip.frames)))))


def init_worker() -> None:
    """Load the chain into this process."""
    global chain
    chain = CallsChain(start())


def run_job(job: dict) -> dict:
    """A row: the figures of a plan on a clip."""
    clip = toy_world.held_out_clip(job["kind"], job["clip"])
    video = chain.run_plan(clip, job["noise"], job["clip"], PLANS[job["plan"]])
    figures = {name: value and round(value, 5) for name, value in measure_figures(video.result, clip).items()}
    return figures | {"calls": video.calls}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = pandas.DataFrame(rows).astype(dict.fromkeys(FIGURES, float))
    table = table.set_index(["kind", "noise", "plan", "clip"]).sort_index()
    tuning, held_out = (table[table.index.isin(HELD_OUT_CLIPS, level="clip") == value] for value in (False, True))
    counts = [len(part.index.unique("clip")) for part in (tuning, held_out)]
    blocks = {"run": describe_run(rows, f"{counts[0]} clips of each kind, {counts[1]} judge.")}
    for kind, noise in product(toy_world.CLIP_KINDS, NOISES):
        blocks[f"{kind}, {noise}"] = plans_table(tuning.loc[kind, noise], list(PLANS))
    return blocks | {
        f"{kind}, judged": plans_table(held_out.loc[kind, NOISES[0]], list(HELD_OUT_PLANS))
        for kind in toy_world.CLIP_KINDS
    }


def plans_table(table: pandas.DataFrame, names: list[str]) -> str:
    """A line for each plan, with the differences from `REFERENCE` on the same clips, as Markdown."""
    reference, lines = table.loc[REFERENCE], []
    for plan in names:
        of_plan = table.loc[plan]
        line = {"plan": plan, "calls": f"{of_plan['calls'].mean():.0f}"}
        for figure in FIGURES:
            values = of_plan[figure]
            line[figure] = f"{values.mean():.3f}" if plan == REFERENCE else format_difference(values, reference[figure])
        lines.append(line)
    return markdown_table(lines)


def main() -> None:
    """Measure the missing runs and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8, help="how many held-out clips of each kind")
    clips = range(parser.parse_args().clips)
    names = ("clip", "kind", "noise", "plan")
    settings = [
        *product(clips, toy_world.CLIP_KINDS, NOISES, PLANS),
        *product(HELD_OUT_CLIPS, toy_world.CLIP_KINDS, NOISES[:1], HELD_OUT_PLANS),
    ]
    jobs = [dict(zip(names, job, strict=True)) for job in settings]
    write_page("research/pages/calls.md", render_tables(run_jobs("calls", jobs, run_job, init_worker)))


if __name__ == "__main__":
    main()

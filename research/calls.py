"""With how few model calls does the chain make the video that it makes with 50 steps of DDIM?

    python -m research.calls [--clips 8]

Held-out clips of the toy world through the whole chain with the structure pass, by every plan of
`PLANS`. Measures the runs that research/rows/calls.jsonl lacks, and fills the tables of research/pages/calls.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import product

import pandas

from research import toy_world
from research.demo_chain import FRAME_CFG, PASS_STRENGTH, SMOOTH_CFG, start
from research.frame_counter import Made, PricedChain
from research.page_tables import markdown, run_line, write
from research.rows_and_jobs import against, measure
from research.toy_metrics import figures_of

NOISES = ("independent", "shared")
STRENGTH = 1.0
FIGURES = ("shape flicker", "background flicker", "IoU", "caption", "sharpness")


@dataclass(frozen=True)
class Plan:
    """Steps of each stage, and how all of them go: scheduler, sampler, and the inversions' solver."""

    draw: int
    invert: int
    smooth: int
    structure_pass: int
    scheduler: str = "ddim_uniform"
    sampler: str = "ddim"
    solver: str = "ddim"


def even(steps: int, scheduler: str = "ddim_uniform", sampler: str = "ddim", solver: str = "ddim") -> Plan:
    """As many steps in every stage."""
    return Plan(steps, steps, steps, steps, scheduler, sampler, solver)


REFERENCE = "50"
PLANS = {str(steps): even(steps) for steps in (50, 25, 16, 12, 8)}
PLANS |= {
    f"{steps} {scheduler}, dpmpp_2m, uni_inv": even(steps, scheduler, "dpmpp_2m", "uni_inv")
    for steps, scheduler in ((12, "ddim_uniform"), *product((12, 8), ("simple", "karras")))
}
PLANS |= {f"{steps} ddim_uniform, ddim, uni_inv": even(steps, solver="uni_inv") for steps in (50, 25, 12)}
PLANS |= {f"12 {scheduler}, ddim, ddim": even(12, scheduler) for scheduler in ("simple", "karras")}
PLANS |= {"12 ddim_uniform, dpmpp_2m, ddim": even(12, sampler="dpmpp_2m")}
PLANS |= {
    f"25, {stage} 12": replace(even(25), **{stage: 12}) for stage in ("draw", "invert", "smooth", "structure_pass")
}
JUDGES, JUDGED = range(24, 48), (REFERENCE, "12", "12 ddim_uniform, ddim, uni_inv")
"""Clips that chose nothing, those of claims.py, and the plans that they judge."""


class Calls(PricedChain):
    """The chain by a plan."""

    def steadied(self, clip, noise: str, seed: int, plan: Plan) -> Made:
        """A clip drawn anew from its outlines and made steady, `[F, H, W, 3]`."""
        text = self.encode_text(clip.caption)
        controlled = dict(zip(("positive", "negative"), self.outlined(clip.frames, text), strict=True))
        plain = {"positive": text, "negative": self.empty}
        sampling = {"scheduler": plan.scheduler, "sampler_name": plan.sampler}
        inverting = {"scheduler": plan.scheduler, "solver": plan.solver, "conditioning": text, "model": self.image}

        def draw(latent: dict, steps: int, cfg: float) -> dict:
            given = {**controlled, **sampling, "latent_image": latent, "steps": steps, "cfg": cfg}
            return self.pack.run("BIVDiffFrameSampler", model=self.image, **given, seed=seed, frame_noise=noise)[0]

        def invert(latent: dict, steps: int, strength: float) -> dict:
            return self.pack.run("BIVDiffInvertImage", **inverting, latent=latent, steps=steps, strength=strength)[0]

        def smooth(latent: dict) -> dict:
            given = {**plain, **sampling, "latent": latent, "steps": plan.smooth, "cfg": SMOOTH_CFG}
            return self.pack.run("BIVDiffTemporalSmoother", model=self.video, **given)[0]

        def chain(latent: dict) -> dict:
            smoothed = smooth(invert(draw(latent, plan.draw, FRAME_CFG), plan.invert, STRENGTH))
            return draw(invert(smoothed, plan.structure_pass, PASS_STRENGTH), plan.structure_pass, SMOOTH_CFG)

        return self.step(lambda: self.decode(chain(self.nothing(len(clip.frames)))))


def begin() -> None:
    """Load the chain into this process."""
    global chain
    chain = Calls(start())


def work(job: dict) -> dict:
    """A row: figures of a plan on a job's clip."""
    clip = toy_world.held_out(job["kind"], job["clip"])
    video = chain.steadied(clip, job["noise"], job["clip"], PLANS[job["plan"]])
    figures = {name: value and round(value, 5) for name, value in figures_of(video.result, clip).items()}
    return figures | {"calls": video.calls}


def blocks(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    table = pandas.DataFrame(rows).astype(dict.fromkeys(FIGURES, float))
    table = table.set_index(["kind", "noise", "plan", "clip"]).sort_index()
    chose, judge = (table[table.index.isin(JUDGES, level="clip") == judging] for judging in (False, True))
    counts = [len(part.index.unique("clip")) for part in (chose, judge)]
    made = {"run": run_line(rows, f"{counts[0]} clips of each kind, {counts[1]} judge.")}
    for kind, noise in product(toy_world.KINDS, NOISES):
        made[f"{kind}, {noise}"] = plans(chose.loc[kind, noise], list(PLANS))
    return made | {f"{kind}, judged": plans(judge.loc[kind, NOISES[0]], list(JUDGED)) for kind in toy_world.KINDS}


def plans(table: pandas.DataFrame, names: list[str]) -> str:
    """A line for each plan, with its differences to `REFERENCE` clip by clip, as Markdown."""
    reference, lines = table.loc[REFERENCE], []
    for plan in names:
        of_plan = table.loc[plan]
        line = {"plan": plan, "calls": f"{of_plan['calls'].mean():.0f}"}
        for figure in FIGURES:
            values = of_plan[figure]
            line[figure] = f"{values.mean():.3f}" if plan == REFERENCE else against(values, reference[figure])
        lines.append(line)
    return markdown(lines)


def main() -> None:
    """Measure what is missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8, help="how many held-out clips of each kind")
    clips = range(parser.parse_args().clips)
    names = ("clip", "kind", "noise", "plan")
    settings = [*product(clips, toy_world.KINDS, NOISES, PLANS), *product(JUDGES, toy_world.KINDS, NOISES[:1], JUDGED)]
    jobs = [dict(zip(names, job, strict=True)) for job in settings]
    write("research/pages/calls.md", blocks(measure("calls", jobs, work, begin)))


if __name__ == "__main__":
    main()

"""The study: the effect of each control of BIVDiff on the demo models, and of every other method on the same clips.

    python -m research.study [--rounds 4]

Each round runs every case of `all_cases` on an easy and a hard clip of each motion: about an hour on one core. Measures
the clips that are missing in rows/study.jsonl, fills the tables of pages/study.md, and plots pages/study.png.
Delete the rows after a change of the models or the nodes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product

import pandas

from research import toy_world
from research.page_tables import confidence_interval, describe_run, format_change, format_mean, markdown_table
from research.rows_and_jobs import ROOT, run_study
from research.study_cases import (
    BRIDGES,
    CAPTION_CASES,
    CASE_TABLES,
    DEFAULT_CASE,
    DIFFERENCES,
    GRIDS,
    MOTION_CASES,
    MOTIONS,
    RATIOS,
    SHARED_NOISE_CASE,
    STRENGTHS,
    TASKS,
    NamedCases,
    StudyCase,
    all_cases,
    cheap_cases,
    source_case,
)
from research.study_chain import StudyChain, generate_clips, omits_colour
from research.toy_metrics import has_collapsed


def make_jobs(rounds: int) -> list[dict]:
    """An easy and a hard clip of each motion per round."""
    pairs = product(enumerate(list(MOTIONS) * rounds), toy_world.CLIP_KINDS)
    return [{"clip": number, "kind": kind, "motion": motion} for (number, motion), kind in pairs]


def measure(chain: StudyChain, job: dict) -> dict:
    """A row: the figures of every case on a clip."""
    clip = next(islice(generate_clips(), job["clip"], None))
    if job["kind"] == "hard":
        clip = toy_world.make_hard_clip(clip)
    chain.start_scene(clip, job["clip"])
    return {"silent": omits_colour(clip), "cases": {str(case): chain.run(case) for case in all_cases()}}


class Results:
    """Measured figures: the values of a case, one per clip, in the same order for every case."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def values(self, case: StudyCase, figure: str, motion: str | None = None) -> pandas.Series:
        """One figure of a case over the clips, or the clips of one motion; NaN if a clip has no value."""
        rows = [row["cases"] for row in self.rows if motion in (None, row["motion"])]
        found = [cases[str(case)] for cases in rows]
        if figure == "flicker":
            return pandas.Series([(one["shape flicker"] + one["background flicker"]) / 2 for one in found])
        if figure in ("sharpness", "collapsed"):
            source = str(source_case(case.task))
            sharp = [one["sharpness"] / cases[source]["sharpness"] for one, cases in zip(found, rows, strict=True)]
            if figure == "sharpness":
                return pandas.Series(sharp)
            relative = [one | {"sharpness": value} for one, value in zip(found, sharp, strict=True)]
            return pandas.Series([has_collapsed(one) for one in relative])
        return pandas.Series([one[figure] for one in found], dtype=float)

    def mean(self, case: StudyCase, figure: str, motion: str | None = None) -> float:
        """A figure's mean over the clips."""
        return self.values(case, figure, motion).mean()

    def difference(self, case: StudyCase, other: StudyCase, figure: str) -> str:
        """The mean difference of a figure from another case on the same clips, as text; bold if significant."""
        difference = self.values(case, figure) - self.values(other, figure)
        low, high = confidence_interval(difference)
        return f"**{format_change(difference)}**" if low > 0 or high < 0 else format_change(difference)

    def both(self, case: StudyCase, motion: str | None = None) -> str:
        """Mean flicker and overlap, as text."""
        return f"{self.mean(case, 'flicker', motion):.3f} / {self.mean(case, 'IoU', motion):.3f}"


def cases_table(results: Results, named: NamedCases) -> str:
    """A line for each case with all figures."""
    return markdown_table(
        [
            {
                "": name,
                "flicker": format_mean(results.values(case, "flicker")),
                "IoU": format_mean(results.values(case, "IoU")),
                "colours": f"{results.mean(case, 'caption'):.2f}",
                "sharpness": f"{results.mean(case, 'sharpness'):.2f}",
                "collapsed": f"{results.mean(case, 'collapsed'):.0%}",
                "calls": f"{results.mean(case, 'calls'):.0f}",
            }
            for name, case in named.items()
        ]
    )


def grid_table(results: Results, cases: dict[object, dict[object, StudyCase]]) -> str:
    """Mean flicker and overlap of cases, by row and column."""
    return markdown_table(
        [{"": row} | {column: results.both(case) for column, case in of_row.items()} for row, of_row in cases.items()]
    )


def differences_table(results: Results, pairs: dict[str, tuple[StudyCase, StudyCase]]) -> str:
    """Differences on the same clips; bold if significantly different from 0."""
    return markdown_table(
        [
            {"": name} | {figure: results.difference(case, other, figure) for figure in ("flicker", "IoU")}
            for name, (case, other) in pairs.items()
        ]
    )


def motions_table(results: Results) -> str:
    """The effect of each ratio on each motion, and the unsmoothed frames."""
    return markdown_table(
        [{"": name} | {motion: results.both(case, motion) for motion in MOTIONS} for name, case in MOTION_CASES.items()]
    )


def captions_table(results: Results) -> str:
    """Clips with complete captions compared with clips whose captions omit a colour."""
    parts = {
        "says everything": Results([row for row in results.rows if not row["silent"]]),
        "leaves a colour out": Results([row for row in results.rows if row["silent"]]),
    }
    return markdown_table(
        [{"": name} | {kind: part.both(case) for kind, part in parts.items()} for name, case in CAPTION_CASES.items()]
    )


def make_tables(results: Results) -> dict[str, str]:
    """All tables of a kind of clips, by name."""
    return {
        **{name: cases_table(results, named) for name, named in CASE_TABLES.items()},
        **{name: grid_table(results, cases) for name, cases in GRIDS.items()},
        **{name: differences_table(results, pairs) for name, pairs in DIFFERENCES.items()},
        "captions": captions_table(results),
        "motions": motions_table(results),
    }


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    blocks = {"run": describe_run(rows, f"{len(rows) // len(toy_world.CLIP_KINDS)} clips of each kind.")}
    for kind in toy_world.CLIP_KINDS:
        found = make_tables(Results([row for row in rows if row["kind"] == kind]))
        blocks |= {f"{kind}, {name}": text for name, text in found.items()}
    return blocks


def plot(rows: list[dict]) -> None:
    """Plot research/pages/study.png: the ratio per task, motion and strength, and every method, on the hard clips."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = Results([row for row in rows if row["kind"] == "hard"])
    figure = Figure(figsize=(13, 10), layout="constrained")
    FigureCanvasAgg(figure)
    by_task, by_motion, by_strength, every = figure.subplots(2, 2).flatten()

    def line(axes, cases: list[StudyCase], label: str, motion: str | None = None) -> None:
        points = [(results.mean(case, "IoU", motion), results.mean(case, "flicker", motion)) for case in cases]
        axes.plot(*zip(*points, strict=True), "o-", label=label)
        axes.annotate("0", points[0], textcoords="offset points", xytext=(4, 4), fontsize=8)
        axes.annotate("1", points[-1], textcoords="offset points", xytext=(4, 4), fontsize=8)

    for task in TASKS:
        line(by_task, [replace(DEFAULT_CASE, task=task, ratio=r) for r in RATIOS], task)
    by_task.set_title("Mixing ratio 0 to 1, per task")
    for motion in MOTIONS:
        line(by_motion, [replace(DEFAULT_CASE, ratio=r) for r in RATIOS], motion, motion)
    by_motion.set_title("Mixing ratio 0 to 1, per motion (controlnet)")
    for strength in STRENGTHS:
        line(by_strength, [replace(DEFAULT_CASE, ratio=r, strength=strength) for r in RATIOS], f"strength {strength:g}")
    by_strength.set_title("Mixing ratio 0 to 1, per strength (controlnet)")
    named = cheap_cases("controlnet") | {
        "BIVDiff 0.75": DEFAULT_CASE,
        "BIVDiff 1, strength 0.5": replace(DEFAULT_CASE, ratio=1.0, strength=0.5),
        "BIVDiff 0.5, strength 0.5, shared noise": SHARED_NOISE_CASE,
    }
    named |= {f"{bridge} 0.5": replace(DEFAULT_CASE, method=bridge, ratio=0.5, strength=1.0) for bridge in BRIDGES}
    for name, case in named.items():
        marker = "x" if results.mean(case, "sharpness") < 0.85 else "s" if case.method in BRIDGES else "o"
        every.plot(results.mean(case, "IoU"), results.mean(case, "flicker"), marker, label=name)
    every.set_title("Every way (controlnet); crosses are blurred")
    for axes in (by_task, by_motion, by_strength, every):
        axes.set_xlabel("IoU: shapes kept (right is better)")
        axes.set_ylabel("flicker (down is better)")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    figure.savefig(ROOT / "research" / "pages" / "study.png", dpi=80)


if __name__ == "__main__":
    plot(run_study("study", make_jobs, StudyChain, measure, render_tables, rounds=4))

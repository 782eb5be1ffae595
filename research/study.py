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
    DEFAULT_CASE,
    MODES,
    MOTIONS,
    PAIRS,
    RATIOS,
    SHARED_NOISE_CASE,
    SHARES,
    SOLVERS,
    STEPS,
    STRENGTHS,
    TASKS,
    WITH_STRUCTURE_PASS,
    StudyCase,
    all_cases,
    no_video_case,
    noise_kinds,
)
from research.study_chain import StudyChain, generate_scenes, make_hard_scene
from research.toy_metrics import has_collapsed

FRAME_WISE = no_video_case("controlnet", "frame-wise")
SHARED_FRAMES = no_video_case("controlnet", "frame-wise", "shared")
NamedCases = list[tuple[str, StudyCase]]


def make_jobs(rounds: int) -> list[dict]:
    """An easy and a hard clip of each motion per round."""
    pairs = product(enumerate(list(MOTIONS) * rounds), toy_world.CLIP_KINDS)
    return [{"clip": number, "kind": kind, "motion": motion} for (number, motion), kind in pairs]


def measure(chain: StudyChain, job: dict) -> dict:
    """A row: the figures of every case on a clip."""
    scene = next(islice(generate_scenes(job["clip"] // len(MOTIONS) + 1), job["clip"], None))
    chain.start_scene(make_hard_scene(scene) if job["kind"] == "hard" else scene, job["clip"])
    return {"silent": scene.silent, "cases": {str(case): chain.run(case) for case in all_cases()}}


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
            return pandas.Series([has_collapsed([one]) for one in relative])
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


def source_case(task: str) -> StudyCase:
    """The clip that a task's video should match, through the autoencoder."""
    return no_video_case("controlnet" if task in ("controlnet", "own_frames") else "prompt2prompt", "source")


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
            for name, case in named
        ]
    )


def grid_table(results: Results, cases: dict[object, dict[object, StudyCase]]) -> str:
    """Mean flicker and overlap of cases, by row and column."""
    return markdown_table(
        [{"": row} | {column: results.both(case) for column, case in of_row.items()} for row, of_row in cases.items()]
    )


def differences_table(results: Results, pairs: list[tuple[str, StudyCase, StudyCase]]) -> str:
    """Differences on the same clips; bold if significantly different from 0."""
    return markdown_table(
        [
            {"": name} | {figure: results.difference(case, other, figure) for figure in ("flicker", "IoU")}
            for name, case, other in pairs
        ]
    )


def cheap_cases(task: str) -> NamedCases:
    """The methods without a video model, and video to video."""
    named = []
    for noise, method in product(noise_kinds(task), ("frame-wise", "average of 3")):
        suffix = ", shared noise" if noise == "shared" else ""
        named.append((f"{method}{suffix}", no_video_case(task, method, noise)))
    video = replace(DEFAULT_CASE, task=task, method="video to video")
    return named + [(f"video to video, denoise {s:g}", replace(video, strength=s)) for s in (0.5, 0.75)]


def task_cases(task: str) -> NamedCases:
    """The clip itself, the cheap methods, and BIVDiff at every ratio."""
    named = [("the clip itself, through the autoencoder", source_case(task)), *cheap_cases(task)]
    if task in TASKS[1:3]:
        named.append(("tuned per clip", replace(DEFAULT_CASE, task=task, method="tuned per clip", strength=1.0)))
    return named + [(f"BIVDiff {ratio:g}", replace(DEFAULT_CASE, task=task, ratio=ratio)) for ratio in RATIOS]


def shared_noise_cases() -> NamedCases:
    """Frames from shared noise, smoothed or not."""
    named = [("frame-wise", FRAME_WISE), ("frame-wise, shared noise", SHARED_FRAMES)]
    named.append(("average of 3, shared noise", no_video_case("controlnet", "average of 3", "shared")))
    for strength, ratio in product((0.5, 0.75), RATIOS):
        case = replace(DEFAULT_CASE, noise="shared", ratio=ratio, strength=strength)
        named.append((f"BIVDiff {ratio:g}, strength {strength:g}, shared noise", case))
    return named


def bridge_cases() -> NamedCases:
    """The models one after the other, and both in one sampling run."""
    both = replace(DEFAULT_CASE, strength=1.0)
    named = [("frame-wise", FRAME_WISE)]
    named += [(f"one after the other (BIVDiff), ratio {r:g}", replace(DEFAULT_CASE, ratio=r)) for r in (*SHARES, 1.0)]
    for bridge, share in product(BRIDGES, SHARES):
        named.append((f"{bridge}, share {share:g}", replace(both, method=bridge, ratio=share)))
    for bridge in BRIDGES:
        case = replace(both, method=bridge, ratio=0.5, noise="shared")
        named.append((f"{bridge}, shared noise, share 0.5", case))
    return named


def motions_table(results: Results) -> str:
    """The effect of each ratio on each motion, and the unsmoothed frames."""
    named = [
        ("frame-wise", FRAME_WISE),
        ("frame-wise, shared noise", SHARED_FRAMES),
        ("BIVDiff 0.5, strength 0.5, shared noise", SHARED_NOISE_CASE),
        *((f"BIVDiff {ratio:g}", replace(DEFAULT_CASE, ratio=ratio)) for ratio in RATIOS),
    ]
    return markdown_table(
        [{"": name} | {motion: results.both(case, motion) for motion in MOTIONS} for name, case in named]
    )


def captions_table(results: Results) -> str:
    """Clips with complete captions compared with clips whose captions omit a colour."""
    parts = {
        "says everything": Results([row for row in results.rows if not row["silent"]]),
        "leaves a colour out": Results([row for row in results.rows if row["silent"]]),
    }
    named = [("frame-wise", FRAME_WISE), ("frame-wise, shared noise", SHARED_FRAMES)]
    for strength, ratio in product((0.5, 0.75, 1.0), (0.5, 0.75, 1.0)):
        case = replace(DEFAULT_CASE, ratio=ratio, strength=strength)
        named.append((f"BIVDiff {ratio:g}, strength {strength:g}", case))
    return markdown_table(
        [{"": name} | {kind: part.both(case) for kind, part in parts.items()} for name, case in named]
    )


def make_tables(results: Results) -> dict[str, str]:
    """All tables of a kind of clips, by name."""
    blocks = {task: cases_table(results, task_cases(task)) for task in TASKS}
    schedules = {}
    for ratio in RATIOS:
        case = replace(DEFAULT_CASE, ratio=ratio)
        schedules[ratio] = {
            f"{pair}, strength {strength:g}": replace(case, strength=strength, pair=pair)
            for strength, pair in product((0.75, 1.0), PAIRS)
        }
    blocks["other schedule"] = grid_table(results, schedules)
    for name, method in {
        "strength": DEFAULT_CASE.method,
        "strength, structure pass": WITH_STRUCTURE_PASS,
    }.items():
        case = replace(DEFAULT_CASE, method=method)
        blocks[name] = grid_table(
            results, {r: {s: replace(case, ratio=r, strength=s) for s in STRENGTHS} for r in RATIOS}
        )
    blocks["shared noise"] = cases_table(results, shared_noise_cases())
    blends = [replace(DEFAULT_CASE, ratio=r, strength=s) for s, r in product((0.75, 1.0), SHARES)]
    blocks["modes"] = differences_table(
        results,
        [
            (f"{mode}, ratio {case.ratio:g}, strength {case.strength:g}", replace(case, mode=mode), case)
            for mode, case in product(MODES[1:], blends)
        ],
    )
    inverted = {
        f"{steps} steps, strength {strength:g}": replace(DEFAULT_CASE, steps=steps, strength=strength)
        for strength, steps in product((0.75, 1.0), STEPS)
    }
    blocks["steps"] = grid_table(
        results,
        {solver: {name: replace(case, solver=solver) for name, case in inverted.items()} for solver in SOLVERS},
    )
    blocks["solvers"] = differences_table(
        results,
        [
            (f"{solver}, {name}", replace(case, solver=solver), case)
            for (name, case), solver in product(inverted.items(), SOLVERS[1:])
        ],
    )
    blocks["captions"] = captions_table(results)
    blocks["motions"] = motions_table(results)
    blocks["bridges"] = cases_table(results, bridge_cases())
    return blocks


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
    named = [*cheap_cases("controlnet"), ("BIVDiff 0.75", DEFAULT_CASE)]
    named.append(("BIVDiff 1, strength 0.5", replace(DEFAULT_CASE, ratio=1.0, strength=0.5)))
    named.append(("BIVDiff 0.5, strength 0.5, shared noise", SHARED_NOISE_CASE))
    named += [(f"{bridge} 0.5", replace(DEFAULT_CASE, method=bridge, ratio=0.5, strength=1.0)) for bridge in BRIDGES]
    for name, case in named:
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

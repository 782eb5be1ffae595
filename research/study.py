"""The study: the effect of each control of BIVDiff on the demo models, and of every other method on the same clips.

    python -m research.study [--rounds 4]

Each round runs every case of `all_cases` on an easy and a hard clip of each motion: about an hour on one core. Measures
the clips that are missing in rows/study.jsonl, fills the tables of pages/study.md, and plots pages/study.png.
Delete the rows after a change of the models or the nodes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice, product

import pandas

from research import toy_world
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import ROOT, confidence_interval, run_jobs
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
Named = list[tuple[str, StudyCase]]


def init_worker() -> None:
    """Load the models into this process."""
    global study
    study = StudyChain()


def run_job(job: dict) -> dict:
    """A row: the figures of every case on a clip."""
    scene = next(islice(generate_scenes(job["clip"] // len(MOTIONS) + 1), job["clip"], None))
    study.start_scene(make_hard_scene(scene) if job["kind"] == "hard" else scene, job["clip"])
    found = {str(case): study.run(case) for case in all_cases()}
    cases = {
        name: {key: value and round(value, 4) for key, value in figures.items()} for name, figures in found.items()
    }
    return {"silent": scene.silent, "cases": cases}


class Results:
    """Measured figures: the values of a case, one per clip, in the same order for every case."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def values(self, case: StudyCase, figure: str, motion: str | None = None) -> pandas.Series:
        """One figure of a case over the clips, or the clips of one motion; NaN if a clip has no value."""
        rows = [row["cases"] for row in self.rows if motion in (None, row["motion"])]
        found = [cases[str(case)] for cases in rows]
        like = no_video_case("controlnet" if case.task in ("controlnet", "own_frames") else "prompt2prompt", "source")
        reference = [cases[str(like)]["sharpness"] for cases in rows]
        sharp = [one["sharpness"] / true for one, true in zip(found, reference, strict=True)]
        if figure == "flicker":
            return pandas.Series([(one["shape flicker"] + one["background flicker"]) / 2 for one in found])
        if figure == "sharpness":
            return pandas.Series(sharp)
        if figure == "collapsed":
            return pandas.Series([has_collapsed([one | {"sharpness": s}]) for one, s in zip(found, sharp, strict=True)])
        return pandas.Series([one[figure] for one in found], dtype=float)

    def mean(self, case: StudyCase, figure: str, motion: str | None = None) -> float:
        """A figure's mean over the clips."""
        return self.values(case, figure, motion).mean()

    def spread(self, case: StudyCase, figure: str) -> str:
        """A figure's mean with its 95% interval, as text."""
        low, high = confidence_interval(self.values(case, figure))
        return f"{self.mean(case, figure):.3f} ({low:.3f} to {high:.3f})"

    def gain(self, case: StudyCase, other: StudyCase, figure: str) -> str:
        """The mean difference of a figure from another case on the same clips, with its 95% interval, as text."""
        difference = self.values(case, figure) - self.values(other, figure)
        low, high = confidence_interval(difference)
        text = f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        return f"**{text}**" if low > 0 or high < 0 else text

    def both(self, case: StudyCase, motion: str | None = None) -> str:
        """Mean flicker and overlap, as text."""
        return f"{self.mean(case, 'flicker', motion):.3f} / {self.mean(case, 'IoU', motion):.3f}"


def cases_table(results: Results, named: Named) -> str:
    """A line for each case with all figures."""
    return markdown_table(
        [
            {
                "": name,
                "flicker": results.spread(case, "flicker"),
                "IoU": results.spread(case, "IoU"),
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


def differences_table(results: Results, named: list[tuple[str, StudyCase, StudyCase]]) -> str:
    """Differences on the same clips; bold if significantly different from 0."""
    return markdown_table(
        [
            {"": name} | {figure: results.gain(case, other, figure) for figure in ("flicker", "IoU")}
            for name, case, other in named
        ]
    )


def cheap_ways(task: str) -> Named:
    """The methods without a video model, and video to video."""
    named = []
    for noise, way in product(noise_kinds(task), ("frame-wise", "average of 3")):
        named.append((f"{way}, shared noise" if noise == "shared" else way, no_video_case(task, way, noise)))
    video = replace(DEFAULT_CASE, task=task, method="video to video")
    return named + [(f"video to video, denoise {s:g}", replace(video, strength=s)) for s in (0.5, 0.75)]


def ways(task: str) -> Named:
    """The clip itself, the cheap methods, BIVDiff at every ratio."""
    like = "controlnet" if task in ("controlnet", "own_frames") else "prompt2prompt"
    named = [("the clip itself, through the autoencoder", no_video_case(like, "source")), *cheap_ways(task)]
    if task in TASKS[1:3]:
        named.append(("tuned per clip", replace(DEFAULT_CASE, task=task, method="tuned per clip", strength=1.0)))
    return named + [(f"BIVDiff {ratio:g}", replace(DEFAULT_CASE, task=task, ratio=ratio)) for ratio in RATIOS]


def shared_ways() -> Named:
    """Frames from shared noise, smoothed or not."""
    named = [("frame-wise", FRAME_WISE)]
    named += [
        (f"{way}, shared noise", no_video_case("controlnet", way, "shared")) for way in ("frame-wise", "average of 3")
    ]
    for strength, ratio in product((0.5, 0.75), RATIOS):
        case = replace(DEFAULT_CASE, noise="shared", ratio=ratio, strength=strength)
        named.append((f"BIVDiff {ratio:g}, strength {strength:g}, shared noise", case))
    return named


def bridge_ways() -> Named:
    """The models one after the other, and both in one sampling run."""
    named = [("frame-wise", FRAME_WISE)]
    named += [(f"one after the other (BIVDiff), ratio {r:g}", replace(DEFAULT_CASE, ratio=r)) for r in (*SHARES, 1.0)]
    both = replace(DEFAULT_CASE, strength=1.0)
    named += [
        (f"{bridge}, share {share:g}", replace(both, method=bridge, ratio=share))
        for bridge, share in product(BRIDGES, SHARES)
    ]
    return named + [
        (f"{bridge}, shared noise, share 0.5", replace(both, method=bridge, ratio=0.5, noise="shared"))
        for bridge in BRIDGES
    ]


def motions_table(results: Results) -> str:
    """The effect of each ratio on each motion, and the unsmoothed frames."""
    named = [
        ("frame-wise", FRAME_WISE),
        ("frame-wise, shared noise", no_video_case("controlnet", "frame-wise", "shared")),
    ]
    named += [("BIVDiff 0.5, strength 0.5, shared noise", SHARED_NOISE_CASE)]
    named += [(f"BIVDiff {ratio:g}", replace(DEFAULT_CASE, ratio=ratio)) for ratio in RATIOS]
    return markdown_table(
        [{"": name} | {motion: results.both(case, motion) for motion in MOTIONS} for name, case in named]
    )


def captions_table(results: Results) -> str:
    """Clips with complete captions compared with clips whose captions omit a colour."""
    parts = {
        "says everything": Results([row for row in results.rows if not row["silent"]]),
        "leaves a colour out": Results([row for row in results.rows if row["silent"]]),
    }
    named = [
        ("frame-wise", FRAME_WISE),
        ("frame-wise, shared noise", no_video_case("controlnet", "frame-wise", "shared")),
    ]
    named += [
        (f"BIVDiff {ratio:g}, strength {strength:g}", replace(DEFAULT_CASE, ratio=ratio, strength=strength))
        for strength, ratio in product((0.5, 0.75, 1.0), (0.5, 0.75, 1.0))
    ]
    return markdown_table(
        [{"": name} | {kind: part.both(case) for kind, part in parts.items()} for name, case in named]
    )


def tables(results: Results) -> dict[str, str]:
    """All tables of a kind of clips, by name."""
    blocks = {task: cases_table(results, ways(task)) for task in TASKS}
    blocks["other schedule"] = grid_table(
        results,
        {
            r: {
                f"{pair}, strength {s:g}": replace(DEFAULT_CASE, ratio=r, strength=s, pair=pair)
                for s, pair in product((0.75, 1.0), PAIRS)
            }
            for r in RATIOS
        },
    )
    for name, middle in {
        "strength": DEFAULT_CASE,
        "strength, structure pass": replace(DEFAULT_CASE, method=WITH_STRUCTURE_PASS),
    }.items():
        blocks[name] = grid_table(
            results, {r: {s: replace(middle, ratio=r, strength=s) for s in STRENGTHS} for r in RATIOS}
        )
    blocks["shared noise"] = cases_table(results, shared_ways())
    blends = [replace(DEFAULT_CASE, ratio=r, strength=s) for s, r in product((0.75, 1.0), SHARES)]
    blocks["modes"] = differences_table(
        results,
        [
            (f"{mode}, ratio {case.ratio:g}, strength {case.strength:g}", replace(case, mode=mode), case)
            for mode, case in product(MODES[1:], blends)
        ],
    )
    inverted = [replace(DEFAULT_CASE, steps=n, strength=s) for s, n in product((0.75, 1.0), STEPS)]
    blocks["steps"] = grid_table(
        results,
        {
            solver: {
                f"{case.steps} steps, strength {case.strength:g}": replace(case, solver=solver) for case in inverted
            }
            for solver in SOLVERS
        },
    )
    blocks["solvers"] = differences_table(
        results,
        [
            (f"{solver}, {case.steps} steps, strength {case.strength:g}", replace(case, solver=solver), case)
            for case, solver in product(inverted, SOLVERS[1:])
        ],
    )
    blocks["captions"] = captions_table(results)
    blocks["motions"] = motions_table(results)
    blocks["bridges"] = cases_table(results, bridge_ways())
    return blocks


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    blocks = {"run": describe_run(rows, f"{len(rows) // len(toy_world.CLIP_KINDS)} clips of each kind.")}
    for kind in toy_world.CLIP_KINDS:
        found = tables(Results([row for row in rows if row["kind"] == kind]))
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
    named = [*cheap_ways("controlnet"), ("BIVDiff 0.75", DEFAULT_CASE)]
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


def main() -> None:
    """Measure the missing runs and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="number of clips of each motion and kind")
    motions = list(MOTIONS) * parser.parse_args().rounds
    pairs = product(enumerate(motions), toy_world.CLIP_KINDS)
    jobs = [{"clip": number, "kind": kind, "motion": motion} for (number, motion), kind in pairs]
    rows = run_jobs("study", jobs, run_job, init_worker)
    write_page("research/pages/study.md", render_tables(rows))
    plot(rows)


if __name__ == "__main__":
    main()

"""The study's page: docs/study.md and its plots, from the rows that `study.measured` gives."""

from __future__ import annotations

import datetime
from dataclasses import asdict, replace
from itertools import product

import torch
from _intervals import interval
from study import (
    BRIDGES,
    MODES,
    MOTIONS,
    PAIRS,
    RATIOS,
    ROOT,
    SHARES,
    SOLVERS,
    STEPS,
    STRENGTHS,
    TASKS,
    TUNING_BATCH,
    TUNING_STEPS,
    Case,
    noises,
    plain,
)
from torch import Tensor

from tools.chain import FRAME_CFG, SMOOTH_CFG, device
from tools.measure import LEAST_COLOURS, LEAST_IOU, SHARPNESS, is_bad

MIDDLE = Case()
SHARED = replace(MIDDLE, noise="shared", ratio=0.5, strength=0.5)


class Results:
    """What was measured, by case; every value is of one clip, in the same order for every case."""

    def __init__(self, rows: list[dict]) -> None:
        self.by_case: dict[Case, list[dict]] = {}
        for row in rows:
            self.by_case.setdefault(Case(**{name: row[name] for name in asdict(MIDDLE)}), []).append(row)
        self.clips = len(self.by_case[MIDDLE])

    def values(self, case: Case, figure: str, motion: str | None = None) -> Tensor:
        """One figure of a case over the clips, `[N]`; NaN where a clip has none."""
        rows = [row for row in self.by_case[case] if motion in (None, row["motion"])]
        if figure == "flicker":
            found = [(row["shape flicker"] + row["background flicker"]) / 2 for row in rows]
        elif figure == "sharpness":
            like = "controlnet" if case.task in ("controlnet", "own_frames") else "prompt2prompt"
            true = self.by_case[plain(like, "source")]
            true = [row["sharpness"] for row in true if motion in (None, row["motion"])]
            found = [row["sharpness"] / whole for row, whole in zip(rows, true, strict=True)]
        elif figure == "collapsed":
            sharp = self.values(case, "sharpness", motion).tolist()
            found = [float(is_bad([row | {"sharpness": s}])) for row, s in zip(rows, sharp, strict=True)]
        else:
            found = [float("nan") if row[figure] is None else float(row[figure]) for row in rows]
        return torch.tensor(found)

    def mean(self, case: Case, figure: str, motion: str | None = None) -> float:
        """A figure's mean over the clips."""
        return self.values(case, figure, motion).nanmean().item()

    def spread(self, case: Case, figure: str) -> str:
        """A figure's mean with its 95% interval, as text."""
        low, high = interval(self.values(case, figure))
        return f"{self.mean(case, figure):.3f} ({low:.3f} to {high:.3f})"

    def gain(self, case: Case, other: Case, figure: str) -> str:
        """How much more of a figure a case has than another on the same clips, with its 95% interval, as text."""
        difference = self.values(case, figure) - self.values(other, figure)
        low, high = interval(difference)
        text = f"{difference.nanmean():+.3f} ({low:+.3f} to {high:+.3f})"
        return f"**{text}**" if low > 0 or high < 0 else text


def table(head: list[str], lines: list[list[str]]) -> str:
    """A markdown table whose first column is text."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def case_table(results: Results, named: list[tuple[str, Case]]) -> str:
    """A row for each case with everything that is measured."""
    lines = []
    for name, case in named:
        lines.append(
            [
                name,
                results.spread(case, "flicker"),
                results.spread(case, "IoU"),
                f"{results.mean(case, 'caption'):.2f}",
                f"{results.mean(case, 'sharpness'):.2f}",
                f"{results.mean(case, 'collapsed'):.0%}",
                f"{results.mean(case, 'frames'):.0f}",
            ]
        )
    return table(["", "flicker", "IoU", "colours", "sharpness", "collapsed", "frames through a UNet"], lines)


def cheap_rows(task: str) -> list[tuple[str, Case]]:
    """The ways that need no video model, and the plain way to use one."""
    rows = []
    for noise in noises(task):
        shared = ", shared noise" if noise == "shared" else ""
        rows += [(f"frame-wise{shared}", plain(task, "frame-wise", noise))]
        rows += [(f"average of 3{shared}", plain(task, "average of 3", noise))]
    video = replace(MIDDLE, task=task, method="video to video")
    return rows + [(f"video to video, denoise {s:g}", replace(video, strength=s)) for s in (0.5, 0.75)]


def task_rows(task: str) -> list[tuple[str, Case]]:
    """A task's table: the clip itself, the cheap ways, BIVDiff at every ratio."""
    like = "controlnet" if task in ("controlnet", "own_frames") else "prompt2prompt"
    rows = [("the clip itself, through the autoencoder", plain(like, "source")), *cheap_rows(task)]
    if task in TASKS[1:3]:
        rows.append(("tuned per clip", replace(MIDDLE, task=task, method="tuned per clip", strength=1.0)))
    return rows + [(f"BIVDiff {r:g}", replace(MIDDLE, task=task, ratio=r)) for r in RATIOS]


def grid(results: Results, rows: list, columns: list, case, figures: tuple[str, ...] = ("flicker", "IoU")) -> str:
    """A table whose cells are a case's means, `case(row, column)`."""
    lines = []
    for row in rows:
        cells = [" / ".join(f"{results.mean(case(row, column), f):.3f}" for f in figures) for column in columns]
        lines.append([str(row), *cells])
    return table(["", *map(str, columns)], lines)


def gains(results: Results, named: list[tuple[str, Case, Case]]) -> str:
    """A table of differences on the same clips; those whose interval leaves out 0 stand out."""
    lines = [[name, results.gain(a, b, "flicker"), results.gain(a, b, "IoU")] for name, a, b in named]
    return table(["", "flicker", "IoU"], lines)


def motion_table(results: Results) -> str:
    """What each ratio does to each motion, against the frames as drawn."""
    lines = []
    named = [("frame-wise", plain("controlnet", "frame-wise"))]
    named += [("frame-wise, shared noise", plain("controlnet", "frame-wise", "shared"))]
    named += [("BIVDiff 0.5, strength 0.5, shared noise", SHARED)]
    named += [(f"BIVDiff {r:g}", replace(MIDDLE, ratio=r)) for r in RATIOS]
    for name, case in named:
        cells = [
            f"{results.mean(case, 'flicker', motion):.3f} / {results.mean(case, 'IoU', motion):.2f}"
            for motion in MOTIONS
        ]
        lines.append([name, *cells])
    return table(["", *MOTIONS], lines)


def caption_table(results: Results) -> str:
    """The rounds whose captions say everything beside those whose captions leave a colour out."""
    silent = torch.arange(results.clips) // len(MOTIONS) % 2 == 1
    named = [("frame-wise", plain("controlnet", "frame-wise"))]
    named += [("frame-wise, shared noise", plain("controlnet", "frame-wise", "shared"))]
    named += [
        (f"BIVDiff {r:g}, strength {s:g}", replace(MIDDLE, ratio=r, strength=s))
        for s, r in product((0.5, 0.75, 1.0), (0.5, 0.75, 1.0))
    ]
    lines = []
    for name, case in named:
        flicker, iou = results.values(case, "flicker"), results.values(case, "IoU")
        lines.append([name, *(f"{flicker[part].mean():.3f} / {iou[part].mean():.3f}" for part in (~silent, silent))])
    return table(["", "says everything", "leaves a colour out"], lines)


def bridge_rows() -> list[tuple[str, Case]]:
    """One after the other, against both at once."""
    rows = [("frame-wise", plain("controlnet", "frame-wise"))]
    rows += [(f"one after the other (BIVDiff), ratio {r:g}", replace(MIDDLE, ratio=r)) for r in (*SHARES, 1.0)]
    for bridge, share in product(BRIDGES, SHARES):
        rows.append((f"{bridge}, share {share:g}", replace(MIDDLE, method=bridge, ratio=share, strength=1.0)))
    for bridge in BRIDGES:
        case = replace(MIDDLE, method=bridge, ratio=0.5, noise="shared", strength=1.0)
        rows.append((f"{bridge}, shared noise, share 0.5", case))
    return rows


def shared_rows() -> list[tuple[str, Case]]:
    """Frames from shared noise, smoothed or not."""
    rows = [("frame-wise", plain("controlnet", "frame-wise"))]
    rows += [(way, plain("controlnet", way, "shared")) for way in ("frame-wise", "average of 3")]
    rows = [rows[0], *((f"{name}, shared noise", case) for name, case in rows[1:])]
    for strength, ratio in product((0.5, 0.75), RATIOS):
        case = replace(MIDDLE, noise="shared", ratio=ratio, strength=strength)
        rows.append((f"BIVDiff {ratio:g}, strength {strength:g}, shared noise", case))
    return rows


def price_table(results: Results) -> str:
    """Seconds of a few ways."""
    edit = replace(MIDDLE, task="instruct_pix2pix")
    named = [
        ("ControlNet, frame-wise", plain("controlnet", "frame-wise")),
        ("ControlNet, BIVDiff 1", replace(MIDDLE, ratio=1.0)),
        ("ControlNet, BIVDiff 0.75", MIDDLE),
        ("ControlNet, parallel", replace(MIDDLE, method="parallel", ratio=0.5, strength=1.0)),
        ("InstructPix2Pix, BIVDiff 0.75", edit),
        ("InstructPix2Pix, tuned per clip", replace(edit, method="tuned per clip", strength=1.0)),
    ]
    return table(["", "seconds"], [[name, f"{results.values(c, 'seconds').median():.1f}"] for name, c in named])


def plot(results: Results) -> None:
    """docs/study.png: what the ratio does per task, motion and strength, and every way in one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10), layout="constrained")
    FigureCanvasAgg(figure)
    by_task, by_motion, by_strength, ways = figure.subplots(2, 2).flatten()

    def line(axes, cases: list[Case], label: str, motion: str | None = None) -> None:
        points = [(results.mean(case, "IoU", motion), results.mean(case, "flicker", motion)) for case in cases]
        axes.plot(*zip(*points, strict=True), "o-", label=label)
        axes.annotate("0", points[0], textcoords="offset points", xytext=(4, 4), fontsize=8)
        axes.annotate("1", points[-1], textcoords="offset points", xytext=(4, 4), fontsize=8)

    for task in TASKS:
        line(by_task, [replace(MIDDLE, task=task, ratio=r) for r in RATIOS], task)
    by_task.set_title("Mixing ratio 0 to 1, per task")
    for motion in MOTIONS:
        line(by_motion, [replace(MIDDLE, ratio=r) for r in RATIOS], motion, motion)
    by_motion.set_title("Mixing ratio 0 to 1, per motion (controlnet)")
    for strength in STRENGTHS:
        line(by_strength, [replace(MIDDLE, ratio=r, strength=strength) for r in RATIOS], f"strength {strength:g}")
    by_strength.set_title("Mixing ratio 0 to 1, per strength (controlnet)")
    named = [*cheap_rows("controlnet"), ("BIVDiff 0.75", MIDDLE)]
    named.append(("BIVDiff 1, strength 0.5", replace(MIDDLE, ratio=1.0, strength=0.5)))
    named.append(("BIVDiff 0.5, strength 0.5, shared noise", SHARED))
    named += [(f"{b} 0.5", replace(MIDDLE, method=b, ratio=0.5, strength=1.0)) for b in BRIDGES]
    for name, case in named:
        marker = "x" if results.mean(case, "sharpness") < 0.85 else "s" if case.method in BRIDGES else "o"
        ways.plot(results.mean(case, "IoU"), results.mean(case, "flicker"), marker, label=name)
    ways.set_title("Every way (controlnet); crosses are blurred")
    for axes in (by_task, by_motion, by_strength, ways):
        axes.set_xlabel("IoU: shapes kept (right is better)")
        axes.set_ylabel("flicker (down is better)")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "study.png", dpi=80)


PAGE = """# The study

These are tiny models on a toy world: {clips} clips of 8 frames of 64x64, shapes that move over a drifting background.
What holds here is a reason to try it with large models, and no proof.

{date}, `python benchmarks/study.py --rounds {rounds}`, on {device}: the real nodes on the demo models, held-out clips,
{rounds} of each motion: slow, fast (2.2 times what the models were trained on), rotating by 15 degrees a frame (twice
the most they were trained on), and two shapes that cross. In every second clip the caption leaves a colour out, and the
frames disagree on it. Two controls at a time are varied around the middle: the outline ControlNet, frames drawn one by
one with independent noise at cfg {frame_cfg:g}, inverted with their caption to strength 0.75 by ddim in 20 steps,
mixing ratio 0.75, linear, smoothed at cfg {smooth_cfg:g}.

- **flicker**: mean colour change along the known motion from frame to frame, 0 to 1, of shapes and background alike.
- **IoU**: overlap of what looks like a shape with the known mask. **colours**: share of named colours that are there.
- **sharpness**: against the clip itself through the autoencoder.
- **collapsed**: share of videos with an IoU below {least_iou:g}, less than {least_colours:.0%} of the colours, or a
  sharpness not within {low:g} to {high:g}. The source frames can be at fault: see the row of the frames before.
- **frames through a UNet**: what it costs, guidance counted; a step of training counts three times.
- Brackets are 95% intervals over the clips. Differences are between the same clips; bold ones are told from 0.

{answers}

![Ratios per task, per motion and per strength, and every way beside the others](study.png)

## Tasks

### ControlNet: outlines drawn anew

{table_controlnet}

### InstructPix2Pix: another colour by instruction

{table_instruct_pix2pix}

*Tuned per clip* is Tune-A-Video's way: the image model inflated and trained on the source clip, {tuning} steps of
{batch} noise draws, the source inverted and drawn anew with the new caption.

### Prompt2Prompt: another colour by a changed word

{table_prompt2prompt}

### Inpainting: a shape drawn anew, the rest pasted back

{table_inpainting}

### Your own frames: a clip whose colours jump

{table_own_frames}

## Another video model

The same network on AnimateDiff's schedule, other noise levels and a highest of 25.1 instead of 14.6; flicker / IoU at
strength 0.75 for each task, then ControlNet at strength 1, where the two schedules part most.

{pair_tasks}

{pairs}

## Strength

ControlNet, rows are mixing ratios, columns strengths; flicker / IoU.

{strengths}

## Frames from shared noise

The cheapest way to steadier frames, smoothed or not: ControlNet.

{shared}

## Blend modes

Against linear at the same ratio and strength.

{modes}

## Solvers and steps

flicker / IoU at mixing ratio 0.75, then the differences from ddim.

{steps}

{solvers}

## Captions

ControlNet, flicker / IoU.

{captions}

## Motion

ControlNet, flicker / IoU.

{motions}

## One after the other, or both at once

Frames drawn, inverted and smoothed, against both models bridged while they denoise (Bridge Guider), from the same
noise. The cheap ways stand above, under ControlNet.

{bridges}

## What a video took

Median seconds on {device}, one thread: everything from the frames to the smoothed latent.

{prices}
"""

ANSWERS = """## What it says

Written after the run of 2026-11-23 (16 clips), whose figures it quotes; the tables are always of the run named above.

**Solver and mode.** `uni_inv`. For as many model calls as ddim it keeps 0.02 to 0.03 more IoU at 10 and 20 steps; at
strength 1 it costs no flicker, at 0.75 less than the same IoU costs by a lower ratio. fireflow lies halfway, and
fixed_point is no better for three times the calls. With 50 steps little is left between them. `linear` stays the
blend: variance_preserving and slerp give a little IoU for a little flicker, as a lower ratio does, and frequency loses
shapes. `uni_inv` became the nodes' default by this. Steps stay at the paper's 50, though 20 do as well here.

**Strength.** The control that matters most, and one the paper does not have. Inverting only halfway (0.5) at ratio 1
brings the flicker to half (0.062 from 0.129) for 3 points of IoU; all the way (1), at the ratio that is as steady
(0.5), it is 10 points. The nodes' default stays 1, the paper's: large latents keep their picture under more noise than
small ones, in proportion to their side (arXiv 2301.11093), so a level that hides half of a picture of 8x8 latents hides
little of one of 64x64. Where to stop must be tried with the models at hand.

**Mixing ratio.** A steady trade along one curve, flicker against shapes, with no best point of its own: choose it last.
0.1 costs nothing beside 0. ControlNet and InstructPix2Pix: the paper's 1 is the steadiest; 0.5 keeps 3 to 6 points
more. Prompt2Prompt: the frames hardly flicker where the edit worked, and 0.25 to 0.5 is enough. Inpainting: the paper's
0.1 leaves nearly all the flicker, 0.75 takes a third of it. Your own frames: 0.5 takes half of it for 8 points of IoU.

**When the video model collapses.** Where the frames disagree. With captions that say everything it keeps 0.87 of the
overlap at ratio and strength 0.75, with captions that leave a colour out, which every frame then fills in differently,
0.73: the mean of frames that have little in common is no picture. Less strength helps most there (0.82 at strength 0.5
and ratio 1). It shows in the frames, and seldom in the noise: docs/alarm.md says what a look at the latent can tell.

**Motion.** It decides less. At ratio 1 the loss of IoU is 13 points for slow clips, 15 for fast, 7 for rotating and 10
for crossing ones, four clips each. But past a ratio of 0.5 fast motion gets no steadier, and only loses shapes: twice
what the video model was trained on is where it ends.

**One after the other, or both at once.** At strength 0.75 and ratio 0.75 BIVDiff and the alternating bridge come out
alike (0.058 / 0.801 and 0.061 / 0.790), and alternating costs a third of the calls. At strength 0.5 and ratio 1 BIVDiff
is as steady, keeps 6 points more, and is sharper. Parallel and interleaved bridging are no better than alternating.
Bridging needs no frames beforehand, and cannot take frames that are already there.

**Per-clip tuning.** For InstructPix2Pix's edits BIVDiff at 0.75 is steadier and nearer (0.027 / 0.878 against 0.035 /
0.847), in 4 seconds instead of 57. Where Prompt2Prompt's frames failed, tuning gave the better video (0.847 against
0.723): it does not depend on them.

**Where the cheap ways win.** If you draw the frames yourself, drawing them from *shared* noise beats smoothing them:
for ControlNet 0.037 / 0.893 against 0.062 / 0.851, for InstructPix2Pix 0.018 / 0.952 against 0.027 / 0.878, at about
two thirds of the calls. Averaging three frames keeps the shapes better and can flicker as little, at three quarters of
the sharpness.

**Where BIVDiff wins.** On shared-noise frames it takes another quarter of the flicker (0.028 at strength and ratio 0.5,
for 4 points of IoU), most where things move fast and shared noise sticks to the screen (0.060 to 0.044). On frames that
are already there it is the way to stay sharp: 0.031 / 0.891 at ratio 0.5, where averaging blurs. Plain video to video
is beaten on both counts in every task.

**Another schedule** changes nothing at strength 0.75 and little at 1: the blend does not depend on the video model's
noise levels.
"""


def write(rows: list[dict]) -> None:
    """Write the page and its plot."""
    results = Results(rows)
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        clips=results.clips,
        rounds=results.clips // len(MOTIONS),
        device=device(),
        frame_cfg=FRAME_CFG,
        smooth_cfg=SMOOTH_CFG,
        least_iou=LEAST_IOU,
        least_colours=LEAST_COLOURS,
        low=SHARPNESS[0],
        high=SHARPNESS[1],
        tuning=TUNING_STEPS,
        batch=TUNING_BATCH,
        answers=ANSWERS,
        **{f"table_{task}": case_table(results, task_rows(task)) for task in TASKS},
        pair_tasks=grid(
            results,
            RATIOS,
            [f"{task}, {pair}" for task, pair in product(TASKS, PAIRS)],
            lambda r, column: replace(MIDDLE, ratio=r, task=column.split(", ")[0], pair=column.split(", ")[1]),
        ),
        pairs=grid(results, RATIOS, PAIRS, lambda r, p: replace(MIDDLE, ratio=r, pair=p, strength=1.0)),
        strengths=grid(results, RATIOS, STRENGTHS, lambda r, s: replace(MIDDLE, ratio=r, strength=s)),
        shared=case_table(results, shared_rows()),
        modes=gains(
            results,
            [
                (f"{m}, ratio {r:g}, strength {s:g}", replace(c, mode=m), c)
                for s, m, r in product((0.75, 1.0), MODES[1:], SHARES)
                for c in [replace(MIDDLE, ratio=r, strength=s)]
            ],
        ),
        steps=grid(
            results,
            SOLVERS,
            [f"{n} steps, strength {s:g}" for s, n in product((0.75, 1.0), STEPS)],
            lambda solver, column: replace(
                MIDDLE, solver=solver, steps=int(column.split()[0]), strength=float(column.split()[-1])
            ),
        ),
        solvers=gains(
            results,
            [
                (f"{solver}, {n} steps, strength {s:g}", replace(c, solver=solver), c)
                for s, n, solver in product((0.75, 1.0), STEPS, SOLVERS[1:])
                for c in [replace(MIDDLE, steps=n, strength=s)]
            ],
        ),
        captions=caption_table(results),
        motions=motion_table(results),
        bridges=case_table(results, bridge_rows()),
        prices=price_table(results),
    )
    (ROOT / "docs" / "study.md").write_text(page, encoding="utf-8")
    plot(results)

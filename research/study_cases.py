"""The cases of the study, by the tables that show them; each case is a method to make a video, with its settings."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from itertools import product

MOTIONS = {
    "slow": {"speed": 0.3},
    "fast": {"speed": 2.2},
    "rotating": {"speed": 0.5, "spin": math.radians(15)},
    "crossing": {"speed": 1.0},
}
TASKS = ("controlnet", "instruct_pix2pix", "prompt2prompt", "inpainting", "own_frames")
RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
MODES = ("linear", "variance_preserving", "slerp", "frequency")
SOLVERS = ("ddim", "uni_inv", "fireflow", "fixed_point")
STEPS = (10, 20)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
PAIRS = ("demo", "other schedule")
WITH_STRUCTURE_PASS = "BIVDiff, structure pass"
BRIDGES = ("parallel", "alternating", "interleaved")
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class StudyCase:
    """A method to make a video, with its settings; the defaults are the centre of the study.

    method: `source`, `frame-wise`, `average of 3`, `BIVDiff`, `WITH_STRUCTURE_PASS`, `video to video`, `tuned per clip`
        or one of `BRIDGES`.
    ratio: weight of the image model, or its share in the bridge methods.
    strength: strength of the inversion, or denoise of video to video.
    """

    task: str = "controlnet"
    method: str = "BIVDiff"
    noise: str = "independent"
    pair: str = "demo"
    ratio: float = 0.75
    mode: str = "linear"
    solver: str = "ddim"
    steps: int = 20
    strength: float = 0.75

    def __str__(self) -> str:
        return ", ".join(map(str, astuple(self)))


NamedCases = dict[str, StudyCase]

DEFAULT_CASE = StudyCase()
SHARED_NOISE_CASE = replace(DEFAULT_CASE, noise="shared", ratio=0.5, strength=0.5)


def no_video_case(task: str, method: str, noise: str = "independent") -> StudyCase:
    """A case without a video model."""
    return StudyCase(task, method, noise)


def source_case(task: str) -> StudyCase:
    """The clip that a task's video should match, through the autoencoder."""
    return no_video_case("controlnet" if task in ("controlnet", "own_frames") else "prompt2prompt", "source")


FRAME_WISE = no_video_case("controlnet", "frame-wise")
SHARED_FRAMES = no_video_case("controlnet", "frame-wise", "shared")
UNSMOOTHED_CASES = {"frame-wise": FRAME_WISE, "frame-wise, shared noise": SHARED_FRAMES}
MOTION_CASES = (
    UNSMOOTHED_CASES
    | {"BIVDiff 0.5, strength 0.5, shared noise": SHARED_NOISE_CASE}
    | {f"BIVDiff {ratio:g}": replace(DEFAULT_CASE, ratio=ratio) for ratio in RATIOS}
)
"""The cases that are compared by motion."""
CAPTION_CASES = UNSMOOTHED_CASES | {
    f"BIVDiff {ratio:g}, strength {strength:g}": replace(DEFAULT_CASE, ratio=ratio, strength=strength)
    for strength, ratio in product((0.5, 0.75, 1.0), (0.5, 0.75, 1.0))
}
"""The cases that are compared between clips with and without complete captions."""


def cheap_cases(task: str) -> NamedCases:
    """The methods without a video model, and video to video. Prompt2Prompt and own frames use no random noise."""
    methods = ("frame-wise", "average of 3")
    named = {method: no_video_case(task, method) for method in methods}
    if task not in ("prompt2prompt", "own_frames"):
        named |= {f"{method}, shared noise": no_video_case(task, method, "shared") for method in methods}
    video = replace(DEFAULT_CASE, task=task, method="video to video")
    return named | {f"video to video, denoise {s:g}": replace(video, strength=s) for s in (0.5, 0.75)}


def task_cases(task: str) -> NamedCases:
    """The clip itself, the cheap methods, and BIVDiff at every ratio."""
    named = {"the clip itself, through the autoencoder": source_case(task)} | cheap_cases(task)
    if task in ("instruct_pix2pix", "prompt2prompt"):
        named["tuned per clip"] = replace(DEFAULT_CASE, task=task, method="tuned per clip", strength=1.0)
    return named | {f"BIVDiff {ratio:g}": replace(DEFAULT_CASE, task=task, ratio=ratio) for ratio in RATIOS}


def shared_noise_cases() -> NamedCases:
    """Frames from shared noise, smoothed or not."""
    named = UNSMOOTHED_CASES | {"average of 3, shared noise": no_video_case("controlnet", "average of 3", "shared")}
    for strength, ratio in product((0.5, 0.75), RATIOS):
        case = replace(DEFAULT_CASE, noise="shared", ratio=ratio, strength=strength)
        named[f"BIVDiff {ratio:g}, strength {strength:g}, shared noise"] = case
    return named


def bridge_cases() -> NamedCases:
    """The models one after the other, and both in one sampling run."""
    named = {"frame-wise": FRAME_WISE}
    for ratio in (*SHARES, 1.0):
        named[f"one after the other (BIVDiff), ratio {ratio:g}"] = replace(DEFAULT_CASE, ratio=ratio)
    both = replace(DEFAULT_CASE, strength=1.0)
    for bridge, share in product(BRIDGES, SHARES):
        named[f"{bridge}, share {share:g}"] = replace(both, method=bridge, ratio=share)
    for bridge in BRIDGES:
        named[f"{bridge}, shared noise, share 0.5"] = replace(both, method=bridge, ratio=0.5, noise="shared")
    return named


CASE_TABLES: dict[str, NamedCases] = {
    **{task: task_cases(task) for task in TASKS},
    "shared noise": shared_noise_cases(),
    "bridges": bridge_cases(),
}
"""Tables with a line for each case."""

INVERSIONS = {
    f"{steps} steps, strength {strength:g}": replace(DEFAULT_CASE, steps=steps, strength=strength)
    for strength, steps in product((0.75, 1.0), STEPS)
}
GRIDS: dict[str, dict[object, dict[object, StudyCase]]] = {
    "other schedule": {
        ratio: {
            f"{pair}, strength {strength:g}": replace(DEFAULT_CASE, ratio=ratio, strength=strength, pair=pair)
            for strength, pair in product((0.75, 1.0), PAIRS)
        }
        for ratio in RATIOS
    },
    **{
        name: {
            ratio: {s: replace(DEFAULT_CASE, method=method, ratio=ratio, strength=s) for s in STRENGTHS}
            for ratio in RATIOS
        }
        for name, method in (("strength", "BIVDiff"), ("strength, structure pass", WITH_STRUCTURE_PASS))
    },
    "steps": {solver: {name: replace(case, solver=solver) for name, case in INVERSIONS.items()} for solver in SOLVERS},
}
"""Tables with a cell for each case, by row and column."""

BLENDS = [replace(DEFAULT_CASE, ratio=ratio, strength=s) for s, ratio in product((0.75, 1.0), SHARES)]
DIFFERENCES: dict[str, dict[str, tuple[StudyCase, StudyCase]]] = {
    "modes": {
        f"{mode}, ratio {case.ratio:g}, strength {case.strength:g}": (replace(case, mode=mode), case)
        for mode, case in product(MODES[1:], BLENDS)
    },
    "solvers": {
        f"{solver}, {name}": (replace(case, solver=solver), case)
        for (name, case), solver in product(INVERSIONS.items(), SOLVERS[1:])
    },
}
"""Tables with a line for each difference between two cases."""


def all_cases() -> list[StudyCase]:
    """All cases of the tables."""
    cases = [case for named in (*CASE_TABLES.values(), MOTION_CASES, CAPTION_CASES) for case in named.values()]
    cases += [case for rows in GRIDS.values() for row in rows.values() for case in row.values()]
    cases += [case for pairs in DIFFERENCES.values() for pair in pairs.values() for case in pair]
    return list(dict.fromkeys(cases))

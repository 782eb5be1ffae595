"""The cases of the study; each case is a method to make a video, with its settings."""

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


DEFAULT_CASE = StudyCase()
SHARED_NOISE_CASE = replace(DEFAULT_CASE, noise="shared", ratio=0.5, strength=0.5)


def all_cases() -> list[StudyCase]:
    """All cases: pairs of controls varied around the default case, and the other methods."""
    cases = [replace(DEFAULT_CASE, task=t, ratio=r) for t, r in product(TASKS, RATIOS)]
    cases += [replace(DEFAULT_CASE, ratio=r, strength=s) for r, s in product(RATIOS, STRENGTHS)]
    cases += [
        replace(DEFAULT_CASE, method=WITH_STRUCTURE_PASS, ratio=r, strength=s) for r, s in product(RATIOS, STRENGTHS)
    ]
    cases += [replace(DEFAULT_CASE, ratio=r, strength=s, pair=PAIRS[1]) for r, s in product(RATIOS, (0.75, 1.0))]
    cases += [replace(DEFAULT_CASE, ratio=r, noise="shared", strength=s) for r, s in product(RATIOS, (0.5, 0.75))]
    cases += [replace(DEFAULT_CASE, ratio=r, mode=m, strength=s) for r, m, s in product(SHARES, MODES, (0.75, 1.0))]
    cases += [replace(DEFAULT_CASE, solver=s, steps=n, strength=k) for s, n, k in product(SOLVERS, STEPS, (0.75, 1.0))]
    cases += [
        no_video_case(t, method, n) for t in TASKS for method in ("frame-wise", "average of 3") for n in noise_kinds(t)
    ]
    cases += [
        replace(DEFAULT_CASE, task=t, method="video to video", strength=s) for t, s in product(TASKS, (0.5, 0.75))
    ]
    cases += [replace(DEFAULT_CASE, task=t, method="tuned per clip", strength=1.0) for t in TASKS[1:3]]
    cases += [replace(DEFAULT_CASE, method=b, ratio=r, strength=1.0) for b, r in product(BRIDGES, SHARES)]
    cases += [replace(DEFAULT_CASE, method=b, ratio=0.5, noise="shared", strength=1.0) for b in BRIDGES]
    cases += [replace(DEFAULT_CASE, task=t, method="source") for t in ("controlnet", "prompt2prompt")]
    return list(dict.fromkeys(cases))


def no_video_case(task: str, method: str, noise: str = "independent") -> StudyCase:
    """A case without a video model."""
    return StudyCase(task, method, noise)


def noise_kinds(task: str) -> tuple[str, ...]:
    """The kinds of noise for a task's frames; Prompt2Prompt and own frames use no random noise."""
    return ("independent",) if task in ("prompt2prompt", "own_frames") else ("independent", "shared")

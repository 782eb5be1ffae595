"""Noise levels (sigmas) for inversion and denoising, and the scale of inverted latents.

The matched grid inverts through the same levels as denoising, in reverse order. The reference grid reproduces BIVDiff's
released loops (MCG-NJU/BIVDiff): 50 leading timesteps 1, 21, ..., 981; the clean latent is treated as z at t = 1;
inversion ends at t = 998; denoising starts at t = 981 and ends at t = 0 instead of at sigma 0.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .node_warnings import warn

GRIDS = ("matched", "reference")

Scheduler = Callable[[int], Tensor]
"""Decreasing levels of a schedule of that many steps, from the model's highest level to 0, `[steps + 1]`."""

MAX_FIRST_STEP = 0.25
"""Largest first step of an inversion, as a fraction of the way to noise (`path_fraction`).

Measured on an analytic denoiser with Stable Diffusion's schedule and rectified flow with shifts 1, 3, 5 and 8, by ddim
in 4 to 50 steps: a level added in the middle of the first step lowers the inversion's error by 25 to 47% if the step
is longer than this, and by 0 to 26% if it is shorter (tests/core/test_grids.py).
"""

REFERENCE_LAST_TIMESTEP = 998

FULL_NOISE_SIGNAL = 0.15
"""Levels with at most this signal fraction count as full noise; Stable Diffusion's sigma_max has .068, AnimateDiff's
.040."""

MAX_SCHEDULE_SIGNAL = 0.33
"""Largest signal fraction at the first level of a diffusion model's schedule at strength 1.

Of ComfyUI's schedulers only `ddim_uniform` starts below sigma_max: at .076 (50 steps), .085 (25), .118 (10), .134 (8),
.191 (5), .236 (4) and .323 (3); with 2 steps at .52. Schedules of other packs that start at sigma 1 have .71.
"""

SIGNAL_TOLERANCE = 0.02
"""Two levels below full noise count as equal if their signal fractions differ by no more than this."""

LEVEL_TOLERANCE = 1e-6
"""Relative difference of two levels that comes from rounding only."""

MAX_SCHEDULE_STEPS = 1000
"""Longest schedule that is searched for the levels below a strength; trained schedules have 1000 levels."""

PAPER_STEPS, MANY_STEPS = 50, 200
"""The paper's number of steps, and the largest number that needs no warning."""

MIN_CUSTOM_STEPS = 3
"""Fewer steps of wired sigmas than this below the start are worth a warning."""


@dataclass(frozen=True)
class Schedule:
    """The settings that determine a run's noise levels. Every node of the chain has them.

    Args:
        steps: number of steps from the start to 0, at any strength.
        scheduler: ComfyUI's name of the scheduler.
        strength: how far an inversion goes towards noise, in (0, 1].
        grid: one of `GRIDS`.
        sigmas: decreasing levels that end at 0 and replace steps and scheduler; None without.
    """

    steps: int
    scheduler: str
    strength: float = 1.0
    grid: str = "matched"
    sigmas: Tensor | None = None

    @property
    def source(self) -> str:
        """Where the levels come from, for messages."""
        return f"scheduler {self.scheduler}" if self.sigmas is None else "the schedule wired to sigmas"


def unit_scale(sigma: float) -> float:
    """sqrt(1 + sigma^2): the k-space latent of a diffusion (eps, v) model over diffusers' unit-variance latent."""
    return math.sqrt(1.0 + sigma * sigma)


def signal_fraction(sigma: float, flow: bool) -> float:
    """Weight of x0 in the unit-variance latent at a noise level, 0..1. Compares the levels of different models.

    `1 / sqrt(1 + sigma^2)` for diffusion models, `1 - sigma` for flow models.
    """
    return 1.0 - sigma if flow else 1.0 / unit_scale(sigma)


SD_BETAS = (0.00085, 0.012)
"""First and last of Stable Diffusion's 1000 betas. Their square roots are evenly spaced (scaled_linear)."""


def sd_sigma(timestep: float) -> float:
    """Sigma of Stable Diffusion's schedule at a timestep.

    Log sigma is interpolated between whole timesteps. Timesteps above 999 give the last level, 14.6146.
    """
    first, last = (beta**0.5 for beta in SD_BETAS)
    betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    log_sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt().log()
    timestep = min(max(timestep, 0.0), 999.0)
    low = math.floor(timestep)
    return torch.lerp(log_sigmas[low], log_sigmas[math.ceil(timestep)], timestep - low).exp().item()


def strength_sigma(strength: float, flow: bool) -> float:
    """Noise level of a strength in (0, 1), the same for every diffusion model and for every flow model.

    Diffusion models stop at Stable Diffusion's sigma at t = 1000 * strength, flow models at sigma = strength.
    """
    return strength if flow else sd_sigma(1000.0 * strength)


def path_fraction(sigma: float, flow: bool) -> float:
    """How far a noise level is on the way from image to noise, 0..1: the angle of their weights over 90 degrees."""
    return math.atan2(sigma, 1.0 - sigma if flow else 1.0) / (math.pi / 2)


def path_sigma(fraction: float, flow: bool) -> float:
    """The noise level at a fraction of the way from image to noise; the inverse of `path_fraction`."""
    ratio = math.tan(fraction * math.pi / 2)
    return ratio / (1.0 + ratio) if flow else ratio


def denoising_levels(schedule: Schedule, scheduler: Scheduler, flow: bool, sigma: float | None = None) -> Tensor:
    """Decreasing levels from the noise level of an inverted latent to 0, in `schedule.steps` steps.

    Below a schedule's first level they are those of the scheduler's shortest longer schedule with that many steps below
    the start. Wired sigmas keep their levels below the start.

    Args:
        scheduler: the schedule's scheduler, for the model.
        flow: whether the model is a flow model (sigma in 0..1).
        sigma: noise level of the latent; None for full noise that a schedule itself defines.

    Raises:
        ValueError: the levels do not reach full noise or `sigma`, or wired sigmas do not decrease to 0.
    """
    levels = scheduler(schedule.steps) if schedule.sigmas is None else _check_sigmas(schedule.sigmas)
    if schedule.sigmas is None and schedule.steps > MANY_STEPS:
        warn(
            "This run takes %d steps, where the paper takes %d. Lower steps in every node of the chain to save time.",
            schedule.steps,
            PAPER_STEPS,
        )
    first = levels[0].item()
    _check_first_level(first, sigma, schedule, flow)
    if sigma is not None:
        if schedule.sigmas is None and first > sigma * (1 + LEVEL_TOLERANCE):
            levels = _levels_below(sigma, schedule, scheduler)
        else:
            levels = _start_at(sigma, levels)
    if schedule.sigmas is not None and len(levels) - 1 < MIN_CUSTOM_STEPS:
        warn(
            "Only %d steps of the schedule wired to sigmas lie below sigma %.3g, where this run starts or ends. Wire "
            "one with more steps there, or raise the strength.",
            len(levels) - 1,
            levels[0],
        )
    return levels


def inversion_levels(schedule: Schedule, scheduler: Scheduler, flow: bool) -> Tensor:
    """Increasing levels from 0 to the schedule's strength: `denoising_levels` in reverse order.

    A first step above `MAX_FIRST_STEP` is divided, because it would skip too much of the ODE and lose the frames.

    Raises:
        ValueError: as in `denoising_levels`.
    """
    end = strength_sigma(schedule.strength, flow) if schedule.strength < 1 else None
    levels = denoising_levels(schedule, scheduler, flow, end).flip(0)
    first = path_fraction(levels[1].item(), flow)
    parts = math.ceil(first / MAX_FIRST_STEP - LEVEL_TOLERANCE)
    if parts == 1:
        return levels
    added = [path_sigma(first * part / parts, flow) for part in range(1, parts)]
    warn(
        "The first step of this inversion would go %.0f%% of the way to noise, which loses the frames, so it is "
        "divided into %d steps. More steps do the same better.",
        100 * first,
        parts,
    )
    return torch.cat([levels[:1], levels.new_tensor(added), levels[1:]])


def split_levels(levels: Tensor, boundary: float) -> tuple[Tensor, Tensor]:
    """Split the levels of a run where the experts of a model change (Wan 2.2): those above and those below.

    The level nearest the boundary moves onto it and belongs to both parts. A part without steps is empty.

    Args:
        levels: increasing or decreasing, `[steps + 1]`.
    """
    if boundary >= levels.max():
        return levels[:0], levels
    if boundary <= levels.min():
        return levels, levels[:0]
    if len(levels) == 2:
        levels = torch.cat([levels[:1], levels.new_tensor([boundary]), levels[1:]])
    split = 1 + int((levels[1:-1] - boundary).abs().argmin())
    levels = levels.clone()
    levels[split] = boundary
    first, second = levels[: split + 1], levels[split:]
    return (first, second) if levels[0] > levels[-1] else (second, first)


def _start_at(sigma: float, levels: Tensor) -> Tensor:
    """Levels from `sigma` to 0: a first level below `sigma` moves up to it, and higher levels are left out."""
    lower = levels[1:] if levels[0] < sigma else levels[levels < sigma * (1 - LEVEL_TOLERANCE)]
    return torch.cat([levels.new_tensor([sigma]), lower])


def _levels_below(sigma: float, schedule: Schedule, scheduler: Scheduler) -> Tensor:
    """Levels from `sigma` to 0 of the scheduler's shortest schedule with `schedule.steps` steps there.

    If there is none, the levels are interpolated from one with more or, at most, `MAX_SCHEDULE_STEPS` steps.
    """

    def count_steps(length: int) -> int:
        return len(_start_at(sigma, scheduler(length))) - 1

    lengths = range(schedule.steps, MAX_SCHEDULE_STEPS + 1)
    found = bisect_left(lengths, schedule.steps, key=count_steps)
    for length in lengths[max(found - 2, 0) : found + 3]:  # rounding makes some counts go back by one
        levels = _start_at(sigma, scheduler(length))
        if len(levels) - 1 == schedule.steps:
            return levels
    levels = _start_at(sigma, scheduler(lengths[min(found, len(lengths) - 1)]))
    warn(
        "No schedule of scheduler %s has exactly %d steps below sigma %.3g: they are interpolated from one with %d.",
        schedule.scheduler,
        schedule.steps,
        sigma,
        len(levels) - 1,
    )
    position = torch.linspace(0, len(levels) - 1, schedule.steps + 1, dtype=torch.float64)
    lower = position.long().clamp(max=len(levels) - 2)
    return torch.lerp(levels[lower].double(), levels[lower + 1].double(), position - lower).to(levels)


def _check_sigmas(sigmas: Tensor) -> Tensor:
    if len(sigmas) < 2 or sigmas[-1] != 0 or not (sigmas[1:] < sigmas[:-1]).all():
        values = ", ".join(f"{sigma:.3g}" for sigma in sigmas[:8].tolist())
        raise ValueError(
            f"sigmas is a schedule of {values or 'no levels'}, expected levels that decrease to 0. Wire a scheduler "
            "node for the model, without FlipSigmas or SplitSigmas."
        )
    return sigmas


def _check_first_level(first: float, sigma: float | None, schedule: Schedule, flow: bool) -> None:
    """Reject levels that start too far below `sigma` or, if it is None, below full noise."""
    remaining = signal_fraction(first, flow)
    if sigma is None and flow and not math.isclose(first, 1.0, abs_tol=1e-4):
        raise ValueError(
            f"{schedule.source} reaches only sigma {first:.3f}, but a flow model's latent is pure noise only at 1. Set "
            "scheduler to simple, normal or beta."
        )
    if sigma is None and remaining > MAX_SCHEDULE_SIGNAL:
        raise ValueError(
            f"{schedule.source} reaches only sigma {first:.3g}, where {remaining:.0%} of the image is left; full noise "
            f"leaves at most {MAX_SCHEDULE_SIGNAL:.0%}. Set scheduler to simple, raise steps, or lower strength to "
            "stop there on purpose."
        )
    if sigma is None:
        return
    expected = signal_fraction(sigma, flow)
    limit = MAX_SCHEDULE_SIGNAL if not flow and expected <= FULL_NOISE_SIGNAL else expected + SIGNAL_TOLERANCE
    if remaining > limit:
        raise ValueError(
            f"{schedule.source} reaches only sigma {first:.3g}, below sigma {sigma:.3g}, where the inversion ends and "
            "denoising begins. Set scheduler to simple, raise steps, or lower strength."
        )


def reference_timesteps(steps: int) -> Tensor:
    """diffusers' leading timesteps with steps_offset 1, increasing: 1, 21, ..., 981 for 50 steps."""
    return torch.arange(steps) * (1000 // steps) + 1


def reference_inversion_grid(sigmas: Tensor, steps: int) -> Tensor:
    """Increasing levels of the released inversion loop, `[steps + 1]`. For 50 steps the last is at t = 998, not 981.

    Args:
        sigmas: the model's levels at t = 0..999, `[1000]`.
    """
    t = reference_timesteps(steps)
    last = min(REFERENCE_LAST_TIMESTEP, int(t[-1]) + 1000 // steps)
    return sigmas[torch.cat([t, torch.tensor([last])])]


def reference_denoising_grid(sigmas: Tensor, steps: int) -> Tensor:
    """Decreasing levels of the released denoising loop, `[steps + 1]`, ending at t = 0 (set_alpha_to_one=False)."""
    return sigmas[torch.cat([reference_timesteps(steps).flip(0), torch.tensor([0])])]

"""Noise levels (sigmas) for inversion and denoising, and the scale of inverted latents.

The matched grid inverts through the same levels as denoising, in reverse order. The reference grid reproduces BIVDiff's
released loops (MCG-NJU/BIVDiff): 50 leading timesteps 1, 21, ..., 981; the clean latent is treated as z at t = 1;
inversion ends at t = 998; denoising starts at t = 981 and ends at t = 0 instead of at sigma 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRIDS = ("matched", "reference")

MAX_FIRST_SIGMA = 0.5
"""Largest first sigma of a matched diffusion grid. A larger step skips too much of the ODE and loses the frames."""

REFERENCE_LAST_TIMESTEP = 998

MAX_SIGNAL_AT_FULL_NOISE = 0.33
"""Largest signal fraction of a diffusion model's level that counts as full noise.

Stable Diffusion's sigma_max 14.6 has a signal fraction of .068, AnimateDiff's .040. Of ComfyUI's schedulers only
`ddim_uniform` stops earlier: at .076 (50 steps), .085 (25), .118 (10), .134 (8), .191 (5), .236 (4) and .323 (3); with
2 steps at .52. Schedules of other packs that stop at sigma 1 have .71.
"""

SIGNAL_TOLERANCE = 0.02
"""Two levels below full noise count as equal if their signal fractions differ by no more than this."""


@dataclass(frozen=True)
class Schedule:
    """The settings that determine a run's noise levels. Every node of the chain has them.

    Args:
        steps: number of steps.
        scheduler: ComfyUI's name of the scheduler.
        strength: how far an inversion goes towards noise, in (0, 1].
        grid: one of `GRIDS`.
    """

    steps: int
    scheduler: str
    strength: float = 1.0
    grid: str = "matched"


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


def truncate_levels(levels: Tensor, sigma: float) -> Tensor:
    """The schedule's levels from `sigma` down, starting at `sigma` itself or at the schedule's maximum if lower.

    Args:
        levels: decreasing, ending at 0, `[steps + 1]`, from ComfyUI's scheduler.
    """
    start_sigma = min(sigma, levels[0].item())
    return torch.cat([levels.new_tensor([start_sigma]), levels[levels < start_sigma * (1 - 1e-6)]])


def denoising_grid(levels: Tensor, scheduler: str, flow: bool, start_sigma: float | None = None) -> Tensor:
    """Decreasing levels from the noise level of an inverted latent to 0.

    Args:
        levels: decreasing, ending at 0, from ComfyUI's scheduler.
        scheduler: the scheduler's name, for error messages.
        flow: whether the model is a flow model (sigma in 0..1).
        start_sigma: level of a latent that was not inverted to full noise; None for full noise.

    Raises:
        ValueError: the levels do not reach full noise, or do not reach `start_sigma`.
    """
    sigma_max = levels[0].item()
    if start_sigma is None:
        _check_full_noise(sigma_max, scheduler, flow)
        return levels
    if signal_fraction(sigma_max, flow) - signal_fraction(start_sigma, flow) > SIGNAL_TOLERANCE:
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {sigma_max:.3g}, short of sigma {start_sigma:.3g}, where the "
            "inversion ends and smoothing begins. Set scheduler to normal, raise steps, or lower strength."
        )
    return truncate_levels(levels, start_sigma)


def _check_full_noise(sigma_max: float, scheduler: str, flow: bool) -> None:
    if flow and not math.isclose(sigma_max, 1.0, abs_tol=1e-4):
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {sigma_max:.3f}, but a flow model's latent is pure noise only at "
            "1. Set scheduler to simple, normal or beta."
        )
    fraction = signal_fraction(sigma_max, flow)
    if fraction > MAX_SIGNAL_AT_FULL_NOISE:
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {sigma_max:.3g}, where {fraction:.0%} of the image is left; full "
            f"noise leaves at most {MAX_SIGNAL_AT_FULL_NOISE:.0%}. Set scheduler to normal, raise steps, or lower "
            "strength to stop there on purpose."
        )


def matched_inversion_grid(levels: Tensor, schedule: Schedule, flow: bool) -> Tensor:
    """Increasing levels from 0 to the level where denoising will begin: `denoising_grid` in reverse order.

    Args:
        levels: decreasing, ending at 0, from ComfyUI's scheduler of that name.
        schedule: below a strength of 1 the grid ends at `strength_sigma`.

    Raises:
        ValueError: as in `denoising_grid`, or the first step of a diffusion model is too large.
    """
    end_sigma = strength_sigma(schedule.strength, flow) if schedule.strength < 1 else None
    grid = denoising_grid(levels, schedule.scheduler, flow, end_sigma)
    first_sigma = grid[grid > 0][-1].item()
    if not flow and first_sigma > MAX_FIRST_SIGMA:
        raise ValueError(
            f"scheduler {schedule.scheduler}'s lowest level is sigma {first_sigma:.2f}, expected at most "
            f"{MAX_FIRST_SIGMA}: a first step that large loses the frames. Raise steps, or set scheduler to "
            "ddim_uniform or karras."
        )
    return grid.flip(0)


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

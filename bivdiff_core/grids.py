"""Noise levels for inversion and denoising, and the scale in which inverted latents travel.

A matched grid inverts along the very levels that denoising comes back on. The reference grid reproduces BIVDiff's
released loops (MCG-NJU/BIVDiff): 50 leading timesteps 1, 21, ..., 981, a clean latent taken as z at t = 1, an
inversion that ends at t = 998 and a denoiser that starts at t = 981 and ends at t = 0 instead of at no noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRIDS = ("matched", "reference")

MAX_FIRST_SIGMA = 0.5
"""A matched diffusion grid whose lowest non-zero level lies above this leaves the image in one blind step."""

REFERENCE_LAST_TIMESTEP = 998

MAX_SIGNAL_AT_FULL_NOISE = 0.33
"""Image share up to which a diffusion model's level counts as full noise.

Stable Diffusion's own top, sigma 14.6, keeps .068 of the image and AnimateDiff's .040. Of the host's schedulers only
`ddim_uniform` stops below: at .076 (50 steps), .085 (25), .118 (10), .134 (8), .191 (5), .236 (4) and .323 (3); with 2
steps it keeps .52. Schedules of other packs that stop at sigma 1 keep .71.
"""

SIGNAL_TOLERANCE = 0.02
"""Difference of image share within which two levels below full noise count as one."""


@dataclass(frozen=True)
class Schedule:
    """What settles the noise levels of a run, as every node of the chain asks for it.

    Args:
        steps: number of steps.
        scheduler: the host's name of how the levels are spaced.
        strength: how far towards noise an inversion goes, in (0, 1].
        grid: one of `GRIDS`.
    """

    steps: int
    scheduler: str
    strength: float = 1.0
    grid: str = "matched"


def unit_scale(sigma: float) -> float:
    """sqrt(1 + sigma^2): x_sigma of a diffusion (eps, v) model divided by it is diffusers' unit-variance latent."""
    return math.sqrt(1.0 + sigma * sigma)


def signal_fraction(sigma: float, flow: bool) -> float:
    """What is left of the image at a level, 0..1, by which the levels of different models are compared.

    The weight of x0 in the unit-variance latent: `1 / sqrt(1 + sigma^2)` for diffusion models, `1 - sigma` for flow.
    """
    return 1.0 - sigma if flow else 1.0 / unit_scale(sigma)


SD_BETAS = (0.00085, 0.012)
"""First and last beta of Stable Diffusion's schedule; their roots are evenly spaced (scaled_linear), 1000 of them."""


def sd_sigma(timestep: float) -> float:
    """Sigma of Stable Diffusion's schedule at a timestep.

    Between whole timesteps log sigma is interpolated; timesteps past 999 give the last level, 14.6146.
    """
    first, last = (beta**0.5 for beta in SD_BETAS)
    betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    log_sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod).sqrt().log()
    timestep = min(max(timestep, 0.0), 999.0)
    low = math.floor(timestep)
    return torch.lerp(log_sigmas[low], log_sigmas[math.ceil(timestep)], timestep - low).exp().item()


def strength_sigma(strength: float, flow: bool) -> float:
    """The noise level that a strength in (0, 1) stands for: the same for every model of a family.

    Diffusion models stop at Stable Diffusion's sigma of t = 1000 * strength, flow models at sigma = strength.
    """
    return strength if flow else sd_sigma(1000.0 * strength)


def truncate_levels(levels: Tensor, sigma: float) -> Tensor:
    """The part of a schedule's levels at and below `sigma`, with `sigma` as its top (clipped to the levels' own).

    Args:
        levels: falling, ending at 0, `[steps + 1]`, as the host's schedulers give them.
    """
    top = min(sigma, levels[0].item())
    return torch.cat([levels.new_tensor([top]), levels[levels < top * (1 - 1e-6)]])


def denoising_grid(levels: Tensor, scheduler: str, flow: bool, top: float | None = None) -> Tensor:
    """Falling levels from an inverted latent's to 0.

    Args:
        levels: falling, ending at 0, as the host's schedulers give them.
        scheduler: their name, for messages.
        flow: whether the model is a flow model (sigma in 0..1).
        top: the level of a latent that was not inverted to full noise; None for one that was.

    Raises:
        ValueError: the levels do not reach full noise, or not the latent's level.
    """
    highest = levels[0].item()
    if top is None:
        _check_full_noise(highest, scheduler, flow)
        return levels
    if signal_fraction(highest, flow) - signal_fraction(top, flow) > SIGNAL_TOLERANCE:
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {highest:.3g}, short of sigma {top:.3g}, where the inversion "
            "ends and smoothing begins. Set scheduler to normal, raise steps, or lower strength."
        )
    return truncate_levels(levels, top)


def _check_full_noise(highest: float, scheduler: str, flow: bool) -> None:
    if flow and not math.isclose(highest, 1.0, abs_tol=1e-4):
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {highest:.3f}, but a flow model's latent is pure noise only at "
            "1. Set scheduler to simple, normal or beta."
        )
    share = signal_fraction(highest, flow)
    if share > MAX_SIGNAL_AT_FULL_NOISE:
        raise ValueError(
            f"scheduler {scheduler} tops out at sigma {highest:.3g}, where {share:.0%} of the image is left; full "
            f"noise leaves at most {MAX_SIGNAL_AT_FULL_NOISE:.0%}. Set scheduler to normal, raise steps, or lower "
            "strength to stop there on purpose."
        )


def matched_inversion_grid(levels: Tensor, schedule: Schedule, flow: bool) -> Tensor:
    """Rising levels from 0 to where denoising will begin: `denoising_grid` walked backwards.

    Args:
        levels: falling, ending at 0, as the host's scheduler of that name gives them.
        schedule: below a strength of 1 the grid ends at `strength_sigma`.

    Raises:
        ValueError: as `denoising_grid`, and where a diffusion model's first step would be too large.
    """
    top = strength_sigma(schedule.strength, flow) if schedule.strength < 1 else None
    grid = denoising_grid(levels, schedule.scheduler, flow, top)
    lowest = grid[grid > 0][-1].item()
    if not flow and lowest > MAX_FIRST_SIGMA:
        raise ValueError(
            f"scheduler {schedule.scheduler}'s lowest level is sigma {lowest:.2f}, expected at most "
            f"{MAX_FIRST_SIGMA}: a first step that large loses the frames. Raise steps, or set scheduler to "
            "ddim_uniform or karras."
        )
    return grid.flip(0)


def reference_timesteps(steps: int) -> Tensor:
    """diffusers' leading timesteps with steps_offset 1, rising: 1, 21, ..., 981 for 50 steps."""
    return torch.arange(steps) * (1000 // steps) + 1


def reference_inversion_grid(sigmas: Tensor, steps: int) -> Tensor:
    """Rising levels of the released inversion loop, `[steps + 1]`; the last target is t = 998, not 981.

    Args:
        sigmas: the model's own levels at t = 0..999, `[1000]`.
    """
    t = reference_timesteps(steps)
    last = min(REFERENCE_LAST_TIMESTEP, int(t[-1]) + 1000 // steps)
    return sigmas[torch.cat([t, torch.tensor([last])])]


def reference_denoising_grid(sigmas: Tensor, steps: int) -> Tensor:
    """Falling levels of the released denoising loop, `[steps + 1]`, ending at t = 0 (set_alpha_to_one=False)."""
    return sigmas[torch.cat([reference_timesteps(steps).flip(0), torch.tensor([0])])]

"""Noise levels for inversion and denoising, and the scale in which inverted latents travel.

A matched grid inverts along the very levels that denoising comes back on. The reference grid reproduces BIVDiff's
released loops (MCG-NJU/BIVDiff): 50 leading timesteps 1, 21, ..., 981, a clean latent taken as z at t = 1, an
inversion that ends at t = 998 and a denoiser that starts at t = 981 and ends at t = 0 instead of at no noise.
"""

import math

import torch
from torch import Tensor

LARGEST_FIRST_SIGMA = 0.5
"""A matched diffusion grid whose lowest non-zero level lies above this leaves the image in one blind step."""

REFERENCE_LAST_TIMESTEP = 998


def unit_scale(sigma: float) -> float:
    """sqrt(1 + sigma^2): x_sigma of a diffusion (eps, v) model divided by it is diffusers' unit-variance latent."""
    return math.sqrt(1.0 + sigma * sigma)


def sd_sigma(timestep: float) -> float:
    """Sigma of Stable Diffusion's schedule (betas scaled_linear .00085 to .012, 1000 steps) at a timestep.

    Between whole timesteps log sigma is interpolated; timesteps past 999 give the last level, 14.6146.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
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


def levels_up_to(schedule: Tensor, sigma: float) -> Tensor:
    """The part of a schedule at and below `sigma`, with `sigma` as its top (clipped to the schedule's own).

    Args:
        schedule: falling levels ending at 0, `[steps + 1]`, as the host's schedulers give them.
    """
    top = min(sigma, schedule[0].item())
    return torch.cat([schedule.new_tensor([top]), schedule[schedule < top * (1 - 1e-6)]])


def denoising_grid(schedule: Tensor, flow: bool, top: float | None = None) -> Tensor:
    """Falling levels from an inverted latent's to 0.

    Args:
        schedule: falling levels ending at 0, as the host's schedulers give them.
        flow: whether the model is a flow model (sigma in 0..1).
        top: the level of a latent that was not inverted to full noise.

    Raises:
        ValueError: a flow model's schedule does not reach noise.
    """
    if top is not None:
        return levels_up_to(schedule, top)
    if flow and not math.isclose(schedule[0].item(), 1.0, abs_tol=1e-4):
        raise ValueError(
            f"this scheduler tops out at sigma {schedule[0].item():.3f}, but a flow model's latent is pure noise only "
            "at 1. Choose scheduler simple, normal or beta."
        )
    return schedule


def matched_inversion_grid(schedule: Tensor, flow: bool, strength: float = 1.0) -> Tensor:
    """Rising levels from 0 to where denoising will begin: `denoising_grid` walked backwards.

    Args:
        strength: below 1 the grid ends at `strength_sigma(strength, flow)`.

    Raises:
        ValueError: as `denoising_grid`, and where a diffusion model's first step would be too large.
    """
    grid = denoising_grid(schedule, flow, strength_sigma(strength, flow) if strength < 1 else None)
    lowest = grid[grid > 0][-1].item()
    if not flow and lowest > LARGEST_FIRST_SIGMA:
        raise ValueError(
            f"the schedule's lowest level is sigma {lowest:.2f}, and a first step from the clean frames to there "
            f"(more than {LARGEST_FIRST_SIGMA}) loses them. Raise steps, or choose scheduler ddim_uniform or karras."
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

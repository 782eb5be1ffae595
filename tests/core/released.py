"""The scheduler of the released code, as diffusers builds it."""

from collections.abc import Callable

from diffusers import DDIMScheduler
from torch import Tensor

SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


def released_scheduler(steps: int, set_alpha_to_one: bool = False) -> DDIMScheduler:
    """The scheduler of Stable Diffusion 1.5's repository, which the released code loads."""
    scheduler = DDIMScheduler(
        **SD_BETAS, steps_offset=1, timestep_spacing="leading", set_alpha_to_one=set_alpha_to_one, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    return scheduler


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    a = alphas_cumprod.double()
    return ((1 - a) / a).sqrt()


def released_inversion(eps: Callable[[Tensor, int], Tensor], scheduler: DDIMScheduler, z: Tensor) -> list[Tensor]:
    """BIVDiff's `next_step`: from z at t to z at min(998, t + 20), predicted at t; z after every step."""
    a, stride, trajectory = scheduler.alphas_cumprod.to(z.dtype), 1000 // len(scheduler.timesteps), []
    for t in scheduler.timesteps.flip(0).tolist():
        t_next = min(998, t + stride)
        noise = eps(z, t)
        z0 = (z - (1 - a[t]).sqrt() * noise) / a[t].sqrt()
        z = a[t_next].sqrt() * z0 + (1 - a[t_next]).sqrt() * noise
        trajectory.append(z)
    return trajectory


def denoising(eps: Callable[[Tensor, int], Tensor], scheduler: DDIMScheduler, z: Tensor) -> list[Tensor]:
    """diffusers' own DDIM loop; z after every step."""
    trajectory = []
    for t in scheduler.timesteps.tolist():
        z = scheduler.step(eps(z, t), t, z).prev_sample
        trajectory.append(z)
    return trajectory

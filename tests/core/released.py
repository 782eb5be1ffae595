"""The scheduler of the released code, as diffusers builds it."""

import torch
from diffusers import DDIMScheduler

SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


def released_scheduler(steps: int, set_alpha_to_one: bool = False) -> DDIMScheduler:
    """The scheduler of Stable Diffusion 1.5's repository, which the released code loads."""
    scheduler = DDIMScheduler(
        **SD_BETAS, steps_offset=1, timestep_spacing="leading", set_alpha_to_one=set_alpha_to_one, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    return scheduler


def sigmas_of(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    a = alphas_cumprod.double()
    return ((1 - a) / a).sqrt()

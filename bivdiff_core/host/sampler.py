"""Run ComfyUI's guiders: from noise as ComfyUI does, or from an inverted latent that only our sampler sees.

Every run uses `CFGGuider.sample`, so wrappers, hooks and injections that other packs add to a MODEL work.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..grids import unit_scale
from ..solvers import Denoiser
from .latents import check_finite
from .sampling_progress import SamplingProgress
from .windows import as_frame_windows

Result = TypeVar("Result")


class _InterruptibleModel(comfy.samplers.KSamplerX0Inpaint):
    """Wraps the guider as k-diffusion's model; cancelling takes effect before the next call."""

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class UnitScaleSampler(comfy.samplers.Sampler):
    """Runs a k-diffusion sampler on samples in model space and diffusers' scale, z = x / sqrt(1 + sigma^2).

    The samples do not pass through the guider, which would rescale them and lets other packs replace or shuffle them.

    Args:
        function: a sampler with k-diffusion's signature.
        flow: whether the model is a flow model, whose z is x.
        samples: z at the first sigma of the run.
    """

    result: Tensor
    """z at the last sigma; exists after a run."""

    def __init__(self, function: Callable[..., Tensor], flow: bool, samples: Tensor):
        self.function = function
        self.scale = (lambda sigma: 1.0) if flow else unit_scale
        self.samples = samples

    def sample(
        self,
        model_wrap: comfy.samplers.CFGGuider,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable[[int, Tensor, Tensor, int], None],
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        def report(step: dict) -> None:
            callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)

        first, last = sigmas[0].item(), sigmas[-1].item()
        x = self.function(
            _InterruptibleModel(model_wrap, sigmas),
            self.samples.to(noise) * self.scale(first),
            sigmas.clone(),  # uni_pc writes into it
            extra_args=extra_args,
            callback=report,
            disable=disable_pbar,
        )
        self.result = x / self.scale(last)
        return self.result


def run_guider(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    noise: Tensor,
    latent_image: Tensor,
    progress: SamplingProgress,
    *,
    denoise_mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample with progress, previews and a NaN check."""
    progress.start_run(guider.model_patcher)
    _report_windows(guider, progress)
    samples = guider.sample(
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask,
        callback=progress,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    check_finite(samples)
    return samples


def run_from_latent(
    guider: comfy.samplers.CFGGuider,
    function: Callable[..., Tensor],
    sigmas: Tensor,
    samples: Tensor,
    flow: bool,
    progress: SamplingProgress,
) -> tuple[Tensor, Tensor]:
    """Sample without noise, from samples in model space and diffusers' scale.

    Returns:
        The result in the same space and scale, and the same result in the VAE's space.
    """
    torch.manual_seed(0)  # patches may use the global generator; ComfyUI's prepare_noise seeds it too
    empty = torch.zeros_like(samples, dtype=torch.float32)
    sampler = UnitScaleSampler(function, flow, samples)
    vae_samples = run_guider(guider, sampler, sigmas, empty, empty, progress)
    return sampler.result, vae_samples


def run_with_denoiser(
    guider: comfy.samplers.CFGGuider,
    function: Callable[[Denoiser], Result],
    noise: Tensor,
    latent_image: Tensor,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    seed: int | None = None,
) -> Result:
    """Open a run of a guider and call a function with its denoiser; return what the function returns.

    Hooks, wrappers, controls and windows of the guider's MODEL are active until the function returns.

    Args:
        noise, latent_image: of the run's shape; only the conditioning of some MODELs uses their values.
    """
    sampler = _FunctionSampler(function)
    guider.sample(noise, latent_image, sampler, sigmas, denoise_mask, disable_pbar=True, seed=seed)
    return sampler.result


class _FunctionSampler(comfy.samplers.Sampler):
    """Calls a function with the denoiser of a run and keeps what it returns."""

    def __init__(self, function: Callable[[Denoiser], Any]):
        self.function = function

    def sample(
        self,
        model_wrap: comfy.samplers.CFGGuider,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable[..., None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        self.result = self.function(partial(model_wrap, **extra_args))
        return noise


def _report_windows(guider: comfy.samplers.CFGGuider, progress: SamplingProgress) -> None:
    """Report each window of a run to its progress bar, without changing the MODEL's options."""
    windows = as_frame_windows(guider.model_options.get("context_handler"))
    if windows is not None:
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options["context_handler"] = windows = copy.copy(windows)
        windows.on_window = progress.on_window

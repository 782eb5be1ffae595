"""Run a ComfyUI guider on a latent without adding noise or rescaling it, as ComfyUI's samplers do.

Every run uses `CFGGuider.sample`, so wrappers, hooks and injections that other packs add to a MODEL work.
"""

import copy
from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..grids import unit_scale
from .latents import check_finite
from .sampling_progress import SamplingProgress
from .windows import as_frame_windows


class _InterruptibleModel(comfy.samplers.KSamplerX0Inpaint):
    """Wraps the guider as k-diffusion's model; cancelling takes effect before the next call."""

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class UnitScaleSampler(comfy.samplers.Sampler):
    """Runs a k-diffusion sampler whose input and output latents are in diffusers' scale.

    `latent_image` is z at the first sigma of the grid, x = z * sqrt(1 + sigma^2) (flow models: x = z). The result is
    converted back at the last sigma. Noise and mask are ignored.
    """

    def __init__(self, function: Callable[..., Tensor], flow: bool):
        self.function = function
        self.scale = (lambda sigma: 1.0) if flow else unit_scale

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
            latent_image * self.scale(first),
            sigmas.clone(),  # uni_pc writes into it
            extra_args=extra_args,
            callback=report,
            disable=disable_pbar,
        )
        return x / self.scale(last)


def run_guider(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    latent_image: Tensor,
    *,
    noise: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample with progress, previews and a NaN check; if `noise` is None, without noise."""
    model = guider.model_patcher
    progress = SamplingProgress(model, len(sigmas) - 1, is_inversion=bool(sigmas[0] < sigmas[-1]))
    _report_windows(guider, progress)
    if noise is None:
        torch.manual_seed(seed)  # patches may use the global generator; ComfyUI's prepare_noise seeds it too
    samples = guider.sample(
        torch.zeros_like(latent_image) if noise is None else noise,
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


def _report_windows(guider: comfy.samplers.CFGGuider, progress: SamplingProgress) -> None:
    windows = as_frame_windows(guider.model_options.get("context_handler"))
    if windows is not None:
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options["context_handler"] = windows = copy.copy(windows)
        windows.on_window = progress.on_window

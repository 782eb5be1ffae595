"""Borrow the control of an image MODEL: what its ControlNet changes in each frame is added to a video MODEL's frames.

While the video model denoises, its prediction of the clean latents becomes
`video + weight * (image with control - image without control)`, with both image predictions at the same latents and
noise level. What a frame is like without the control cancels; only what the control changes remains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from einops import rearrange
from torch import Tensor

from ..solvers import Denoiser
from .comfy_types import Conditioning, Model
from .compat.comfyui_internals import BORROWED_CONTROL_WRAPPER
from .latents import to_clip
from .memory import load_together
from .model_families import has_time_axis
from .prompts import PromptPair, check_image_input, check_prompt, check_prompt_coverage
from .sampler import run_with_denoiser
from .validation import validate_model, validate_pair


@dataclass(frozen=True)
class BorrowedControl:
    """OUTER_SAMPLE wrapper of a video MODEL: adds the control of an image MODEL to its predictions.

    Both image predictions take part in runs of their own, which stay open while the video model samples, so their
    hooks, controls and chunks work. They are added once a step, after the guidance of the video model and to the whole
    clip, whatever its windows are.

    Args:
        controlled_model: image MODEL that predicts with `with_control`.
        plain_model: image MODEL that predicts with `without_control`; often the same.
        weight: factor of the difference.
        start_percent, end_percent: part of the denoising in which it is added, as in ComfyUI's Apply ControlNet.
    """

    controlled_model: Model
    plain_model: Model
    with_control: Conditioning
    without_control: Conditioning
    weight: float
    start_percent: float
    end_percent: float

    def __call__(
        self,
        executor: WrapperExecutor,
        noise: Tensor,
        latent_image: Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[..., None] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Sample with the difference in ComfyUI's list of functions after the guidance."""
        guider = executor.class_obj
        low, high = self._sigma_range(guider.model_patcher)
        self._check_prompt_coverage(sigmas[(low <= sigmas) & (sigmas <= high)])
        frames = self._to_frames(torch.zeros_like(noise))
        controlled_guider = _PredictionGuider(self.controlled_model, self.with_control)
        # A guider replaces a MODEL with dynamic memory whose prompt has hooks.
        same = self.controlled_model is self.plain_model
        plain_model = controlled_guider.model_patcher if same else self.plain_model
        plain_guider = _PredictionGuider(plain_model, self.without_control)

        def sample(plain: Denoiser, controlled: Denoiser) -> Tensor:
            # Each guider sees one prompt, so ComfyUI would compute the weights of hooks again in every step.
            controlled_guider.model_patcher.hook_mode = comfy.hooks.EnumHookMode.MaxSpeed

            def add_control(step: dict) -> Tensor:
                if not low <= step["sigma"][0] <= high:
                    return step["denoised"]
                x = self._to_frames(step["input"])
                sigma = step["sigma"][:1].expand(len(x))
                difference = controlled(x, sigma) - plain(x, sigma)
                return step["denoised"] + self.weight * to_clip(difference)

            functions = guider.model_options.get("sampler_post_cfg_function", [])
            guider.model_options["sampler_post_cfg_function"] = [*functions, add_control]
            return executor(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed=seed, **kwargs
            )

        def open_controlled(plain: Denoiser) -> Tensor:
            return run_with_denoiser(controlled_guider, partial(sample, plain), frames, frames, sigmas, seed=seed)

        # The run with hooks is the inner one: ComfyUI drops a MODEL's hooks when another run of it begins.
        return run_with_denoiser(plain_guider, open_controlled, frames, frames, sigmas, seed=seed)

    def _sigma_range(self, video_model: Model) -> tuple[float, float]:
        """Lowest and highest sigma at which the difference is added; never above the image MODELs' sigma_max."""
        video = video_model.get_model_object("model_sampling")
        images = [model.get_model_object("model_sampling") for model in (self.controlled_model, self.plain_model)]
        # Schedulers round the highest level.
        highest = min(float(sampling.sigma_max) for sampling in images) * (1 + 1e-4)
        return float(video.percent_to_sigma(self.end_percent)), min(
            float(video.percent_to_sigma(self.start_percent)), highest
        )

    def _check_prompt_coverage(self, sigmas: Tensor) -> None:
        check_prompt_coverage(self.controlled_model, {"with_control": self.with_control}, sigmas)
        check_prompt_coverage(self.plain_model, {"without_control": self.without_control}, sigmas)

    def _to_frames(self, x: Tensor) -> Tensor:
        """A video MODEL's latents in the layout of the image MODEL."""
        return rearrange(x, "1 c t h w -> t c 1 h w") if has_time_axis(self.plain_model) else x


class _PredictionGuider(comfy.samplers.CFGGuider):
    """Predicts with one CONDITIONING, without guidance.

    ComfyUI copies controls and areas between the prompts of a guider, so each prediction has a guider of its own.
    """

    def __init__(self, model: Model, conditioning: Conditioning):
        super().__init__(model)
        self.inner_set_conds({"prompt": conditioning})

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        (prediction,) = comfy.samplers.calc_cond_batch(
            self.inner_model, [self.conds["prompt"]], x, timestep, model_options
        )
        return prediction


def borrow_control(model: Model, control: BorrowedControl) -> Model:
    """A clone of a video MODEL that denoises with borrowed control; its image MODELs have their chunks set.

    Raises:
        ValueError: the MODELs differ in latent space or kind of noise, one of them uses AnimateDiff-Evolved, `model` is
            not a video model, a prompt does not fit its MODEL, or there is no control to borrow.
    """
    controlled, plain = control.controlled_model, control.plain_model
    validate_model(model, is_video=True)
    prompts = ((controlled, control.with_control), (plain, control.without_control))
    for image_model, conditioning in prompts:
        validate_pair(image_model, model)
        family = validate_model(image_model, is_video=False, per_frame=True)
        for text, extra in conditioning:
            check_prompt(text, extra, family, family.text_width(image_model.model))
        check_image_input(family, PromptPair.without_guidance(conditioning), {})
    if controlled is plain and control.with_control is control.without_control:
        raise ValueError(
            "with_control and without_control are the same prompt, so there is no control to borrow. Wire the positive "
            "output of Apply ControlNet to with_control, and the prompt before it to without_control."
        )
    if controlled.is_clone(plain) and controlled.patches_uuid != plain.patches_uuid:
        raise ValueError(
            "controlled_model and image_model are one model with different LoRAs, which cannot be loaded together. "
            "Unlink controlled_model and add the LoRA to with_control as a hook: Create Hook LoRA, then Cond Set Props."
        )
    conditionings = control.with_control, control.without_control
    model = load_together(model, [controlled, plain], conditionings, BORROWED_CONTROL_WRAPPER)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, BORROWED_CONTROL_WRAPPER, control)
    return model

"""A guider of two MODELs for SamplerCustomAdvanced: combines the predictions of an image and a video model."""

from collections.abc import Callable
from functools import partial

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ..bridging import bridge
from ..solvers import Denoiser
from .comfy_types import Model
from .memory import load_together
from .model_families import has_time_axis
from .prompts import PromptPair
from .sampler import run_with_denoiser
from .stages import make_guider
from .validation import validate_model, validate_pair

IMAGE_MODEL = "bivdiff_image_model"
"""Key of the image MODEL among the additional models of the video MODEL."""


class TwoModelGuider(comfy.samplers.CFGGuider):
    """The video MODEL's guider, which samples inside a run of the image MODEL's guider.

    Both runs are open while the model is called, so hooks, wrappers, controls and windows of both MODELs are active.

    Args:
        image_guider: of the image MODEL, with conditioning and guidance set.
        video: MODEL of the same latent space.
        strategy, image_share: see `bridging.bridge`.
    """

    image_denoiser: Denoiser
    """Prediction of the image model's guider; exists only during its run."""

    def __init__(self, image_guider: comfy.samplers.CFGGuider, video: Model, strategy: str, image_share: float):
        super().__init__(video)
        self.image_guider = image_guider
        self.strategy = strategy
        self.image_share = image_share

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[..., None] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        def sample(image_denoiser: Denoiser) -> Tensor:
            self.image_denoiser = image_denoiser
            try:
                return super(TwoModelGuider, self).sample(
                    noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
                )
            finally:
                del self.image_denoiser

        return run_with_denoiser(self.image_guider, sample, noise, latent_image, sigmas, denoise_mask, seed)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        video_denoiser = partial(super().predict_noise, model_options=model_options, seed=seed)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        return bridge(self.image_denoiser, video_denoiser, x, timestep, sigmas, self.strategy, self.image_share)


def make_two_model_guider(
    image_model: Model,
    image_prompts: PromptPair,
    video_model: Model,
    video_prompts: PromptPair,
    strategy: str,
    image_share: float,
) -> TwoModelGuider:
    """Build the guider of two MODELs; `image_model` has its windows set already.

    Raises:
        ValueError: the MODELs differ in latent space or kind of noise, one of them uses AnimateDiff-Evolved, or
            `video_model` is not a video model, or their latents have a time axis.
    """
    validate_pair(image_model, video_model)
    validate_model(video_model, is_video=True, prompts=video_prompts)
    if has_time_axis(image_model):
        raise ValueError(
            "both models predict the same latents in every step, but this image model takes single frames, and the "
            "video model latents that pack several frames each. Wire Stable Diffusion 1.5 and ZeroScope, or the chain "
            "with both DDIM Inverse nodes."
        )
    conditionings = image_prompts.positive, image_prompts.negative
    video_model = load_together(video_model, [image_model], conditionings, IMAGE_MODEL)
    guider = TwoModelGuider(make_guider(image_model, image_prompts), video_model, strategy, image_share)
    guider.set_conds(video_prompts.positive, video_prompts.negative)
    guider.set_cfg(video_prompts.cfg)
    return guider

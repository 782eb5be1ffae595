"""A guider of two MODELs, for SamplerCustomAdvanced: the video model denoises, and the image model has its say."""

from functools import partial

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ..bridging import bridge
from . import animatediff
from .latents import sampling_family


class BridgeGuider(comfy.samplers.CFGGuider):
    """The video MODEL's guider with that of the image MODEL around it.

    The image guider's own run is open while the video guider samples, so hooks, wrappers, controls and windows of
    both MODELs are in force.

    Args:
        image: the image model's guider, its conditioning and guidance set.
        video: MODEL of the same latent space.
        strategy, share: see `bridging.bridge`.
    """

    def __init__(self, image: comfy.samplers.CFGGuider, video, strategy: str, share: float):
        super().__init__(video)
        self.image_guider = image
        self.strategy = strategy
        self.share = share

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        def sample(image):
            self.image = image
            return super(BridgeGuider, self).sample(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
            )

        try:
            return self.image_guider.sample(
                noise, latent_image, _Opened(sample), sigmas, denoise_mask, disable_pbar=True, seed=seed
            )
        finally:
            self.image = None

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        video = partial(super().predict_noise, model_options=model_options or {}, seed=seed)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        return bridge(self.image, video, x, timestep, sigmas, self.strategy, self.share)


class _Opened(comfy.samplers.Sampler):
    """Hands the guider that is about to sample to a function, whose result is a LATENT's samples."""

    def __init__(self, function):
        self.function = function

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        samples = self.function(partial(model_wrap, **extra_args))
        return model_wrap.inner_model.process_latent_in(samples.to(noise.device))


def bridge_guider(
    image_model,
    image_positive: list,
    image_negative: list,
    image_cfg: float,
    video_model,
    video_positive: list,
    video_negative: list,
    video_cfg: float,
    strategy: str,
    share: float,
    node: str,
) -> BridgeGuider:
    """The guider of two MODELs, `image_model` with its windows set.

    Raises:
        ValueError: the MODELs share no latent space or no kind of noise, or one of them is AnimateDiff-Evolved's.
    """
    for model in (image_model, video_model):
        animatediff.check_beside_another(model, node)
    for what, ours in (
        ("latent space", lambda model: type(model.get_model_object("latent_format")).__name__),
        ("kind of noise", lambda model: sampling_family(model, node)),
    ):
        if ours(image_model) != ours(video_model):
            raise ValueError(
                f"{node}: the image model's {what} is {ours(image_model)}, the video model's {ours(video_model)}. "
                "Use models that share a VAE, such as Stable Diffusion 1.5 with ZeroScope."
            )
    image = comfy.samplers.CFGGuider(image_model)
    image.set_conds(image_positive, image_negative)
    image.set_cfg(image_cfg)
    guider = BridgeGuider(image, video_model, strategy, share)
    guider.set_conds(video_positive, video_negative)
    guider.set_cfg(video_cfg)
    return guider

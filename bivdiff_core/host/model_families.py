"""What is true of a kind of model, one record each: what it sees, which text it reads, how it is to be inverted.

A new kind of model is one more record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.ldm.hunyuan_video.model
import comfy.model_base
import comfy.model_sampling
from comfy.model_base import BaseModel

from ..solvers import SOLVERS
from .comfy_types import Model
from .compat import animatediff_evolved
from .loaders.patched_attention import SUPPORTED_PATCHES
from .loaders.video_unet import VideoModel
from .loaders.vidrd import VidRDModel

DIFFUSION, FLOW = "diffusion", "flow"

LOOK_AHEAD_SOLVERS = ("uni_inv", "fixed_point")
"""Solvers that read the slope at the level that a step leads to, in the end at the grid's last."""


@dataclass(frozen=True)
class ModelFamily:
    """A kind of MODEL.

    Args:
        name: in messages.
        matches: whether a MODEL is of this kind; of several records the first holds.
        video: whether its frames see one another.
        text_width: length of the vectors that its own text encoder gives, None where any text will do.
        text_key: what its text encoder gives beside them, and the model cannot do without.
        control: whether ControlNets reach it.
        prompt_per_frame: whether frames can have prompts of their own.
        patches: which of the host's patches reach its network; None for all.
        picture: which node gives the picture that it works on; None for models that need none.
        mask_will_do: whether a noise_mask does instead of that.
        solvers: of inversion, that it can be inverted with.
        masked_text_one_by_one: whether text with an attention_mask goes through one row a call.
        for_inversion: the MODEL with what only moves forward as noise falls made to follow rising noise.
    """

    name: str
    matches: Callable[[Model], bool]
    video: bool = False
    text_width: Callable[[BaseModel], int | None] = lambda model: None
    text_key: str | None = None
    control: bool = True
    prompt_per_frame: bool = True
    patches: tuple[str, ...] | None = None
    picture: str | None = None
    mask_will_do: bool = False
    solvers: tuple[str, ...] = tuple(SOLVERS)
    masked_text_one_by_one: bool = False
    for_inversion: Callable[[Model], Model] = lambda model: model


def _is_instance_of(*classes: type) -> Callable[[Model], bool]:
    return lambda model: isinstance(model.model, classes)


def _unet_text_width(model: BaseModel) -> int | None:
    return model.model_config.unet_config.get("context_dim")


def _is_mean_flow(model: Model) -> bool:
    return getattr(model.model.diffusion_model, "time_r_in", None) is not None


HUNYUAN_VIDEO = ModelFamily(
    "HunyuanVideo",
    _is_instance_of(comfy.model_base.HunyuanVideo),
    video=True,
    text_width=lambda model: model.diffusion_model.params.context_in_dim,
    text_key="pooled_output",
    masked_text_one_by_one=True,
)

FAMILIES = (
    ModelFamily(
        "AnimateDiff",
        lambda model: bool(animatediff_evolved.get_motion_models(model)),
        video=True,
        text_width=_unet_text_width,
        for_inversion=animatediff_evolved.for_inversion,
    ),
    ModelFamily(
        "UNet3DConditionModel",
        _is_instance_of(VideoModel),
        video=True,
        text_width=lambda model: model.diffusion_model.unet.config.cross_attention_dim,
        control=False,
        prompt_per_frame=False,
        patches=SUPPORTED_PATCHES,
    ),
    ModelFamily("VidRD", _is_instance_of(VidRDModel), video=True, text_width=_unet_text_width),
    ModelFamily("Stable Video Diffusion", _is_instance_of(comfy.model_base.SVD_img2vid), video=True),
    ModelFamily(
        "Wan",
        _is_instance_of(comfy.model_base.WAN21),
        video=True,
        text_width=lambda model: model.diffusion_model.text_dim,
    ),
    ModelFamily(
        "LTX",
        _is_instance_of(comfy.model_base.LTXV),
        video=True,
        text_width=lambda model: model.diffusion_model.caption_channels,
        text_key="attention_mask",
    ),
    replace(
        HUNYUAN_VIDEO,
        name="mean-flow HunyuanVideo",
        matches=lambda model: HUNYUAN_VIDEO.matches(model) and _is_mean_flow(model),
        solvers=tuple(name for name in SOLVERS if name not in LOOK_AHEAD_SOLVERS),
    ),
    HUNYUAN_VIDEO,
    ModelFamily(
        "HunyuanImage",
        lambda model: isinstance(model.model.diffusion_model, comfy.ldm.hunyuan_video.model.HunyuanVideo),
        masked_text_one_by_one=True,
    ),
    ModelFamily("video", lambda model: has_video_latents(model), video=True),
    ModelFamily(
        "InstructPix2Pix",
        _is_instance_of(comfy.model_base.IP2P),
        text_width=_unet_text_width,
        picture="InstructPixToPixConditioning, with the clip's frames as pixels",
    ),
    ModelFamily(
        "inpainting",
        lambda model: "masked_image" in model.model.concat_keys,
        text_width=_unet_text_width,
        picture="InpaintModelConditioning, or the encoded clip through Set Latent Noise Mask",
        mask_will_do=True,
    ),
    ModelFamily("image", lambda model: True, text_width=_unet_text_width),
)


def find_family(model: Model) -> ModelFamily:
    """The record of a MODEL's kind."""
    return next(family for family in FAMILIES if family.matches(model))


def has_video_latents(model: Model) -> bool:
    """Whether a MODEL's latents are `[B, C, T, H, W]`, as opposed to frames in the batch."""
    return model.get_model_object("latent_format").latent_dimensions == 3


def find_noise_kind(model: Model) -> str:
    """Kind of noise: `diffusion` (eps and v: x = x0 + sigma * eps) or `flow` (x = (1 - sigma) * x0 + sigma * noise).

    Raises:
        ValueError: the MODEL's noise is of neither kind.
    """
    sampling = model.get_model_object("model_sampling")
    refused = (comfy.model_sampling.IMG_TO_IMG, comfy.model_sampling.IMG_TO_IMG_FLOW)
    if not isinstance(sampling, refused):
        if isinstance(sampling, comfy.model_sampling.CONST) and getattr(sampling, "noise_scale", 1.0) == 1.0:
            return FLOW
        if isinstance(sampling, comfy.model_sampling.EPS) and getattr(sampling, "sigma_data", 1.0) == 1.0:
            return DIFFUSION
    raise ValueError(
        f"a model of type {model.model.model_type.name} cannot be inverted. Use an eps, v or rectified-flow model "
        "(SD 1.5, SD 2, SDXL, ModelScope, AnimateDiff, Wan, LTX, ...)."
    )


def is_reference_compatible(model: Model) -> bool:
    """Whether a MODEL is of the kind that the released code knows: eps, 1000 timesteps, frames in the batch."""
    sampling = model.get_model_object("model_sampling")
    return (
        isinstance(sampling, comfy.model_sampling.EPS)
        and not isinstance(sampling, (comfy.model_sampling.V_PREDICTION, comfy.model_sampling.X0))
        and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
        and len(sampling.sigmas) == 1000
        and not has_video_latents(model)
    )


def has_distilled_guidance(model: Model) -> bool:
    """Whether guidance is built into a MODEL (Flux, HunyuanVideo), as an input of its network."""
    return getattr(getattr(model.model.diffusion_model, "params", None), "guidance_embed", False)

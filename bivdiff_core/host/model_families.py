"""Facts about each kind of model, one record each: frames together or not, text encoder, inversion.

A new kind of model needs one more record.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.ldm.hunyuan_video.model
import comfy.model_base
import comfy.model_sampling
from comfy.model_base import BaseModel

from ..solvers import SOLVERS
from .comfy_types import Model
from .compat import animatediff_evolved
from .compat.comfyui_internals import find_model_file
from .loaders.patched_attention import SUPPORTED_PATCHES
from .loaders.video_unet import VideoModel
from .loaders.vidrd import VidRDModel

DIFFUSION, FLOW = "diffusion", "flow"

LOOK_AHEAD_SOLVERS = ("uni_inv", "fixed_point")
"""Solvers that call the model at the target sigma of a step, so also at the grid's last sigma."""


@dataclass(frozen=True)
class ModelFamily:
    """A kind of MODEL.

    Args:
        name: for messages.
        matches: whether a MODEL is of this kind; the first match in `FAMILIES` wins.
        is_video: whether the model processes frames together, so that they depend on each other.
        text_width: length of the vectors of its text encoder; None if the text is not checked.
        text_key: a second output of its text encoder that the model needs; None if it needs none.
        supports_control: whether ControlNets affect it.
        supports_frame_prompts: whether each frame can have a prompt.
        supported_patches: ComfyUI's patches that its network applies; None for all.
        image_source: node that adds the image that the model needs as an input; None if it needs none.
        accepts_noise_mask: whether a noise_mask can replace that node.
        solvers: inversion solvers that work with it.
        runs_masked_text_per_row: whether text with an attention_mask needs one row per model call.
        adapt_for_inversion: returns a clone whose schedules (keyframes) also work while sigma increases.
    """

    name: str
    matches: Callable[[Model], bool]
    is_video: bool = False
    text_width: Callable[[BaseModel], int | None] = lambda model: None
    text_key: str | None = None
    supports_control: bool = True
    supports_frame_prompts: bool = True
    supported_patches: tuple[str, ...] | None = None
    image_source: str | None = None
    accepts_noise_mask: bool = False
    solvers: tuple[str, ...] = tuple(SOLVERS)
    runs_masked_text_per_row: bool = False
    adapt_for_inversion: Callable[[Model], Model] = lambda model: model


def _is_instance_of(*classes: type) -> Callable[[Model], bool]:
    return lambda model: isinstance(model.model, classes)


def _unet_text_width(model: BaseModel) -> int | None:
    return model.model_config.unet_config.get("context_dim")


def _is_mean_flow(model: Model) -> bool:
    return getattr(model.model.diffusion_model, "time_r_in", None) is not None


def has_time_axis(model: Model) -> bool:
    """Whether a MODEL's latents are `[B, C, T, H, W]` rather than frames in the batch."""
    return model.get_model_object("latent_format").latent_dimensions == 3


def frames_per_latent(model: Model) -> int:
    """Frames that a MODEL's VAE packs in each latent of a clip after the first, which holds one (Wan 4, LTX 8)."""
    return getattr(model.get_model_object("latent_format"), "temporal_downscale_ratio", 1)  # older ComfyUIs lack it


def count_frames(latents: int, model: Model) -> int:
    """Frames of a clip of this many latents."""
    return (latents - 1) * frames_per_latent(model) + 1


IMAGE_MODELS_WITH_TIME_AXIS = {"Anima", "CosmosPredict2", "JoyImage", "Krea2", "QwenImage"}
"""ComfyUI's classes of image models whose latents are `[F, C, 1, H, W]`, by name: older ComfyUIs lack some."""


def _class_names(instance: object) -> set[str]:
    """The names of an object's class and its base classes."""
    return {kind.__name__ for kind in type(instance).__mro__}


def _is_image_model_with_time_axis(model: Model) -> bool:
    makes_videos = getattr(model.model, "image_to_video", False)  # CosmosPredict2 is the class of both kinds
    return has_time_axis(model) and not makes_videos and bool(_class_names(model.model) & IMAGE_MODELS_WITH_TIME_AXIS)


HUNYUAN_VIDEO = ModelFamily(
    "HunyuanVideo",
    _is_instance_of(comfy.model_base.HunyuanVideo),
    is_video=True,
    text_width=lambda model: model.diffusion_model.params.context_in_dim,
    text_key="pooled_output",
    runs_masked_text_per_row=True,
)

WAN = ModelFamily(
    "Wan",
    _is_instance_of(comfy.model_base.WAN21),
    is_video=True,
    text_width=lambda model: model.diffusion_model.text_dim,
)


def _has_image_channels(model: Model) -> bool:
    """Whether a Wan model takes an image or a control video in further channels (I2V, Fun Control, Animate)."""
    network, kinds = model.model.diffusion_model, (comfy.model_base.WAN21, comfy.model_base.WAN22_Animate)
    return type(model.model) in kinds and network.in_dim > network.out_dim


def find_expert(model: Model) -> str:
    """`high` or `low` if the name of a MODEL's file says that it is one of Wan 2.2's two experts; else empty."""
    match = re.search(r"2[._]2.*[^a-z](high|low)([^a-z]?noise)?[^a-z]", find_model_file(model).lower())
    return match[1] if match and isinstance(model.model, comfy.model_base.WAN21) else ""


FAMILIES = (
    ModelFamily(
        "AnimateDiff",
        lambda model: bool(animatediff_evolved.get_motion_models(model)),
        is_video=True,
        text_width=_unet_text_width,
        adapt_for_inversion=animatediff_evolved.adapt_for_inversion,
    ),
    ModelFamily(
        "UNet3DConditionModel",
        _is_instance_of(VideoModel),
        is_video=True,
        text_width=lambda model: model.diffusion_model.unet.config.cross_attention_dim,
        supports_control=False,
        supports_frame_prompts=False,
        supported_patches=SUPPORTED_PATCHES,
    ),
    ModelFamily("VidRD", _is_instance_of(VidRDModel), is_video=True, text_width=_unet_text_width),
    ModelFamily(
        "Stable Video Diffusion",
        _is_instance_of(comfy.model_base.SVD_img2vid),
        is_video=True,
        image_source="SVD_img2vid_Conditioning",
    ),
    replace(
        WAN,
        name="Wan image-to-video",
        matches=_has_image_channels,
        image_source="WanImageToVideo, or the node of the control that the model is made for",
    ),
    WAN,
    ModelFamily(
        "LTX",
        _is_instance_of(comfy.model_base.LTXV),
        is_video=True,
        text_width=lambda model: model.diffusion_model.caption_channels,
        text_key="attention_mask",
    ),
    ModelFamily(
        "Mochi",
        _is_instance_of(comfy.model_base.GenmoMochi),
        is_video=True,
        text_width=lambda model: model.diffusion_model.t5_feat_dim,
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
        runs_masked_text_per_row=True,
    ),
    ModelFamily("image", _is_image_model_with_time_axis),
    ModelFamily("video", has_time_axis, is_video=True),
    ModelFamily(
        "InstructPix2Pix",
        _is_instance_of(comfy.model_base.IP2P),
        text_width=_unet_text_width,
        image_source="InstructPixToPixConditioning, with the clip's frames as pixels",
    ),
    ModelFamily(
        "inpainting",
        lambda model: "masked_image" in model.model.concat_keys,
        text_width=_unet_text_width,
        image_source="InpaintModelConditioning, or the encoded clip through Set Latent Noise Mask",
        accepts_noise_mask=True,
    ),
    ModelFamily("image", lambda model: True, text_width=_unet_text_width),
)


def find_family(model: Model) -> ModelFamily:
    """The first record of `FAMILIES` that matches a MODEL."""
    return next(family for family in FAMILIES if family.matches(model))


def latent_format_name(model: Model) -> str:
    """Class name of a MODEL's latent format; two MODELs with the same one share a latent space."""
    return type(model.get_model_object("latent_format")).__name__


def find_noise_kind(model: Model) -> str:
    """Kind of noise: `diffusion` (eps and v: x = x0 + sigma * eps) or `flow` (x = (1 - sigma) * x0 + sigma * noise).

    Raises:
        ValueError: the MODEL's noise is of another kind.
    """
    sampling = model.get_model_object("model_sampling")
    unsupported = (comfy.model_sampling.IMG_TO_IMG, comfy.model_sampling.IMG_TO_IMG_FLOW)
    if not isinstance(sampling, unsupported):
        if isinstance(sampling, comfy.model_sampling.CONST) and getattr(sampling, "noise_scale", 1.0) == 1.0:
            return FLOW
        if isinstance(sampling, comfy.model_sampling.EPS) and getattr(sampling, "sigma_data", 1.0) == 1.0:
            return DIFFUSION
    raise ValueError(
        f"a model of type {model.model.model_type.name} cannot be inverted. Use an eps, v or rectified-flow model "
        "(SD 1.5, SD 2, SDXL, ModelScope, AnimateDiff, Wan, LTX, ...)."
    )


def is_reference_compatible(model: Model) -> bool:
    """Whether the released code supports a MODEL of this kind: eps, 1000 timesteps, frames in the batch."""
    sampling = model.get_model_object("model_sampling")
    return (
        isinstance(sampling, comfy.model_sampling.EPS)
        and not isinstance(sampling, (comfy.model_sampling.V_PREDICTION, comfy.model_sampling.X0))
        and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
        and len(sampling.sigmas) == 1000
        and not has_time_axis(model)
    )


def has_distilled_guidance(model: Model) -> bool:
    """Whether a MODEL has distilled guidance, an input of its network (Flux, HunyuanVideo)."""
    return model.model.model_config.unet_config.get("guidance_embed", False)


DISTILLED_MODELS = {"FluxSchnell": "Flux schnell", "WAN21_CausalAR_T2V": "causal Wan"}
"""ComfyUI's classes of models that are distilled to few steps, by name: older ComfyUIs lack some."""


def describe_distillation(model: Model) -> str | None:
    """What shows that a MODEL is distilled to few steps; None if nothing does.

    Nothing shows it for LoRAs (Lightning, lightx2v) and for most distilled checkpoints.
    """
    if "LCM" in _class_names(model.get_model_object("model_sampling")):  # each import of core's file has its own LCM
        return "LCM sampling"
    if _is_mean_flow(model):
        return "mean flow"
    return next(
        (DISTILLED_MODELS[name] for name in _class_names(model.model.model_config) & set(DISTILLED_MODELS)), None
    )


def find_difference(model: Model, other: Model) -> tuple[str, str, str] | None:
    """What differs between MODELs that work on the same latents, and its value for each; None if nothing does.

    Raises:
        ValueError: a MODEL's noise is of another kind than those of `find_noise_kind`.
    """
    for what, describe in (("latent space", latent_format_name), ("kind of noise", find_noise_kind)):
        if describe(model) != describe(other):
            return what, describe(model), describe(other)
    return None

"""MODELs of AnimateDiff-Evolved, recognised by the pack's attachments; the pack itself is never imported.

Its motion models process all frames of a batch together. Its windows, sample settings and keyframes are made for
denoising in one run. This module sets, rejects or reports what affects an inversion or denoising from inverted frames.
Facts as of AnimateDiff-Evolved 1.5.7 (github.com/Kosinkadink/ComfyUI-AnimateDiff-Evolved).
"""

import copy
import sys
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...node_warnings import warn
from ..comfy_types import Model
from .private_names import private_api

animatediff_api = private_api("AnimateDiff-Evolved 1.5.7")

PARAMS_KEY, SAMPLE_SETTINGS_KEY, MOTION_KEY = "ADE_params", "ADE_sample_settings", "ADE"
MOTION_WRAPPER_KEY = "bivdiff_keyframes"
STATIC_SCHEDULES = ("standard_static", "batched", "view_as_context")
"""Context schedules with the same windows at every step."""
INITIAL_MOTION_STATE = {
    "current_index": -1,
    "current_keyframe": None,
    "current_used_steps": 0,
    "previous_t": -1,
    "current_scale": None,
    "current_effect": None,
    "current_per_block_list": None,
    "current_cameractrl_effect": None,
    "current_pia_input": None,
}
"""Fields of a motion model's attachment before its first keyframe."""


def get_motion_models(model: Model) -> list[Model]:
    """Return the motion models of a MODEL, as patchers."""
    return model.get_additional_models_with_key(MOTION_KEY)


@animatediff_api
def has_dependent_frames(model: Model) -> bool:
    """Whether a MODEL's frames depend on each other or on the context windows of AnimateDiff-Evolved."""
    params = model.get_attachment(PARAMS_KEY)
    return params is not None and (bool(get_motion_models(model)) or has_context_windows(params.context_options))


@animatediff_api
def set_context_options(model: Model, length: int, overlap: int) -> Model:
    """Return a clone of a MODEL with context windows of AnimateDiff-Evolved, or the MODEL itself if it has some.

    ComfyUI's windows would give the motion models another frame count than the pack has set. The windows are static,
    so inversion and denoising use the same ones at every step.
    """
    params = model.get_attachment(PARAMS_KEY)
    if has_context_windows(params.context_options):
        return model
    pack = sys.modules[type(params.context_options).__module__]
    windows = pack.ContextOptionsGroup()
    windows.add(
        pack.ContextOptions(
            context_length=length, context_overlap=overlap, context_schedule="standard_static", fuse_method="pyramid"
        )
    )
    params = params.clone()
    params.set_context(windows)
    model = clone_with_block_settings(model)
    model.set_attachments(PARAMS_KEY, params)
    return model


@animatediff_api
def adapt_for_inversion(model: Model) -> Model:
    """Return a clone of a MODEL for inversion: keyframes follow the noise level, and Context Extras are removed.

    AnimateDiff-Evolved only advances to later keyframes, one at a time while they have guaranteed steps. That works
    while sigma decreases. Here every model call searches the keyframes from the start. Context Extras (NaiveReuse,
    ContextRef) reuse results of earlier steps, and distort an inversion by .26 to 16 times its size.
    """
    model = clone_with_block_settings(model)
    params = model.get_attachment(PARAMS_KEY).clone()
    extras = params.context_options.extras
    if extras.get_extras_list():
        names = ", ".join(type(extra).__name__ for extra in extras.get_extras_list())
        warn("Switched off for the inversion: %s (AnimateDiff's Context Extras only work for denoising).", names)
        params.context_options.extras = type(extras)()
        model.set_attachments(PARAMS_KEY, params)
    for motion in get_motion_models(model):
        group = motion.get_attachment(MOTION_KEY).keyframes
        group.keyframes = [copy.copy(keyframe) for keyframe in group.keyframes]
        for keyframe in group.keyframes:
            keyframe.guarantee_steps = 0
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, MOTION_WRAPPER_KEY, _reset_motion_keyframes)
    return model


def _reset_motion_keyframes(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    for motion in get_motion_models(executor.class_obj.model_patcher):
        vars(motion.get_attachment(MOTION_KEY)).update(INITIAL_MOTION_STATE)
    return executor(*args, **kwargs)


def clone_with_block_settings(model: Model) -> Model:
    """Clone a MODEL, keeping the per-block settings that AnimateDiff-Evolved's cloning drops."""
    clone = model.clone()
    for cloned, original in zip(get_motion_models(clone), get_motion_models(model), strict=True):
        cloned.get_attachment(MOTION_KEY).per_block_list = original.get_attachment(MOTION_KEY).per_block_list
    return clone


def check_independent_frames(model: Model) -> None:
    """Reject a MODEL whose frames depend on each other, for nodes that process each frame separately.

    Raises:
        ValueError: the MODEL has motion models or context windows of AnimateDiff-Evolved.
    """
    if get_motion_models(model):
        raise ValueError(
            "the model has AnimateDiff, which generates frames together, but this node processes each frame "
            "separately. Wire in the image model from before the AnimateDiff nodes."
        )
    if has_dependent_frames(model):
        raise ValueError(
            "the model has AnimateDiff's Context Options without a motion model. They split the clip into windows, "
            "which separate frames do not need. Wire in the model from before the AnimateDiff nodes; frames_per_batch "
            "saves memory."
        )


def check_two_model_sampling(model: Model) -> None:
    """Reject AnimateDiff-Evolved where two MODELs sample together: it replaces ComfyUI's guidance while it samples.

    Raises:
        ValueError: the MODEL comes from AnimateDiff-Evolved.
    """
    if model.get_attachment(PARAMS_KEY) is not None:
        raise ValueError(
            "AnimateDiff-Evolved takes over all sampling while its model runs, so no other model can sample at the "
            "same time. Use another video model (ZeroScope, ModelScope), or invert first and smooth afterwards."
        )


@animatediff_api
def check_sampling(model: Model, frames: int, is_inversion: bool) -> None:
    """Reject AnimateDiff settings that break an inversion or denoising from inverted frames; warn about others.

    Args:
        model: with its windows set. MODELs without AnimateDiff-Evolved pass.
        frames: number of frames of the clip.
        is_inversion: True for an inversion, which uses no guidance; False for denoising.

    Raises:
        ValueError: the message names the AnimateDiff node or the control that fixes it.
    """
    params = model.get_attachment(PARAMS_KEY)
    if params is None:
        return
    settings = model.get_attachment(SAMPLE_SETTINGS_KEY)
    if settings is not None:
        _check_settings(settings, is_inversion)
    windows = params.context_options
    if has_dependent_frames(model) and model.model_options.get("context_handler") is not None:
        raise ValueError(
            "the model has both AnimateDiff and ComfyUI's Context Windows, which do not tell AnimateDiff how many "
            "frames a window has. Remove Context Windows and set context_length, or wire in AnimateDiff's Context "
            "Options."
        )
    if has_context_windows(windows) and not _is_static(windows):
        warn(
            "AnimateDiff's context options change from step to step, so inversion and smoothing use different windows "
            "and the frames are restored less exactly. Set their schedule to Standard Static."
        )
    window_length = min(frames, (windows.view_options or windows).context_length or frames)
    for motion in get_motion_models(model):
        limit = motion.model.encoding_max_len
        if limit is not None and window_length > limit:
            raise ValueError(
                f"AnimateDiff's motion model takes at most {limit} frames at once but would get {window_length}. "
                f"Set context_length to {limit} or less, also in AnimateDiff's Context Options if they are wired in."
            )


def has_context_windows(windows: Any) -> bool:
    """Whether context options define windows. A MODEL without Context Options has some whose schedule is None."""
    return windows.context_schedule is not None


def _is_static(windows: Any) -> bool:
    schedules = [options.context_schedule for options in (windows, windows.view_options) if options is not None]
    return len(windows.contexts) == 1 and set(schedules) <= set(STATIC_SCHEDULES)


def _check_settings(settings: Any, is_inversion: bool) -> None:
    for found, setting in (
        (settings.iteration_opts.iterations > 1, "iterations (FreeInit and the like)"),
        (not settings.image_injection.is_empty(), "image injection"),
        (settings.noise_calibration is not None, "noise calibration"),
    ):
        if found:
            raise ValueError(
                f"AnimateDiff's Sample Settings have {setting}, which would replace the inverted frames with other "
                "noise. Remove it from Sample Settings, or use a model without them."
            )
    if settings.custom_cfg is not None and not is_inversion:
        warn("AnimateDiff's Sample Settings have a custom CFG, which overrides the smoother's cfg.")
    replaced = [
        setting
        for found, setting in (
            (settings.noise_type != "default", f"noise of type {settings.noise_type}"),
            (settings.seed_gen != "comfy", f"the seed generator {settings.seed_gen}"),
            (settings.seed_override is not None, "a seed override"),
            (settings.seed_offset != 0, "a seed offset"),
            (settings.batch_offset != 0, "a batch offset"),
            (not settings.noise_layers.is_empty(), "noise layers"),
        )
        if found
    ]
    if replaced:
        warn(
            "AnimateDiff's Sample Settings ask for %s. This is ignored here: the inverted frames are the noise. In a "
            "core sampler it would replace the noise of Inverted Latent to Noise.",
            ", ".join(replaced),
        )

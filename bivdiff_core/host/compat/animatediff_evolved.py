"""MODELs of AnimateDiff-Evolved, known by what that pack attaches to them; the pack itself is never imported.

Its motion models see the frames of a batch together, and it has windows, sample settings and keyframes of its own,
made for denoising in one go. This is what an inversion and a start from inverted frames must set, refuse or say.
Facts as of AnimateDiff-Evolved 1.5.7 (github.com/Kosinkadink/ComfyUI-AnimateDiff-Evolved).
"""

import copy
import logging
import sys
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfy_types import Model
from .private_names import private_api

log = logging.getLogger(__name__)

animatediff_api = private_api("AnimateDiff-Evolved 1.5.7")

PARAMS_KEY, SAMPLE_SETTINGS_KEY, MOTION_KEY = "ADE_params", "ADE_sample_settings", "ADE"
MOTION_WRAPPER_KEY = "bivdiff_keyframes"
STATIC_SCHEDULES = ("standard_static", "batched", "view_as_context")
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
"""A motion model's attachment before its first keyframe."""


def get_motion_models(model: Model) -> list[Model]:
    """The motion models of a MODEL, as patchers."""
    return model.get_additional_models_with_key(MOTION_KEY)


@animatediff_api
def has_dependent_frames(model: Model) -> bool:
    """Whether a MODEL's frames depend on each other or on windows that AnimateDiff-Evolved cuts."""
    params = model.get_attachment(PARAMS_KEY)
    return params is not None and (bool(get_motion_models(model)) or has_context_windows(params.context_options))


@animatediff_api
def set_context_options(model: Model, length: int, overlap: int) -> Model:
    """A clone of a MODEL with AnimateDiff-Evolved's own windows; those that the MODEL brings stay in force.

    The host's windows would give the motion models another frame count than they were told. The windows are static:
    the same at every step, so that inversion and denoising see the same ones.
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
def for_inversion(model: Model) -> Model:
    """A clone of a MODEL whose keyframes hold for the noise levels that they name, without Context Extras.

    AnimateDiff-Evolved moves on to later keyframes only, one at a time while each has steps guaranteed, which is right
    as sigma falls. As it rises, every model call looks through them anew. Context Extras (NaiveReuse, ContextRef) carry
    what one step has made into the next, and distort an inversion by .26 to 16 times its own size.
    """
    model = clone_with_block_settings(model)
    params = model.get_attachment(PARAMS_KEY).clone()
    extras = params.context_options.extras
    if extras.get_extras_list():
        names = ", ".join(type(extra).__name__ for extra in extras.get_extras_list())
        log.warning("Switched off for the inversion: %s (AnimateDiff's Context Extras follow falling noise).", names)
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
    """A clone of a MODEL, with the per-block settings that AnimateDiff-Evolved's own cloning drops."""
    clone = model.clone()
    for ours, theirs in zip(get_motion_models(clone), get_motion_models(model), strict=True):
        ours.get_attachment(MOTION_KEY).per_block_list = theirs.get_attachment(MOTION_KEY).per_block_list
    return clone


def check_independent_frames(model: Model) -> None:
    """Refuse a MODEL whose frames depend on each other where every frame is on its own.

    Raises:
        ValueError: it has motion models, or windows of AnimateDiff-Evolved.
    """
    if get_motion_models(model):
        raise ValueError(
            "the model has AnimateDiff, which draws frames together, but frames are processed one by one here. Wire in "
            "the image model from before the AnimateDiff nodes."
        )
    if has_dependent_frames(model):
        raise ValueError(
            "the model has AnimateDiff's Context Options without a motion model: they cut the clip into windows, which "
            "single frames do not need. Wire in the model from before the AnimateDiff nodes; frames_per_batch saves "
            "memory."
        )


def check_two_model_sampling(model: Model) -> None:
    """Refuse to sample two MODELs at a time: AnimateDiff-Evolved exchanges the host's guidance while its own samples.

    Raises:
        ValueError: the MODEL is one of AnimateDiff-Evolved.
    """
    if model.get_attachment(PARAMS_KEY) is not None:
        raise ValueError(
            "AnimateDiff-Evolved takes over all sampling while its model runs, so no other model can run "
            "beside it. Use another video model (ZeroScope, ModelScope), or invert and smooth one after the other."
        )


@animatediff_api
def check_sampling(model: Model, frames: int, inverts: bool) -> None:
    """Refuse what would not survive an inversion or a start from inverted frames, and warn of what surprises.

    Args:
        model: with its windows set; MODELs without AnimateDiff-Evolved pass.
        frames: of the clip.
        inverts: whether noise rises, which needs no guidance.

    Raises:
        ValueError: naming the AnimateDiff node or the control that fixes it.
    """
    params = model.get_attachment(PARAMS_KEY)
    if params is None:
        return
    settings = model.get_attachment(SAMPLE_SETTINGS_KEY)
    if settings is not None:
        _check_settings(settings, inverts)
    windows = params.context_options
    if has_dependent_frames(model) and model.model_options.get("context_handler") is not None:
        raise ValueError(
            "the model has AnimateDiff, but also ComfyUI's Context Windows, which do not tell it how many "
            "frames it sees. Remove Context Windows and set context_length, or wire in AnimateDiff's Context Options."
        )
    if has_context_windows(windows) and not _is_static(windows):
        log.warning(
            "AnimateDiff's context options change from step to step, so that inversion and smoothing see different "
            "windows and the frames come back less exactly. Set their schedule to Standard Static."
        )
    seen = min(frames, (windows.view_options or windows).context_length or frames)
    for motion in get_motion_models(model):
        limit = motion.model.encoding_max_len
        if limit is not None and seen > limit:
            raise ValueError(
                f"AnimateDiff's motion model takes at most {limit} frames at once but would get {seen}. Set "
                f"context_length to {limit} or less, also in AnimateDiff's Context Options if they are wired in."
            )


def has_context_windows(windows: Any) -> bool:
    """Whether context options cut anything; a MODEL without any has some without a schedule."""
    return windows.context_schedule is not None


def _is_static(windows: Any) -> bool:
    cuts = [options.context_schedule for options in (windows, windows.view_options) if options is not None]
    return len(windows.contexts) == 1 and set(cuts) <= set(STATIC_SCHEDULES)


def _check_settings(settings: Any, inverts: bool) -> None:
    for found, what in (
        (settings.iteration_opts.iterations > 1, "iterations (FreeInit and the like)"),
        (not settings.image_injection.is_empty(), "image injection"),
        (settings.noise_calibration is not None, "noise calibration"),
    ):
        if found:
            raise ValueError(
                f"AnimateDiff's Sample Settings have {what}, which would replace the inverted frames with other noise. "
                "Remove it from Sample Settings, or use a model without them."
            )
    if settings.custom_cfg is not None and not inverts:
        log.warning("AnimateDiff's Sample Settings have a custom CFG, which overrides the smoother's cfg.")
    replaced = [
        what
        for found, what in (
            (settings.noise_type != "default", f"noise of type {settings.noise_type}"),
            (settings.seed_gen != "comfy", f"seeds as {settings.seed_gen} makes them"),
            (settings.seed_override is not None, "a seed of their own"),
            (settings.seed_offset != 0, "a seed offset"),
            (settings.batch_offset != 0, "a batch offset"),
            (not settings.noise_layers.is_empty(), "noise layers"),
        )
        if found
    ]
    if replaced:
        log.warning(
            "AnimateDiff's Sample Settings ask for %s. That is ignored here, where the inverted frames are the noise; "
            "in a core sampler it would replace the noise of Inverted Latent to Noise.",
            ", ".join(replaced),
        )

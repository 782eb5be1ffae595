"""Chains of ControlNets (ComfyUI's and other packs'), and how other packs learn which frames a window has.

Advanced-ControlNet slices hints, masks and strengths itself; it reads the window from attributes of its controls.
IP-Adapter Plus selects the images of each frame by the window that AnimateDiff-Evolved (1.5.7) stores in the
transformer options.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..comfy_types import ControlModel, Model
from .private_names import private_api

WINDOW_OPTIONS_KEY = "ad_params"
"""Key of the window in transformer_options."""
CONTROL_WRAPPER_KEY = "bivdiff_controls"
KEYFRAME_MASK_FIELD = "tk_mask_cond_hint"
"""Attribute of a control: a timestep keyframe's mask. Later keyframes inherit it, in the slice of the last window."""
ADVANCED_CONTROLNET = "Advanced-ControlNet 1.5"
CURRENT_KEYFRAME_FIELDS = {
    "_current_timestep_keyframe": None,
    "_current_timestep_index": -1,
    "_current_used_steps": 0,
}
"""Attributes of an Advanced-ControlNet control (since May 2024) that name its timestep keyframe, before its first."""
INITIAL_CONTROL_STATE = {
    **CURRENT_KEYFRAME_FIELDS,
    "prev_t": None,
    "weights": None,
    "latent_keyframes": None,
    "tk_mask_cond_hint_original": None,
}
"""All attributes that a control derives from its timestep keyframes, before its first."""


def iterate_controls(conds: Iterable[list[dict] | None], device: torch.device | None = None) -> Iterator[ControlModel]:
    """Yield each control of the conds' chains once: with its clones for other devices, or the clone for `device`."""
    seen = set()
    for cond in conds:
        for entry in cond or ():
            control = entry.get("control")
            while control is not None:
                clones = getattr(control, "multigpu_clones", {})  # missing in a ComfyUI without multi-GPU support
                for copy in (control, *clones.values()) if device is None else (clones.get(device, control),):
                    if id(copy) not in seen:
                        seen.add(id(copy))
                        yield copy
                control = control.previous_controlnet


def describe_window(frames: list[int], clip_length: int) -> dict:
    """Describe a window to other packs in AnimateDiff-Evolved's format; the value of `WINDOW_OPTIONS_KEY`."""
    return {"full_length": clip_length, "context_length": len(frames), "sub_idxs": frames}


def has_own_slicing(control: ControlModel) -> bool:
    """Whether a control slices hints, masks and strengths itself."""
    return hasattr(control, "sub_idxs")


def is_reference_control(control: ControlModel) -> bool:
    """Whether a control samples noise in every call: Advanced-ControlNet's Reference."""
    return type(control).__name__ == "ReferenceAdvanced"


@contextmanager
def set_control_window(controls: list[ControlModel], window: dict, saved_masks: dict) -> Iterator[None]:
    """Tell controls that slice their own hints which frames a window has, and restore the window's masks.

    On exit the controls are reset and their masks saved.

    Args:
        window: from `describe_window`.
        saved_masks: each window's masks, kept from step to step; changed in place.
    """

    def key(control: ControlModel) -> tuple:
        return KEYFRAME_MASK_FIELD, id(control), tuple(window["sub_idxs"])

    for control in controls:
        control.sub_idxs = window["sub_idxs"]
        control.full_latent_length = window["full_length"]
        control.context_length = window["context_length"]
        if hasattr(control, KEYFRAME_MASK_FIELD):
            setattr(control, KEYFRAME_MASK_FIELD, saved_masks.get(key(control)))
    try:
        yield
    finally:
        for control in controls:
            control.sub_idxs, control.full_latent_length, control.context_length = None, 0, 0
            if hasattr(control, KEYFRAME_MASK_FIELD):
                saved_masks[key(control)] = getattr(control, KEYFRAME_MASK_FIELD)


def reset_keyframes_each_call(model: Model) -> None:
    """Make the timestep keyframes of a MODEL's controls depend on sigma alone, so they also work for inversion.

    Advanced-ControlNet only advances to later keyframes as sigma decreases, and a keyframe inherits the mask of the one
    that was active before. Here every model call searches them from the start, without guaranteed steps, and each has
    its mask.
    """
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CONTROL_WRAPPER_KEY, _prepare_keyframes)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, CONTROL_WRAPPER_KEY, _reset_control_keyframes)


def _find_keyframed_controls(conds: Iterable[list[dict] | None]) -> list[ControlModel]:
    return [control for control in iterate_controls(conds) if hasattr(control, "timestep_keyframes")]


def _prepare_keyframes(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    before = []
    with private_api(ADVANCED_CONTROLNET):
        for control in _find_keyframed_controls(executor.class_obj.conds.values()):
            mask = None
            for keyframe in control.timestep_keyframes.keyframes:
                before.append((keyframe, keyframe.mask_hint_orig, keyframe.guarantee_steps))
                if keyframe.mask_hint_orig is None and keyframe.inherit_missing:
                    keyframe.mask_hint_orig = mask
                mask = keyframe.mask_hint_orig
                keyframe.guarantee_steps = 0
    try:
        return executor(*args, **kwargs)
    finally:
        for keyframe, mask, steps in reversed(before):  # controls may share keyframes
            keyframe.mask_hint_orig, keyframe.guarantee_steps = mask, steps


def _reset_control_keyframes(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    for control in _find_keyframed_controls(executor.class_obj.conds.values()):
        with private_api(ADVANCED_CONTROLNET):
            for name in CURRENT_KEYFRAME_FIELDS:
                getattr(control, name)
        vars(control).update(INITIAL_CONTROL_STATE)
    return executor(*args, **kwargs)

"""Chains of controls, the host's and other packs', and how other packs are told which frames a window holds.

Advanced-ControlNet takes its part of hints, masks and strengths itself, by attributes of its controls. IP-Adapter Plus
takes its images for each frame by what AnimateDiff-Evolved (1.5.7) leaves in the transformer options.
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
"""Key in transformer_options."""
CONTROL_WRAPPER_KEY = "bivdiff_controls"
KEYFRAME_MASK_FIELD = "tk_mask_cond_hint"
"""A control's mask of a timestep keyframe, which later ones inherit as it was cut last."""
INITIAL_CONTROL_STATE = {
    "current_timestep_keyframe": None,
    "current_timestep_index": -1,
    "current_used_steps": 0,
    "weights": None,
    "latent_keyframes": None,
}
"""A control of Advanced-ControlNet before its first timestep keyframe."""
NO_GUARANTEED_STEPS = {"guarantee_steps": 0, "guarantee_usage": False}
"""What keeps a timestep keyframe in force past its end, in newer and older versions, and its absence."""


def iterate_controls(conds: Iterable[list[dict] | None], device: torch.device | None = None) -> Iterator[ControlModel]:
    """Every control of the conds' chains once: with its clones for other devices, or as one device has it."""
    seen = set()
    for cond in conds:
        for entry in cond or ():
            control = entry.get("control")
            while control is not None:
                clones = getattr(control, "multigpu_clones", {})  # a host that keeps to one GPU has none
                for c in (control, *clones.values()) if device is None else (clones.get(device, control),):
                    if id(c) not in seen:
                        seen.add(id(c))
                        yield c
                control = control.previous_controlnet


def describe_window(frames: list[int], clip_length: int) -> dict:
    """A window as AnimateDiff-Evolved describes its own to other packs; the value of `WINDOW_OPTIONS_KEY`."""
    return {"full_length": clip_length, "context_length": len(frames), "sub_idxs": frames}


def has_own_slicing(control: ControlModel) -> bool:
    """Whether a control takes its part of hints, masks and strengths itself."""
    return hasattr(control, "sub_idxs")


def is_reference_control(control: ControlModel) -> bool:
    """Whether a control draws noise in every call: Advanced-ControlNet's Reference."""
    return type(control).__name__ == "ReferenceAdvanced"


@contextmanager
def set_control_window(controls: list[ControlModel], window: dict, kept: dict) -> Iterator[None]:
    """Controls that slice for themselves know a window's frames, and have its mask again, while this is open.

    Args:
        window: as `describe_window` gives it.
        kept: of this run, each window's masks from one step to the next.
    """

    def key(control: ControlModel) -> tuple:
        return KEYFRAME_MASK_FIELD, id(control), tuple(window["sub_idxs"])

    for control in controls:
        control.sub_idxs = window["sub_idxs"]
        control.full_latent_length = window["full_length"]
        control.context_length = window["context_length"]
        if hasattr(control, KEYFRAME_MASK_FIELD):
            setattr(control, KEYFRAME_MASK_FIELD, kept.get(key(control)))
    try:
        yield
    finally:
        for control in controls:
            control.sub_idxs, control.full_latent_length, control.context_length = None, 0, 0
            if hasattr(control, KEYFRAME_MASK_FIELD):
                kept[key(control)] = getattr(control, KEYFRAME_MASK_FIELD)


def reset_keyframes_each_call(model: Model) -> None:
    """Have the timestep keyframes of a run's controls hold at the levels that they name, whichever way noise goes.

    Advanced-ControlNet's move on to later ones only, as sigma falls; here each model call looks through them anew.
    """
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CONTROL_WRAPPER_KEY, _suspend_guarantees)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, CONTROL_WRAPPER_KEY, _reset_control_keyframes)


def _find_keyframed_controls(conds: Iterable[list[dict] | None]) -> list[ControlModel]:
    return [control for control in iterate_controls(conds) if hasattr(control, "timestep_keyframes")]


def _suspend_guarantees(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    with private_api("Advanced-ControlNet 1.5"):
        groups = [
            control.timestep_keyframes.keyframes
            for control in _find_keyframed_controls(executor.class_obj.conds.values())
        ]
        before = [(keyframe, dict(vars(keyframe))) for group in groups for keyframe in group]
    for keyframe, fields in before:
        vars(keyframe).update({name: value for name, value in NO_GUARANTEED_STEPS.items() if name in fields})
    try:
        return executor(*args, **kwargs)
    finally:
        for keyframe, fields in before:
            vars(keyframe).update({name: fields[name] for name in NO_GUARANTEED_STEPS if name in fields})


def _reset_control_keyframes(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    for control in _find_keyframed_controls(executor.class_obj.conds.values()):
        vars(control).update({name: value for name, value in INITIAL_CONTROL_STATE.items() if hasattr(control, name)})
    return executor(*args, **kwargs)

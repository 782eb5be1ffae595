"""Code that uses private names of ComfyUI."""

import queue
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP

from ..comfy_types import Conditioning, Model
from .private_names import private_api

REPLACED_LAYERS = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm")


@private_api("ComfyUI 0.30")
def use_comfy_layers(network: torch.nn.Module, operations: type[comfy.ops.disable_weight_init]) -> None:
    """Turn torch layers into ComfyUI's layers, so they can be cast, offloaded and interrupted like a core model's.

    Args:
        network: changed in place; its weights stay the same.
        operations: ComfyUI's layer classes (`comfy.ops.pick_operations`). They add only methods to torch's classes.
    """
    for module in network.modules():
        for name in REPLACED_LAYERS:
            if type(module) is getattr(torch.nn, name):
                module.__class__ = getattr(operations, name)


def find_model_file(model: Model) -> str:
    """Name of the file from which core's loader read a MODEL; empty for other loaders (GGUF)."""
    reload = getattr(model, "cached_patcher_init", None)  # older ComfyUIs lack it
    path = reload[1][0] if reload and reload[1] else None
    return Path(path).name if isinstance(path, str) else ""


CORE_WINDOW_WRAPPER, OUR_WINDOW_WRAPPER = "ContextWindows_prepare_sampling", "bivdiff_windows"
"""Keys of MODEL wrappers that only split the frames into windows."""
BORROWED_CONTROL_WRAPPER = "bivdiff_borrowed_control"
"""Key of the MODEL wrapper that adds the control of an image model."""


@private_api("ComfyUI 0.30")
def find_model_modifications(model: Model) -> list[str]:
    """List, as text, modifications by other nodes that may make a MODEL's frames depend on each other.

    Weight patches (LoRA) and another noise schedule are not listed. The list of an unmodified MODEL is empty.
    """
    options = model.model_options
    found = {
        "patches": list_patches(model) + list(options.get("transformer_options", {}).get("patches_replace", {})),
        "functions": [name for name, value in options.items() if callable(value) or isinstance(value, list)],
        "wrappers": [
            key
            for by_key in model.wrappers.values()
            for key, wrappers in by_key.items()
            if wrappers and key not in (CORE_WINDOW_WRAPPER, OUR_WINDOW_WRAPPER)
        ],
        "injections": list(model.injections),
        "additional models": list(model.additional_models),
        "replaced layers": [name for name in model.object_patches if name.startswith("diffusion_model")],
    }
    return [f"{kind} ({', '.join(sorted(set(names)))})" for kind, names in found.items() if names]


@private_api("ComfyUI 0.30")
def list_patches(model: Model) -> list[str]:
    """Return the names of a MODEL's patches that extend blocks of its network; those that replace one are left out."""
    return list(model.model_options.get("transformer_options", {}).get("patches", {}))


def remove_borrowed_control(model: Model) -> list[str]:
    """Remove Borrow Control from a MODEL; return its name if it was there."""
    found = BORROWED_CONTROL_WRAPPER in model.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, BORROWED_CONTROL_WRAPPER)
    model.remove_additional_models(BORROWED_CONTROL_WRAPPER)
    return ["Borrow Control"] if found else []


class SigmaKeyframes(comfy.hooks.HookKeyframeGroup):
    """Hook keyframes that depend on sigma alone, so they also work for inversion.

    ComfyUI's only advance to later keyframes as sigma decreases, and give each its guaranteed steps.
    """

    def __init__(self, keyframes: list):
        super().__init__()
        self.keyframes = keyframes
        self._set_first_as_current()

    def prepare_current_keyframe(self, curr_t: float, transformer_options: dict) -> bool:
        """Select the keyframe for sigma `curr_t` before a model call; return whether the strength has changed."""
        before = self.strength
        for keyframe in self.keyframes:
            if keyframe.start_t >= curr_t:
                self._current_keyframe = keyframe
        return self.strength != before


@private_api("ComfyUI 0.30")
def use_sigma_keyframes(conditioning: Conditioning) -> Conditioning:
    """Return CONDITIONING whose hooks use `SigmaKeyframes`. Hooks shared between prompts stay shared."""
    groups: dict[int, comfy.hooks.HookGroup] = {}
    keyframes: dict[int, SigmaKeyframes] = {}

    def convert_group(group: comfy.hooks.HookGroup) -> comfy.hooks.HookGroup:
        if id(group) not in groups:
            groups[id(group)] = clone = group.clone()
            for hook in clone.hooks:
                group_keyframes = hook.hook_keyframe
                hook.hook_keyframe = keyframes.setdefault(
                    id(group_keyframes), SigmaKeyframes(group_keyframes.clone().keyframes)
                )
        return groups[id(group)]

    return [
        (text, {**extra, "hooks": convert_group(extra["hooks"])} if "hooks" in extra else extra)
        for text, extra in conditioning
    ]


THREAD_POOL_KEY, CLONES_KEY = "multigpu_thread_pool", "multigpu_clones"
"""Keys in model_options of a run on several devices: its thread pool, and the MODEL's clones by device."""


def has_multiple_devices(model_options: dict) -> bool:
    """Whether a run uses several devices (MultiGPU CFG Split)."""
    return THREAD_POOL_KEY in model_options


def single_device_options(model_options: dict) -> dict:
    """Return model options for a run on the MODEL's own device only."""
    return {name: value for name, value in model_options.items() if name not in (THREAD_POOL_KEY, CLONES_KEY)}


def run_on_devices(model_options: dict, work: Callable[[torch.device, dict], None]) -> None:
    """Run `work` on all devices of a run at the same time, in ComfyUI's thread for each device, and wait for all.

    Args:
        work: called with a device, and model options that keep model calls on that device and in its thread.

    Raises:
        BaseException: the error of a device; other errors take precedence over out-of-memory.
        RuntimeError: a thread has ended without a result.
    """
    with private_api("ComfyUI 0.30"):
        pool, copies = model_options[THREAD_POOL_KEY], model_options[CLONES_KEY]
        for device, copy in copies.items():
            options = {**single_device_options(model_options), CLONES_KEY: {device: copy}}
            options["transformer_options"] = {**model_options["transformer_options"]}
            pool.submit(device, copy_context().run, torch.inference_mode()(work), device, options)
        errors = [error for _, error in (_next_result(pool, device) for device in copies) if error is not None]
    if errors:
        raise min(errors, key=comfy.model_management.is_oom)


@private_api("ComfyUI 0.30")
def drain_workers(model_options: dict) -> None:
    """Wait until the workers of MultiGPU CFG Split are idle, and drop their results.

    After an error on one device, ComfyUI leaves the results of the others in its pool. The next call would use them
    as its own.

    Raises:
        RuntimeError: a worker has stopped working.
    """
    pool = model_options.get(THREAD_POOL_KEY)
    if pool is None:
        return
    for device in pool.devices:
        last = object()
        pool.submit(device, lambda last=last: last)
        while _next_result(pool, device, last)[0] is not last:
            pass


POLL_SECONDS = 1.0
"""Time between checks of a worker that has returned nothing."""


def _next_result(pool: Any, device: torch.device, last: object = None) -> tuple[Any, BaseException | None]:
    """Return a worker's next result and error. ComfyUI's `get_result` waits forever for a worker that has ended.

    Args:
        last: the result of the last job given to the worker, which takes no time.

    Raises:
        RuntimeError: the worker's thread has ended, or it has dropped the last job because it cannot use its device.
    """
    worker = pool._workers[pool.devices.index(device)]
    while True:
        ended = not worker.is_alive()
        dropped = last is not None and pool._work_queues[device].empty()
        try:
            return pool._result_queues[device].get(timeout=POLL_SECONDS)
        except queue.Empty:
            if ended or dropped:
                raise RuntimeError(
                    f"ComfyUI's worker for {device} (MultiGPU CFG Split) has stopped working; ComfyUI's log may say "
                    "why. Remove MultiGPU CFG Split, or restart ComfyUI."
                ) from None

"""Names inside ComfyUI that belong to no interface."""

import queue
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.ops
import torch

from ..comfy_types import Conditioning, Model
from ..errors import BIVDiffError
from .private_names import private_api

REPLACED_LAYERS = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm")


@private_api("ComfyUI 0.30")
def use_comfy_layers(network: torch.nn.Module, operations: type[comfy.ops.disable_weight_init]) -> None:
    """Make a network's layers the host's own, so that their weights are cast, offloaded and interrupted like core's.

    Args:
        network: built of torch's layers; its weights stay.
        operations: the host's layer classes (`comfy.ops.pick_operations`), which add to torch's only methods.
    """
    for module in network.modules():
        for name in REPLACED_LAYERS:
            if type(module) is getattr(torch.nn, name):
                module.__class__ = getattr(operations, name)


CORE_WINDOW_WRAPPER, OUR_WINDOW_WRAPPER = "ContextWindows_prepare_sampling", "bivdiff_windows"
"""Keys of the wrappers on a MODEL that cut frames into windows and do nothing else."""


@private_api("ComfyUI 0.30")
def find_model_modifications(model: Model) -> list[str]:
    """What other nodes have put on a MODEL that may make its frames see one another, in words; none on a bare one.

    Patches of weights (LoRA) and another noise schedule do not.
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
        "further models": list(model.additional_models),
        "exchanged layers": [name for name in model.object_patches if name.startswith("diffusion_model")],
    }
    return [f"{what} ({', '.join(sorted(set(names)))})" for what, names in found.items() if names]


@private_api("ComfyUI 0.30")
def list_patches(model: Model) -> list[str]:
    """Names of the patches on a MODEL's network that add to what its blocks do, as opposed to replacing it."""
    return list(model.model_options.get("transformer_options", {}).get("patches", {}))


def find_origin(function: Callable) -> str:
    """The qualified name of what was installed on a MODEL, which begins with the class of the node that did it.

    An object has no such name (Load Hypernetwork and Flux KV Cache install one): it goes by its class.
    """
    return getattr(function, "__qualname__", type(function).__qualname__)


GUIDANCE_OPTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
"""Options of a MODEL that change its prediction beside cfg: Self-Attention Guidance, Perturbed-Attention Guidance."""


@private_api("ComfyUI 0.30")
def remove_guidance(model: Model) -> list[str]:
    """Take guidance beside cfg off a MODEL; what it was, by the nodes that put it there."""
    options = model.model_options
    found = []
    for name in GUIDANCE_OPTIONS:
        functions = options.pop(name, [])
        found += functions if isinstance(functions, list) else [functions]
    options.pop("disable_cfg1_optimization", None)
    return [find_origin(function).split(".")[0] for function in found]


STEP_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}
"""Mechanisms that skip steps, by the keys of their wrappers; both keep their state under one option."""
STEP_CACHE_STATE = "easycache"


@private_api("ComfyUI 0.30")
def remove_step_caches(model: Model) -> list[str]:
    """Take the host's step caches off a MODEL; what they were."""
    found = [key for key in STEP_CACHES if any(key in by_key for by_key in model.wrappers.values())]
    for key in found:
        for kind in model.wrappers:
            model.remove_wrappers_with_key(kind, key)
    model.model_options["transformer_options"].pop(STEP_CACHE_STATE, None)
    return [STEP_CACHES[key] for key in found]


class SigmaKeyframes(comfy.hooks.HookKeyframeGroup):
    """Hook keyframes, each in force at the levels that it names, whichever way noise goes.

    The host's move on to later ones only, as sigma falls, and give each its guaranteed steps.
    """

    def __init__(self, keyframes: list):
        super().__init__()
        self.keyframes = keyframes
        self._set_first_as_current()

    def prepare_current_keyframe(self, curr_t: float, transformer_options: dict) -> bool:
        """Whether another strength holds from here on, as the host asks before every model call."""
        before = self.strength
        for keyframe in self.keyframes:
            if keyframe.start_t >= curr_t:
                self._current_keyframe = keyframe
        return self.strength != before


@private_api("ComfyUI 0.30")
def use_sigma_keyframes(conditioning: Conditioning) -> Conditioning:
    """CONDITIONING whose hooks have `SigmaKeyframes`; hooks that prompts share stay shared."""
    groups: dict[int, comfy.hooks.HookGroup] = {}
    keyframes: dict[int, SigmaKeyframes] = {}

    def convert_group(group: comfy.hooks.HookGroup) -> comfy.hooks.HookGroup:
        if id(group) not in groups:
            groups[id(group)] = clone = group.clone()
            for hook in clone.hooks:
                theirs = hook.hook_keyframe
                hook.hook_keyframe = keyframes.setdefault(id(theirs), SigmaKeyframes(theirs.clone().keyframes))
        return groups[id(group)]

    return [
        (text, {**extra, "hooks": convert_group(extra["hooks"])} if "hooks" in extra else extra)
        for text, extra in conditioning
    ]


THREAD_POOL_KEY, CLONES_KEY = "multigpu_thread_pool", "multigpu_clones"
"""Of a run over several devices: its threads, and the MODEL's copies by their devices."""


def has_multiple_devices(model_options: dict) -> bool:
    """Whether a run has several devices, by MultiGPU CFG Split."""
    return THREAD_POOL_KEY in model_options


def single_device_options(model_options: dict) -> dict:
    """Options of a run whose model calls keep to the MODEL's own device."""
    return {name: value for name, value in model_options.items() if name not in (THREAD_POOL_KEY, CLONES_KEY)}


def run_on_devices(model_options: dict, work: Callable[[torch.device, dict], None]) -> None:
    """Do work on all devices of a run at once, each in the host's own thread for it, until all are idle.

    Args:
        work: is given its device, and options by which a model call stays on that device and in the thread at hand.

    Raises:
        what went wrong on a device, out of memory after anything else.
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
    """Wait until the workers of MultiGPU CFG Split are idle, and drop what they have made.

    After an error on one device the host leaves the others' results in its pool, where the next call would take them
    for its own.

    Raises:
        RuntimeError: a worker does no work any more.
    """
    pool = model_options.get(THREAD_POOL_KEY)
    if pool is None:
        return
    for device in pool.devices:
        last = object()
        pool.submit(device, lambda last=last: last)
        while _next_result(pool, device, last)[0] is not last:
            pass


POLL = 1.0
"""Seconds after which a silent worker is looked at."""


def _next_result(pool: Any, device: torch.device, last: object = None) -> tuple[Any, BaseException | None]:
    """What a worker has made next; the host's own `get_result` waits for ever for a worker that is gone.

    Args:
        last: the result of the last work that the worker was given, which takes it no time.

    Raises:
        RuntimeError: its thread has ended, or it has dropped that last work: it does so where it cannot use its device.
    """
    worker = pool._workers[pool.devices.index(device)]
    while True:
        ended = not worker.is_alive()
        dropped = last is not None and pool._work_queues[device].empty()
        try:
            return pool._result_queues[device].get(timeout=POLL)
        except queue.Empty:
            if ended or dropped:
                raise RuntimeError(
                    f"ComfyUI's worker for {device} (MultiGPU CFG Split) does no work any more; ComfyUI's log may say "
                    "why. Remove MultiGPU CFG Split, or restart ComfyUI."
                ) from None


@private_api("ComfyUI 0.30")
def disable_call_caches(model_options: dict) -> list[str]:
    """Settle, in the options of a run that shows the MODEL its frames in several calls, what keeps state between calls.

    Returns:
        What was switched off, and what makes the result depend on where the clip is cut.

    Raises:
        BIVDiffError: Self-Attention Guidance, which would lay one call's attention over all frames.
    """
    guides = model_options.get("sampler_post_cfg_function", [])
    if any(find_origin(function).startswith("SelfAttentionGuidance") for function in guides):
        raise BIVDiffError(
            "Self-Attention Guidance sees only the last call's frames, and these frames take several calls. Set "
            "frames_per_batch (context_length for a video model) to all frames, or remove it."
        )
    options = model_options["transformer_options"]
    found = []
    for by_key in options.get("wrappers", {}).values():
        if by_key.pop("easycache", None) and EASYCACHE_DISABLED not in found:
            found.append(EASYCACHE_DISABLED)
    if has_token_merging(model_options):
        found.append("ToMe merges tokens at random, anew in every call")
    if any(find_origin(patch) == "KV_Attn_Input" for patch in attention_patches(model_options)):
        found.append("Flux KV Cache keeps the reference latents of the first call for all of them")
    return found


def has_token_merging(model_options: dict) -> bool:
    """Whether ToMe is on a MODEL, which draws from the global generator in every call."""
    return any(find_origin(patch).startswith("TomePatchModel") for patch in attention_patches(model_options))


def attention_patches(model_options: dict) -> list[Callable]:
    """What changes the queries, keys and values of a MODEL's self-attention."""
    return model_options["transformer_options"].get("patches", {}).get("attn1_patch", [])


EASYCACHE_DISABLED = "EasyCache is switched off, since it would take one call's frames for another's"

"""Functions that other nodes install on a MODEL: those that keep state, guide, or need all frames in one call.

Names of nodes and classes as of ComfyUI 0.30 and of the versions in tests/fixtures/fake_packs.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from inspect import getfile
from pathlib import Path
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..comfy_types import Model
from ..errors import BIVDiffError
from .private_names import private_api

comfyui_api = private_api("ComfyUI 0.30")

FUNCTION_WRAPPER = "model_function_wrapper"
"""Key in model_options of the function that replaces all calls of the network."""
CALL_WRAPPERS = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
"""Kinds of wrappers that surround a single model call."""
GUIDANCE_OPTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
"""Options of a MODEL that hold additional guidance, such as Self-Attention and Perturbed-Attention Guidance."""
GUIDANCE_PATCHES = ("NAGuidance", "WanCrossAttentionPatch", "LTXVCrossAttentionPatch")
"""Patches of attention layers that guide away from a negative prompt."""
STEP_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}
"""Names of ComfyUI's step caches by the keys of their wrappers."""
STEP_CACHE_STATE = "easycache"
"""Key in transformer_options of the state of both caches."""
CACHING_NODES = ("ApplyFBCacheOnModel", "DeepCache", "MagCache", "TeaCache")
"""Nodes of other packs whose function wrapper reuses results of earlier calls."""
NEEDS_ONE_CALL = {
    "SelfAttentionGuidance": "Self-Attention Guidance uses only the last call's frames",
    "SharedAttentionProcessor": "StyleAligned aligns the frames of a call with the call's first frame",
    "WanUni3CCnetPatch": "Apply Wan Uni3C ControlNet starts its guidance video again in every call",
}
"""Why a patch needs all frames in one call."""
FRAME_COUNTERS = ("WanAttentionPatch", "LTXCrossAttentionPatch")
"""Enhance-A-Video: its patches have the number of frames of a clip."""
DRAWS_AT_RANDOM = {"TomePatchModel": "ToMe", "HyperTile": "HyperTile"}
"""Patches that use the global random generator in every call."""
INDEPENDENT_OF_CALLS = (
    "Attn2Replace",
    "control_net_lllite_patch",
    "sliding_calc_cond_batch",
    "_kj_apply_torch_compile_wrapper",
    "refcn_diffusion_model_wrapper_factory",
)
"""Functions of other packs that get the hints or select the images of a call's frames (IP-Adapter, LLLite,
AnimateDiff-Evolved), keep nothing (KJNodes' torch.compile), or have a warning of their own (Reference ControlNet)."""
DISPLAY_NAMES = {
    "Attn2Replace": "IP-Adapter",
    "ApplyFBCacheOnModel": "First Block Cache",
    "LTXCrossAttentionPatch": "Enhance-A-Video",
    "LTXVCrossAttentionPatch": "LTX2_NAG",
    "SharedAttentionProcessor": "StyleAligned",
    "WanAttentionPatch": "Enhance-A-Video",
    "WanCrossAttentionPatch": "WanVideoNAG",
    "control_net_lllite_patch": "LLLite",
}
"""Names that artists know, where a patch's class or function has another one."""
OUR_PACKAGE = __name__.rpartition("host.")[0]
COMFYUI_FOLDERS = [Path(getfile(WrappersMP)).parents[1] / name for name in ("comfy", "comfy_api", "comfy_extras")]


def find_origin(function: Any) -> str:
    """The class of the node that installed a function on a MODEL, or the name of the function or of its class."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    if name is not None:
        return name.partition(".")[0]
    return type(function).__name__


def iterate_patches(model_options: dict, object_patches: dict[str, Any]) -> Iterator[Any]:
    """Yield each function that another node has installed around or inside the calls of a MODEL's network.

    Args:
        object_patches: the MODEL's replaced attributes by name.
    """
    options = model_options.get("transformer_options", {})
    installed = [
        *([model_options[FUNCTION_WRAPPER]] if FUNCTION_WRAPPER in model_options else []),
        *(patch for patches in options.get("patches", {}).values() for patch in patches),
        *(patch for patches in options.get("patches_replace", {}).values() for patch in patches.values()),
        *(
            wrapper
            for kind in CALL_WRAPPERS
            for wrappers in options.get("wrappers", {}).get(kind, {}).values()
            for wrapper in wrappers
        ),
        *(patch for name, patch in object_patches.items() if name.startswith("diffusion_model") and callable(patch)),
    ]
    for function in installed:
        function = function[-1] if isinstance(function, tuple) else function  # a layer's class and its function
        if _get_module(function).startswith(OUR_PACKAGE):
            function = getattr(function, "other", None)  # what a patch of this pack extends (Prompt2Prompt)
        if function is not None:
            yield function


def _get_module(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__module__", None) or ""


def _is_from_comfyui(function: Any) -> bool:
    """Whether ComfyUI or torch made a function. ComfyUI's extra nodes have file names as names of their modules."""
    module = _get_module(function)
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return module.startswith("torch") or any(file.is_relative_to(folder) for folder in COMFYUI_FOLDERS)


def name_patches(functions: Iterable[Any]) -> list[str]:
    """The names of patches, as artists know them, each once."""
    return list(dict.fromkeys(DISPLAY_NAMES.get(find_origin(f), find_origin(f)) for f in functions))


@comfyui_api
def remove_guidance(model: Model) -> list[str]:
    """Remove guidance other than cfg from a MODEL; return the names of the nodes that added it."""
    options = model.model_options
    found = []
    for name in GUIDANCE_OPTIONS:
        functions = options.pop(name, [])
        found += functions if isinstance(functions, list) else [functions]
    options.pop("disable_cfg1_optimization", None)
    patches = options["transformer_options"].get("patches", {})
    for kind, functions in patches.items():
        found += [f for f in functions if find_origin(f) in GUIDANCE_PATCHES]
        patches[kind] = [f for f in functions if find_origin(f) not in GUIDANCE_PATCHES]
    for name, function in list(model.object_patches.items()):
        if find_origin(function) in GUIDANCE_PATCHES:
            found.append(model.object_patches.pop(name))
    return name_patches(found)


@comfyui_api
def remove_step_caches(model: Model) -> list[str]:
    """Remove caches that skip steps from a MODEL; return their names."""
    found = [key for key in STEP_CACHES if any(key in by_key for by_key in model.wrappers.values())]
    for key in found:
        for kind in model.wrappers:
            model.remove_wrappers_with_key(kind, key)
    model.model_options["transformer_options"].pop(STEP_CACHE_STATE, None)
    return [STEP_CACHES[key] for key in found] + _remove_caching_wrapper(model.model_options)


def _remove_caching_wrapper(model_options: dict) -> list[str]:
    wrapper = model_options.get(FUNCTION_WRAPPER)
    if wrapper is None or find_origin(wrapper) not in CACHING_NODES:
        return []
    return name_patches([model_options.pop(FUNCTION_WRAPPER)])


@comfyui_api
def prepare_for_several_calls(model_options: dict, object_patches: dict[str, Any], window_length: int) -> list[str]:
    """Turn off what breaks when a run needs several model calls.

    Args:
        model_options: of the run; changed in place.
        object_patches: the MODEL's replaced attributes by name.
        window_length: frames per call.

    Returns:
        Warnings: what was switched off, and what may make the result depend on the split into calls.

    Raises:
        BIVDiffError: a patch needs all frames in one call.
    """
    options = model_options["transformer_options"]
    caches = {
        STEP_CACHES["easycache"]
        for by_key in options.get("wrappers", {}).values()
        if by_key.pop("easycache", None)  # LazyCache compares whole steps
    }
    caches.update(_remove_caching_wrapper(model_options))
    found = [
        f"{name} is switched off: it would confuse the frames of one call with those of another"
        for name in sorted(caches)
    ]
    unknown = []
    for function in iterate_patches(model_options, object_patches):
        origin = find_origin(function)
        if origin in NEEDS_ONE_CALL:
            raise BIVDiffError(
                f"{NEEDS_ONE_CALL[origin]}, but these frames need several calls. Set frames_per_batch (context_length "
                "for a video model) to all frames, or remove it."
            )
        if origin in FRAME_COUNTERS:
            _check_frame_counter(function, window_length)
        elif origin == "KV_Attn_Input":
            found.append("Flux KV Cache uses the first call's reference latents for all calls")
        elif origin not in INDEPENDENT_OF_CALLS and not _is_from_comfyui(function):
            unknown.append(function)
    if unknown:
        found.append(
            f"Patches of other nodes that this pack does not know: {', '.join(name_patches(unknown))}. If they keep "
            "something from call to call, the result depends on frames_per_batch (context_length for a video model); "
            "compare it with all frames in one call"
        )
    return found


def _check_frame_counter(method: Callable, window_length: int) -> None:
    """Reject an Enhance-A-Video for another number of frames than a window has."""
    with private_api("KJNodes 1.5"):
        (frames,) = (
            cell.cell_contents.num_frames
            for cell in method.__func__.__closure__  # type: ignore[attr-defined]
            if hasattr(cell.cell_contents, "num_frames")
        )
    if frames != window_length:
        raise BIVDiffError(
            f"Enhance-A-Video is set to {frames} latent frames, but a window has {window_length} frames. Wire a latent "
            f"of {window_length} latent frames to it, set context_length to 0, or remove it."
        )


@comfyui_api
def find_random_patches(model_options: dict) -> list[str]:
    """Names of a MODEL's patches that use the global random generator in every call."""
    origins = {find_origin(patch) for patch in iterate_patches(model_options, {})}
    return [name for origin, name in DRAWS_AT_RANDOM.items() if origin in origins]

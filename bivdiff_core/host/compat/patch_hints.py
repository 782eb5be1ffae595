"""Patches of other nodes that hold hints for all frames: each window gets those of its frames.

The classes are ControlNet-LLLite's and those of ComfyUI's model patches (comfy_extras/nodes_model_patch.py, 0.30).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..errors import BIVDiffError
from .model_patches import iterate_patches

HINT_FIELDS = {
    "LLLiteModule": ("cond_image", "cond_emb", "current_step"),
    "AnimaLLLitePatch": ("image", "mask"),
    "DiffSynthCnetPatch": ("image", "mask", "encoded_image", "encoded_image_size"),
    "ZImageControlPatch": ("image", "inpaint_image", "mask", "encoded_image", "encoded_image_size", "temp_data"),
    "SUPIRPatch": ("hint_latent",),
}
"""The attributes with hints, or what is made from them and counted in the calls, by class."""
NAMES = {
    "LLLiteModule": "LLLite",
    "AnimaLLLitePatch": "Apply Anima LLLite",
    "DiffSynthCnetPatch": "Apply Qwen Image DiffSynth ControlNet",
    "ZImageControlPatch": "Apply Z-Image Fun ControlNet",
    "SUPIRPatch": "Apply SUPIR Patch",
}
"""The nodes of these classes."""


def find_hint_holders(model_options: dict) -> list[Any]:
    """The objects that hold hints, each once. A patch is one, has a method of one, or has a dict of them (LLLite)."""
    holders = {}
    for patch in iterate_patches(model_options, {}):
        owner = getattr(patch, "__self__", patch)
        modules = getattr(owner, "modules", None)
        for holder in modules.values() if isinstance(modules, dict) else [owner]:
            if type(holder).__name__ in HINT_FIELDS:
                holders[id(holder)] = holder
    return list(holders.values())


def check_hint_counts(model_options: dict, frames: int) -> None:
    """Reject hints that are neither one for all frames nor one for each.

    Raises:
        BIVDiffError: the message names the node of the hints.
    """
    for holder in find_hint_holders(model_options):
        for hint in _get_fields(holder).values():
            if isinstance(hint, Tensor) and len(hint) not in (1, frames):
                raise BIVDiffError(
                    f"the hint of {NAMES[type(holder).__name__]} has {len(hint)} frames but the latent has {frames}. "
                    f"Trim the longer one, so that both have {frames} frames, or use one for all frames."
                )


@contextmanager
def slice_patch_hints(model_options: dict, window: dict, saved_hints: dict[tuple, Any]) -> Iterator[None]:
    """Context manager that gives patches the hints of one window only.

    Args:
        window: from `control_chains.describe_window`.
        saved_hints: each window's hints as its last call left them, encoded and counted; changed in place.
    """
    before = [(holder, _get_fields(holder)) for holder in find_hint_holders(model_options)]

    def key(holder: Any) -> tuple:
        return id(holder), tuple(window["sub_idxs"])

    def slice_hint(value: Any) -> Any:
        is_per_frame = isinstance(value, Tensor) and len(value) == window["full_length"]
        return value[window["sub_idxs"]] if is_per_frame else value

    try:
        for holder, fields in before:
            sliced = {name: slice_hint(value) for name, value in fields.items()}
            vars(holder).update(saved_hints.get(key(holder), sliced))
        yield
    finally:
        for holder, fields in before:
            saved_hints[key(holder)] = _get_fields(holder)
            vars(holder).update(fields)


def _get_fields(holder: Any) -> dict[str, Any]:
    """The fields of `HINT_FIELDS` that an object has; some versions have fewer."""
    return {name: value for name, value in vars(holder).items() if name in HINT_FIELDS[type(holder).__name__]}

"""Slice control hints and list conditioning to the frames of a context window.

ComfyUI's context handler slices latents and conditioning tensors. It leaves control hints whole, so every window would
follow the first frames' hints. Here each window's model call replaces the hints in place, because copies of a control
lose the state that its pre_run prepared.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.conds
import torch
from comfy.context_windows import IndexListContextWindow
from comfy.controlnet import ControlNet
from torch import Tensor

from .comfy_types import ControlModel
from .compat import control_chains
from .errors import BIVDiffError

HINT_FIELDS = ("cond_hint_original", "cond_hint", "control_input", "extra_concat_orig")
"""Attributes of controls that depend on the hint: as wired, encoded, a T2I-Adapter's features, extra inputs."""


def slice_frames(value: Tensor, frames: int, window: IndexListContextWindow, device: torch.device | None) -> Tensor:
    """The window's part of a value that has one entry per frame of the clip; any other value is returned whole.

    Args:
        value: 5-D with the clip's frame axis (`[1, C, T, h, w]`, `[F, C, 1, h, w]`), or frames in the batch
            (`[F, C, H, W]`, `[F, L, D]`). A height that equals the number of frames is not a frame axis.
        frames: number of frames of the clip.
    """
    dim = window.dim if value.ndim == 5 else 0
    return window.get_tensor(value, device, dim=dim) if value.shape[dim] == frames else value


def slice_references(
    key: str, value: Any, window: IndexListContextWindow, x_in: Tensor, device: torch.device, conds: dict
) -> Any:
    """ComfyUI's RESIZE_COND_ITEM callback: slice conditioning whose frame axis ComfyUI's handler does not find.

    None leaves the value to ComfyUI, which ignores lists of tensors (reference_latents) except Bernini's
    context_latents. Wan's reference image is `[1, C, H, W]` in a clip with frames in dimension 2; ComfyUI would take
    its rows for frames.
    """
    frames = x_in.shape[window.dim]
    if isinstance(value, comfy.conds.CONDList) and key != "context_latents":
        return value._copy_with([slice_frames(t, frames, window, device) for t in value.cond])
    if key == "reference_latent" and value.cond.ndim == 4:
        return value._copy_with(slice_frames(value.cond, frames, window, device))
    return None


@contextmanager
def slice_hints(
    window: IndexListContextWindow, options: dict, controls: list[ControlModel], encoded_hints: dict[tuple, tuple]
) -> Iterator[None]:
    """Context manager that gives controls the hints of one window only.

    Args:
        options: the window as `control_chains.describe_window` returns it.
        controls: all controls of the conds' chains.
        encoded_hints: this run's cache of each window's encoded hints on the CPU, reused at the next step; changed in
            place.
    """
    sliced_controls = [control for control in controls if not control_chains.has_own_slicing(control)]
    full_hints = [{f: getattr(c, f) for f in HINT_FIELDS if hasattr(c, f)} for c in sliced_controls]

    def key(control: ControlModel) -> tuple:
        return id(control), tuple(window.index_list)

    def slice_hint(hint: Tensor | None) -> Tensor | None:
        return None if hint is None else slice_frames(hint, options["full_length"], window, hint.device)

    try:
        for control, fields in zip(sliced_controls, full_hints, strict=True):
            control.cond_hint_original = slice_hint(control.cond_hint_original)
            control.extra_concat_orig = [slice_hint(t) for t in control.extra_concat_orig]
            hint, control_input, device = encoded_hints.get(key(control), (None, None, None))
            control.cond_hint = _move_to(hint, device)
            if "control_input" in fields:
                control.control_input = _move_to(control_input, device)
        with control_chains.set_control_window(
            [control for control in controls if control_chains.has_own_slicing(control)], options, encoded_hints
        ):
            yield
    finally:
        for control, fields in zip(sliced_controls, full_hints, strict=True):
            hint = control.cond_hint
            if hint is not None and key(control) not in encoded_hints:
                control_input = getattr(control, "control_input", None)
                encoded_hints[key(control)] = (_move_to(hint, "cpu"), _move_to(control_input, "cpu"), hint.device)
            for field, value in fields.items():
                setattr(control, field, value)


def _move_to(value: Any, device: torch.device | str | None) -> Any:
    """Move a hint, or a T2I-Adapter's dict of lists of features, to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: [_move_to(t, device) for t in features] for key, features in value.items()}
    return value


def check_conditioning(conds: Iterable[list[dict] | None], frames: int) -> None:
    """Reject conditioning of another number of frames than the latent, and hints that do not have 3 channels.

    ComfyUI would silently repeat or truncate it, so that hints reach the wrong frames. It does not check channels.

    Args:
        conds: lists of ComfyUI's cond dicts (the dicts of a CONDITIONING, or a guider's conds).
        frames: number of frames of the latent.

    Raises:
        BIVDiffError: a control hint, mask, text, concat or reference latent has neither 1 nor `frames` frames, or a
            ControlNet's hint does not have 3 channels (an alpha channel, or a mask), or GLIGEN boxes differ between
            frames.
    """

    def check(tensor: object, what: str, remedy: str) -> None:
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or tensor.shape[0] in (1, frames):
            return
        if frames == 1:
            remedy = (
                f"Give the latent {len(tensor)} frames (batch_size in Empty Latent Image, or encode as many frames)"
            )
        else:
            remedy = f"{remedy}, so that both have {frames} frames"
        raise BIVDiffError(
            f"the {what} has {len(tensor)} frames but the latent has {frames}. {remedy}, or use one for all frames."
        )

    for control in control_chains.iterate_controls(conds):
        if not control_chains.has_own_slicing(control):
            hint = control.cond_hint_original
            check(hint, "control hint", "Trim the longer one (Select Frames, Get Latent From Batch)")
            if type(control) is ControlNet and control.vae is None and hint is not None and hint.shape[1] != 3:
                raise BIVDiffError(
                    f"the control hint has {hint.shape[1]} channels, expected 3 (red, green, blue). Split Image with "
                    "Alpha removes an alpha channel; Convert Mask to Image turns a mask into three channels."
                )
    for cond in conds:
        for entry in cond or ():
            mask = entry.get("mask")
            if mask is not None and mask.ndim > 2:
                check(mask, "conditioning mask", "Give Conditioning (Set Mask) as many masks")
            if "gligen" in entry and entry["gligen"][0] == "position_batched":
                raise BIVDiffError(
                    "the prompt has GLIGEN boxes that change from frame to frame, which ComfyUI ignores. Apply GLIGEN "
                    "Text Box sets boxes for all frames."
                )
            check(entry.get("cross_attn"), "text conditioning", "Make as many prompts")
            check(entry.get("concat_latent_image"), "inpainting or editing latent", "Encode as many frames")
            check(entry.get("concat_mask"), "inpainting mask", "Give as many masks")
            for reference in entry.get("reference_latents") or ():
                check(reference, "reference latent", "Encode as many references")


CLIP_CONDITIONING = {
    "concat_latent_image": ("picture or control video", 0),
    "concat_mask": ("mask of the picture", 0),
    "vace_frames": ("VACE control video", 0),
    "vace_mask": ("VACE mask", 0),
    "camera_conditions": ("camera path", 0),
    "pose_video_latent": ("pose video", 1),
}
"""Conditioning with a latent for each latent of a clip: its name, and how many latents fewer it may have."""


def check_clip_conditioning(conds: Iterable[dict], latents: int, frames: int) -> None:
    """Reject conditioning of another length than the clip, and guide frames of LTX.

    ComfyUI would stop in the network, give every window the first latents of it, or take the clip's last latents for
    guide frames.

    Args:
        conds: the dicts of a CONDITIONING, with entries `[1, C, T, H, W]` or lists of them.
        latents, frames: number of latents and of frames of the clip.

    Raises:
        BIVDiffError: names both counts, or the node of the guide frames.
    """
    for extra in conds:
        if extra.get("keyframe_idxs") is not None:
            raise BIVDiffError(
                "guide frames of LTXVAddGuide are clean latents at the end of a clip, which an inversion would turn to "
                "noise. Wire the prompts from before LTXVAddGuide."
            )
        for key, (what, fewer) in CLIP_CONDITIONING.items():
            values = extra.get(key, ())
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if value.ndim == 5 and not latents - fewer <= value.shape[2] <= latents:
                    raise BIVDiffError(
                        f"the {what} has {value.shape[2]} latents but the clip has {latents} ({frames} frames). Set "
                        "length of its node to the number of the clip's frames. WanAnimateToVideo, and WanVaceToVideo "
                        "with a reference_image, add a latent for the image: put the encoded image before the clip "
                        "with LatentConcat."
                    )

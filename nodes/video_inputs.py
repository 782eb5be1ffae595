"""Checks of videos that arrive as IMAGEs, and how nodes measure them."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.host.comfy_types import OpticalFlow
from ..bivdiff_core.host.raft_flow import make_raft_estimator
from ..bivdiff_core.measure.optical_flow import Computation, estimate_tv_l1_of_luma

OPTICAL_FLOW_INPUT = io.Custom("OPTICAL_FLOW").Input(
    "optical_flow",
    optional=True,
    tooltip="From Load Optical Flow Model (RAFT, raft_large). Wire it when things move by more than about 6% of the "
    "picture from frame to frame. Without it the flow is estimated without a model (TV-L1).",
)


def make_computation(optical_flow: OpticalFlow | None, steps: int) -> Computation:
    """Measure on ComfyUI's device, with a progress bar of a number of steps; each step stops a cancelled run."""
    bar = comfy.utils.ProgressBar(steps)

    def on_step(count: int) -> None:
        # The bar itself skips most updates of long runs.
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(count)

    estimate = estimate_tv_l1_of_luma if optical_flow is None else make_raft_estimator(optical_flow)
    return Computation(comfy.model_management.get_torch_device(), estimate, on_step)


def validate_images(images: Tensor, name: str) -> Tensor:
    """An IMAGE of colour frames `[F, H, W, 3]`, or with alpha `[F, H, W, 4]`, unchanged.

    Args:
        name: the input, for error messages.

    Raises:
        ValueError: another layout, or a frame with NaN or infinity.
    """
    if images.ndim != 4 or images.shape[3] not in (3, 4):
        raise ValueError(
            f"{name} must be colour frames, got a tensor of {'x'.join(map(str, images.shape))}. Convert Mask to Image "
            "turns a mask into colour frames; for frames of one channel, wire Convert Image to Mask before it."
        )
    for i, frame in enumerate(images):
        if not frame.isfinite().all():
            raise ValueError(
                f"frame {i} of {name} is not finite (NaN or infinity). Leave it out with Select Frames, or generate "
                "and decode it again; start ComfyUI with --fp32-vae if the decoder broke it."
            )
    return images


def validate_video(images: Tensor, like: Tensor | None = None, name: str = "images") -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE, without alpha. They are not copied.

    Args:
        like: a video of the same size and length.
        name: the input, for error messages.

    Raises:
        ValueError: from `validate_images`; fewer than 2 frames, frames below 2x2 pixels, or not like `like`.
    """
    frames = validate_images(images, name)[..., :3]
    if min(frames.shape[1:3]) < 2:
        raise ValueError(
            f"frames of {frames.shape[2]}x{frames.shape[1]} are too small to show motion. Wire the video itself."
        )
    if len(frames) < 2:
        raise ValueError(
            f"expected a video of at least 2 frames, got {len(frames)}. Wire all frames as one batch of images."
        )
    if like is not None and frames.shape != like.shape:
        raise ValueError(
            f"one video is {_describe_size(like)} but another {_describe_size(frames)}. Give them the same size with "
            "Upscale Image and the same frames with Select Frames."
        )
    return frames


def validate_source(images: Tensor, like: Tensor, name: str = "source_images") -> Tensor:
    """The source clip, checked by `validate_video`; its size may differ from that of `like`.

    Args:
        images: the clip that the video was generated from.
        like: the video's frames.
        name: the clip's input, for error messages.

    Raises:
        ValueError: another number of frames, or an aspect ratio that differs by more than 2%.
    """
    frames = validate_video(images, name=name)
    if len(frames) != len(like):
        raise ValueError(
            f"{name} has {len(frames)} frames but the video {len(like)}. Wire the clip that the frames were generated "
            "from, through the same Select Frames."
        )
    height, width = like.shape[1:3]
    aspect = frames.shape[2] / frames.shape[1] * height / width
    if not 1 / 1.02 <= aspect <= 1.02:
        raise ValueError(
            f"{name} is {_describe_size(frames)} but the video {_describe_size(like)}, another shape. Crop the clip "
            "like the video, with Upscale Image."
        )
    return frames


def _describe_size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"

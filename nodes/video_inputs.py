"""Checks of videos that arrive as IMAGEs."""

from __future__ import annotations

import torch
from torch import Tensor


def validate_images(images: Tensor, name: str) -> Tensor:
    """An IMAGE of colour frames `[F, H, W, 3]`, or with alpha `[F, H, W, 4]`, unchanged.

    Args:
        name: the input, for error messages.

    Raises:
        ValueError: another layout, or a frame with NaN or infinity.
    """
    if images.ndim != 4 or images.shape[3] not in (3, 4):
        raise ValueError(
            f"{name} is {list(images.shape)}, expected colour frames, [frames, height, width, 3]. Convert Mask to "
            "Image turns a mask into colour frames; for frames of one channel, wire Convert Image to Mask before it."
        )
    for i, frame in enumerate(images):
        if not frame.isfinite().all():
            raise ValueError(
                f"frame {i} of {name} is not finite (NaN or infinity). Leave it out with Select Frames, or generate "
                "and decode it again; start ComfyUI with --fp32-vae if the decoder broke it."
            )
    return images


def validate_video(images: Tensor, like: Tensor | None = None, name: str = "images") -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE, in float32 on the CPU, without alpha.

    Args:
        like: a video of the same size and length.
        name: the input, for error messages.

    Raises:
        ValueError: from `validate_images`; fewer than 2 frames, frames below 2x2 pixels, or not like `like`.
    """
    frames = validate_images(images, name)[..., :3].float().cpu()
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
    """The source clip, checked by `validate_video` and resized to the size of `like`.

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
    if (height, width) == frames.shape[1:3]:
        return frames
    resized = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.movedim(1, -1)


def _describe_size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"

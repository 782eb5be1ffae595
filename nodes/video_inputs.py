"""Checks of videos that arrive as IMAGEs."""

from __future__ import annotations

import torch
from torch import Tensor


def validate_video(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE, in float32 on the CPU, without alpha.

    Raises:
        ValueError: fewer than 2 frames, frames below 2x2 pixels, or another size or length than `like`.
    """
    frames = images[..., :3].float().cpu()
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
    frames = validate_video(images)
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

"""Encode frames with a VAE, as one clip or as single frames, and decode them again."""

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .comfy_types import VAE

ENCODE_MODES = ("clip", "single_frames")


def encode_frames(vae: VAE, images: Tensor, mode: str) -> Tensor:
    """Encode frames without losing frames or pixels.

    Args:
        images: `[F, H, W, 3]` in 0..1.
        mode: `clip` encodes all frames together, `single_frames` each frame as a clip of length 1. Image VAEs encode
            single frames in both modes.

    Returns:
        `[F, C, h, w]` from an image VAE; `[1, C, T, h, w]` (clip) or `[F, C, 1, h, w]` (single frames) from a video
        VAE.

    Raises:
        ValueError: before encoding, if ComfyUI would cut off edges or the last frames.
    """
    _check_size(vae, images)
    if not _is_video_vae(vae):
        return vae.encode(images)
    if mode == "clip":
        _check_frame_count(vae, len(images))
        return vae.encode(images)
    bar = comfy.utils.ProgressBar(len(images))
    latents = []
    for frame in images.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(vae.encode(frame))
        bar.update(1)
    return torch.cat(latents)


def reconstruct_frames(vae: VAE, images: Tensor) -> Tensor:
    """Encode frames `[F, H, W, 3]` as one clip and decode them.

    The last frames are left out if they do not fill a latent frame of a video VAE.

    Raises:
        ValueError: before encoding, if ComfyUI would cut off edges.
    """
    if _is_video_vae(vae):
        images = images[: vae.upscale_ratio[0](vae.downscale_ratio[0](len(images)))]
    decoded = vae.decode(encode_frames(vae, images, "clip"))
    return decoded.reshape(-1, *decoded.shape[-3:])


def _is_video_vae(vae: VAE) -> bool:
    return vae.latent_dim == 3 and not vae.not_video


def _check_size(vae: VAE, images: Tensor) -> None:
    """Reject sizes that ComfyUI would centre-crop: the frames would no longer align with their hints and masks."""
    unit = vae.spacial_compression_encode()
    height, width = images.shape[1:3]
    if vae.crop_input and (height % unit or width % unit):
        raise ValueError(
            f"the images are {width}x{height}, but this VAE needs multiples of {unit} pixels and would cut off "
            f"the edges. Crop or resize them, for instance to {width // unit * unit}x{height // unit * unit}."
        )


def _check_frame_count(vae: VAE, frames: int) -> None:
    """Reject frame counts that do not fill the last latent frame: ComfyUI would drop the last frames."""
    to_latent, to_frames = vae.downscale_ratio[0], vae.upscale_ratio[0]
    latents = to_latent(frames)
    encodable_frames = to_frames(latents)
    if encodable_frames != frames:
        raise ValueError(
            f"this VAE encodes frames in groups and would keep only the first {encodable_frames} of {frames}. Set "
            f"count of Select Frames to {encodable_frames} or {to_frames(latents + 1)}, or mode to single_frames."
        )

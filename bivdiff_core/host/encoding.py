"""Frames into the VAE's latents, as one clip or each on its own."""

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .comfy_types import VAE

ENCODE_MODES = ("clip", "single_frames")


def encode_frames(vae: VAE, images: Tensor, mode: str) -> Tensor:
    """Encode frames without losing any of them, or of their pixels.

    Args:
        images: `[F, H, W, 3]` in 0..1.
        mode: `clip` encodes all frames together, `single_frames` each as a clip of length 1. VAEs of pictures see
            every frame on its own either way.

    Returns:
        `[F, C, h, w]` from a VAE of pictures, `[1, C, T, h, w]` (clip) or `[F, C, 1, h, w]` (single frames) from a
        VAE of video.

    Raises:
        ValueError: before anything is encoded, where the host would cut edges or last frames off.
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


def _is_video_vae(vae: VAE) -> bool:
    return vae.latent_dim == 3 and not vae.not_video


def _check_size(vae: VAE, images: Tensor) -> None:
    """The host centre-crops to whole latent pixels, and the frames no longer lie on their hints and masks."""
    unit = vae.spacial_compression_encode()
    height, width = images.shape[1:3]
    if vae.crop_input and (height % unit or width % unit):
        raise ValueError(
            f"the images are {width}x{height}, but this VAE takes multiples of {unit} pixels and would cut the "
            f"edges off. Crop or resize them, for instance to {width // unit * unit}x{height // unit * unit}."
        )


def _check_frame_count(vae: VAE, frames: int) -> None:
    """Video VAEs pack several frames in a latent, and the host drops the last ones where they do not fill it."""
    to_latent, to_frames = vae.downscale_ratio[0], vae.upscale_ratio[0]
    latents = to_latent(frames)
    fit = to_frames(latents)
    if fit != frames:
        raise ValueError(
            f"this VAE packs frames in groups, and holds {fit} or {to_frames(latents + 1)} frames but not "
            f"{frames}: the last ones would be lost. Set count of Select Frames to one of these, or mode to "
            "single_frames."
        )

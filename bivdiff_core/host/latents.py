"""LATENT dicts: the axis of the frames, and the samples that a node returns."""

import comfy.model_management
import torch
from torch import Tensor

from .comfy_types import Latent

INVERSION_KEY = "bivdiff"
"""Key of an inverted LATENT's inversion record (`inverted_latents.InversionInfo`)."""


def frame_dim(samples: Tensor) -> int:
    """Axis of a latent's frames: 2 in `[B, C, T, H, W]`, 0 in `[F, C, H, W]` and in images `[F, C, 1, H, W]`."""
    return 2 if samples.ndim == 5 and samples.shape[2] > 1 else 0


def to_clip(samples: Tensor) -> Tensor:
    """Turn single frames of a 3-D image model, `[F, C, 1, H, W]`, into a clip `[1, C, F, H, W]`; keep other shapes."""
    return samples.transpose(0, 2) if samples.ndim == 5 and samples.shape[2] == 1 else samples


def describe_samples(samples: Tensor) -> str:
    """The frames, size and channels of a latent, for messages."""
    if samples.ndim not in (4, 5):
        return f"a tensor of {'x'.join(map(str, samples.shape))}"
    frames = f"a clip of {samples.shape[2]} latents" if frame_dim(samples) == 2 else f"{len(samples)} frames"
    return f"{frames}, {samples.shape[-1]}x{samples.shape[-2]} with {samples.shape[1]} channels"


def replace_samples(latent: Latent, samples: Tensor) -> Latent:
    """A LATENT with new samples, on ComfyUI's device for results; masks and batch_index stay.

    Removes the old samples' inversion record and the downscale ratios that ComfyUI adds to an empty latent.
    """
    stale = (INVERSION_KEY, "downscale_ratio_spacial", "downscale_ratio_temporal")
    out = {key: value for key, value in latent.items() if key not in stale}
    device, dtype = comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    out["samples"] = samples.to(device, dtype)
    return out


def check_finite(samples: Tensor, step: int | None = None) -> None:
    """Reject samples with NaN or infinity.

    Args:
        step: index of the sampling step, for the message.

    Raises:
        ValueError: a frame is not finite; names the first one.
    """
    finite = torch.isfinite(samples)
    if finite.all():
        return
    frames = finite.movedim(frame_dim(samples), 0).flatten(1).all(dim=1)
    frame = int((~frames).nonzero()[0])
    when = "" if step is None else f" at step {step + 1}"
    raise ValueError(
        f"frame {frame} is not finite{when} (NaN or infinity). Lower cfg, check that the frames fit this model's VAE, "
        "or start ComfyUI with --fp32-vae, --force-upcast-attention or --fp32-unet."
    )

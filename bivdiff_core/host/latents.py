"""LATENT dicts on their way through the chain: what arrives is checked against the MODEL, what leaves is described.

An inverted latent's samples are in model space and of unit variance at the top of the grid; see `describe`.
"""

import math

import comfy.model_sampling
import torch
from torch import Tensor

from ..blend import MODES
from ..noise import MOST_CORRELATED_NOISE, spatial_correlation

TAG = "bivdiff"
"""Key of the description in an inverted LATENT: a hint, since nodes of the host drop it or carry it too far."""

DIFFUSION, FLOW = "diffusion", "flow"


def sampling_family(model, node: str) -> str:
    """`diffusion` (eps and v: x = x0 + sigma * eps) or `flow` (x = (1 - sigma) * x0 + sigma * noise).

    Raises:
        ValueError: the MODEL's noise is of neither kind.
    """
    sampling = model.get_model_object("model_sampling")
    refused = (comfy.model_sampling.IMG_TO_IMG, comfy.model_sampling.IMG_TO_IMG_FLOW)
    if not isinstance(sampling, refused):
        if isinstance(sampling, comfy.model_sampling.CONST) and getattr(sampling, "noise_scale", 1.0) == 1.0:
            return FLOW
        if isinstance(sampling, comfy.model_sampling.EPS) and getattr(sampling, "sigma_data", 1.0) == 1.0:
            return DIFFUSION
    raise ValueError(
        f"{node}: a model of type {model.model.model_type.name} cannot be inverted. Use an eps, v or rectified-flow "
        "model (SD 1.5, SD 2, SDXL, ModelScope, AnimateDiff, Wan, LTX, ...)."
    )


def frame_dim(samples: Tensor) -> int:
    """Where a latent's frames lie: 2 in `[B, C, T, H, W]`, 0 in `[F, C, H, W]` and in images `[F, C, 1, H, W]`."""
    return 2 if samples.ndim == 5 and samples.shape[2] > 1 else 0


def as_clip(samples: Tensor) -> Tensor:
    """Frames made one by one with a 3-D image model, `[F, C, 1, H, W]`, as the clip `[1, C, F, H, W]`; others as is."""
    return samples.transpose(0, 2) if samples.ndim == 5 and samples.shape[2] == 1 else samples


def check_latent(latent: dict, model, node: str, video: bool = False) -> Tensor:
    """The samples of a LATENT that this MODEL can take.

    Args:
        latent: with samples `[F, C, H, W]` or `[B, C, T, H, W]`, and possibly a noise_mask.
        video: whether the MODEL is to see motion, for which one frame is not enough; comes back `as_clip`.

    Raises:
        ValueError: naming what arrived, what is needed and what to change.
    """
    samples = latent["samples"]
    latent_format = model.get_model_object("latent_format")
    if samples.is_nested:
        raise ValueError(f"{node}: a latent of several parts (audio and video) is not supported. Pass the video alone.")
    if samples.numel() == 0:
        raise ValueError(f"{node}: the latent holds no frames. Check the start and count of Select Frames.")
    dims = latent_format.latent_dimensions + 2
    if samples.ndim != dims:
        need = "frames in the batch, [F, C, H, W]" if dims == 4 else "a video latent, [1, C, T, H, W]"
        raise ValueError(
            f"{node}: the latent is {samples.ndim}-D, {list(samples.shape)}, but this model needs {need}. "
            "Encode the frames with the VAE that belongs to this model."
        )
    if samples.shape[1] != latent_format.latent_channels:
        raise ValueError(
            f"{node}: the latent has {samples.shape[1]} channels but this model needs {latent_format.latent_channels}. "
            "Encode the frames with the VAE that belongs to this model."
        )
    if video:
        samples = as_clip(samples)
    frames = samples.shape[frame_dim(samples)]
    if video and frames == 1:
        raise ValueError(f"{node}: the latent has one frame, and there is no motion in one frame. Give at least 2.")
    mask = latent.get("noise_mask")
    if mask is not None:
        check_mask(mask, samples, node)
    return samples


def check_mask(mask: Tensor, samples: Tensor, node: str) -> None:
    """Refuse a noise_mask of another frame count or shape of picture than the latent's.

    Raises:
        ValueError: the host would repeat or stretch it silently.
    """
    frames = samples.shape[frame_dim(samples)]
    count = mask.shape[-3] if mask.ndim == 5 else mask.shape[0]
    (mask_height, mask_width), (height, width) = mask.shape[-2:], samples.shape[-2:]
    if count not in (1, frames):
        raise ValueError(
            f"{node}: the mask has {count} frames but the latent has {frames}. Give one mask, or one for each frame."
        )
    if not math.isclose(mask_width / mask_height, width / height, rel_tol=0.02):
        raise ValueError(
            f"{node}: the mask is {mask_width}x{mask_height} but the latent {width}x{height}. Give Set Latent Noise "
            "Mask a mask of the frames' own size."
        )


def check_encoded(samples: Tensor, node: str) -> None:
    """Refuse an Empty Latent where frames are needed.

    Raises:
        ValueError: all samples are zero.
    """
    if not samples.any():
        raise ValueError(
            f"{node}: the latent is empty (all zeros), there is nothing to invert. Wire the frames that the image "
            "model made, or VAE Encode."
        )


def check_inverted(latent: dict, node: str) -> Tensor:
    """The samples of a LATENT that is noise, as DDIM Inverse leaves it.

    Latents that stopped below full noise (strength under 1) say so in their description and still show the image.

    Raises:
        ValueError: the latent plainly is no noise.
    """
    samples = latent["samples"]
    if samples.numel() == 0:
        raise ValueError(f"{node}: the latent holds no frames. Check the start and count of Select Frames.")
    correlation = spatial_correlation(samples)
    if description(latent).get("strength", 1.0) == 1.0 and correlation > MOST_CORRELATED_NOISE:
        raise ValueError(
            f"{node}: this latent is no noise (neighbouring values correlate at {correlation:.2f}, noise stays below "
            f"{MOST_CORRELATED_NOISE}). Wire the output of DDIM Inverse or Mixed Inversion Blend; raise their steps if "
            "it already comes from there."
        )
    return samples


def check_finite(samples: Tensor, node: str, step: int | None = None) -> None:
    """Stop on NaN or infinity, naming the frame.

    Raises:
        ValueError: a frame is not finite.
    """
    finite = torch.isfinite(samples)
    if finite.all():
        return
    frames = finite.movedim(frame_dim(samples), 0).flatten(1).all(dim=1)
    frame = int((~frames).nonzero()[0])
    when = "" if step is None else f" at step {step + 1}"
    raise ValueError(
        f"{node}: frame {frame} is not finite{when} (NaN or infinity). Lower cfg, check that the frames fit this "
        "model's VAE, or start ComfyUI with --force-upcast-attention or --fp32-unet."
    )


def describe(
    model, node: str, *, sigma: float, at_sigma_max: bool, strength: float, grid: str, branch: str
) -> dict[str, object]:
    """What an inverted LATENT says of itself.

    Args:
        sigma: level that its x was divided by sqrt(1 + sigma^2) at (diffusion), or reached (flow).
        at_sigma_max: whether that is the model's highest level.
        branch: `image`, `video` or `mix`.
    """
    return {
        "sigma": sigma,
        "at_sigma_max": at_sigma_max,
        "strength": strength,
        "grid": grid,
        "branch": branch,
        "latent_format": type(model.get_model_object("latent_format")).__name__,
        "family": sampling_family(model, node),
    }


def description(latent: dict) -> dict:
    """The description that an inverted LATENT carries, empty where a node of the host dropped it."""
    return latent.get(TAG, {})


def mix(image: dict | None, video: dict | None, ratio: float, mode: str, node: str) -> dict:
    """Blend two inverted LATENTS; `ratio` is the weight of the image branch.

    Args:
        image, video: at ratio 0 and 1 the branch without weight may be missing, and the other is returned as it is.
        mode: one of `blend.MODES`.

    Raises:
        ValueError: the branches do not belong together, or are no noise.
    """
    alone = image if ratio == 1 else video if ratio == 0 else None
    for latent in (image, video) if alone is None else (alone,):
        check_inverted(latent, node)
    if alone is not None:
        return _mixed(alone, alone["samples"])

    a, b = image["samples"], video["samples"]
    if a.shape != b.shape:
        a = as_clip(a)
    if a.shape != b.shape:
        raise ValueError(
            f"{node}: the image branch is {list(a.shape)} but the video branch {list(b.shape)}. Invert the same "
            "frames, at the same size, in both branches."
        )
    told_a, told_b = description(image), description(video)
    for key, what, cure in (
        ("latent_format", "latent space", "Use models that share a VAE, or decode and encode again in between"),
        ("family", "kind of noise", "Diffusion and flow models do not mix; use two of one kind"),
        ("strength", "strength", "Set the same strength in both DDIM Inverse nodes"),
    ):
        if key in told_a and key in told_b and told_a[key] != told_b[key]:
            raise ValueError(
                f"{node}: the branches differ in {what}, image {told_a[key]} and video {told_b[key]}. {cure}."
            )
    return _mixed(video, MODES[mode](a, b, ratio))


def _mixed(latent: dict, samples: Tensor) -> dict:
    out = {**latent, "samples": samples}
    if TAG in latent:
        out[TAG] = {**latent[TAG], "branch": "mix"}
    return out

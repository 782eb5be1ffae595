"""Inverted LATENTs and their inversion record.

Samples are in model space and in diffusers' scale: x / sqrt(1 + sigma^2) of diffusion models, x of flow models. They
have unit variance at full noise. The record is not reliable: nodes of ComfyUI drop it, or copy it onto other samples.
Its fingerprint shows whether it belongs to the samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

import comfy.model_management
import torch
from torch import Tensor

from ..blend import MODES, smooth_over_time
from ..grids import SIGNAL_TOLERANCE, signal_fraction, unit_scale
from .comfy_types import Latent
from .latents import INVERSION_KEY, frame_dim, replace_samples, to_clip
from .model_families import FLOW

FINGERPRINT_TOLERANCE = 1e-3
"""Tolerance of mean and standard deviation: more than a cast to bfloat16 changes, less than other samples differ."""


@dataclass(frozen=True)
class InversionInfo:
    """How a LATENT was inverted.

    Args:
        sigma: last noise level of the inversion, at which x was converted to diffusers' scale.
        at_sigma_max: whether that is the model's highest level.
        strength: the strength set in the node, 0..1; 1 means full noise.
        grid: one of `grids.GRIDS`.
        branch: `image`, `video` or `mix`.
        latent_format: class name of the model's latent format.
        family: kind of noise, `diffusion` or `flow`.
    """

    sigma: float
    at_sigma_max: bool
    strength: float
    grid: str
    branch: str
    latent_format: str
    family: str

    @property
    def signal_fraction(self) -> float:
        """Fraction of the image left in the latent (`grids.signal_fraction`)."""
        return signal_fraction(self.sigma, self.family == FLOW)

    def has_same_noise_level(self, other: InversionInfo) -> bool:
        """Whether two inversions stopped at the same level: both at full noise, or within `SIGNAL_TOLERANCE`."""
        return (
            self.strength == other.strength == 1
            or abs(self.signal_fraction - other.signal_fraction) <= SIGNAL_TOLERANCE
        )


def make_inverted_latent(latent: Latent, samples: Tensor, inversion: InversionInfo | None) -> Latent:
    """A LATENT with inverted samples, and their inversion record unless it is None."""
    out = replace_samples(latent, samples)
    if inversion is not None:
        out[INVERSION_KEY] = {**asdict(inversion), "fingerprint": compute_fingerprint(out["samples"])}
    return out


def compute_fingerprint(samples: Tensor) -> dict:
    """Shape, mean and standard deviation, which show whether an inversion record belongs to these samples."""
    values = samples.float()
    return {"shape": list(samples.shape), "mean": values.mean().item(), "std": values.std().item()}


def read_inversion_info(latent: Latent) -> InversionInfo | None:
    """A LATENT's inversion record; None if there is none or it belongs to other samples."""
    stored = latent.get(INVERSION_KEY, {})
    expected = stored.get("fingerprint")
    if expected is None:
        return None
    found = compute_fingerprint(latent["samples"])
    same = found["shape"] == expected["shape"] and all(
        math.isclose(found[name], expected[name], rel_tol=FINGERPRINT_TOLERANCE, abs_tol=FINGERPRINT_TOLERANCE)
        for name in ("mean", "std")
    )
    return InversionInfo(**{field.name: stored[field.name] for field in fields(InversionInfo)}) if same else None


def to_sampler_noise(latent: Latent) -> Tensor:
    """An inverted LATENT's samples as the noise input of ComfyUI's samplers.

    At the model's highest level they use the noise unchanged; below it they multiply it by sigma.
    """
    inversion, samples = read_inversion_info(latent), latent["samples"].float()
    if inversion is None or inversion.at_sigma_max:
        return samples
    scale = 1.0 if inversion.family == FLOW else unit_scale(inversion.sigma)
    return samples * scale / inversion.sigma


def mix_branches(image: Latent, video: Latent, ratio: float, mode: str, steadiness: float) -> Latent:
    """Blend two validated inverted LATENTs.

    Args:
        image, video: at ratio 0 and 1 the zero-weight branch may be empty, and the other is returned unchanged.
        ratio: weight of the image branch, 0..1.
        mode: one of `blend.MODES`.
        steadiness: smoothing of the image branch over time, 0..1 (`blend.smooth_over_time`).

    Raises:
        ValueError: the branches do not match, or the image branch to smooth is a video latent.
    """
    if steadiness > 0 and ratio > 0:
        image = _smooth_image_branch(image, steadiness)
    only_branch = image if ratio == 1 else video if ratio == 0 else None
    if only_branch is not None:
        return _set_mixed_samples(only_branch, only_branch["samples"])
    device = comfy.model_management.intermediate_device()  # latents from files are always on the CPU
    a, b = (latent["samples"].to(device, torch.float32) for latent in (image, video))
    if a.shape != b.shape:
        a = to_clip(a)
    if a.shape != b.shape:
        raise ValueError(
            f"the image branch is {list(a.shape)} but the video branch is {list(b.shape)}. Invert the same frames, at "
            "the same size, in both branches."
        )
    _check_branches(read_inversion_info(image), read_inversion_info(video))
    return _set_mixed_samples(video, MODES[mode](a, b, ratio))


def _smooth_image_branch(image: Latent, steadiness: float) -> Latent:
    samples = image["samples"]
    if frame_dim(samples) != 0:
        raise ValueError(
            f"steadiness works on single frames, but the image branch is a video latent of {samples.shape[2]} latent "
            "frames. Set steadiness to 0."
        )
    return make_inverted_latent(image, smooth_over_time(samples, steadiness), read_inversion_info(image))


def _check_branches(image: InversionInfo | None, video: InversionInfo | None) -> None:
    if image is None or video is None:
        return
    for key, what, remedy in (
        ("latent_format", "latent space", "Use models that share a VAE, or decode and encode again in between"),
        ("family", "kind of noise", "Diffusion and flow models cannot be mixed; use two models of one kind"),
    ):
        image_value, video_value = getattr(image, key), getattr(video, key)
        if image_value != video_value:
            raise ValueError(f"the branches differ in {what}, image {image_value} and video {video_value}. {remedy}.")
    if not image.has_same_noise_level(video):
        raise ValueError(
            f"the branches stopped at different noise levels, image at sigma {image.sigma:.3g} (strength "
            f"{image.strength:g}) and video at sigma {video.sigma:.3g} (strength {video.strength:g}). Set the same "
            "strength, and schedulers that reach it, in both DDIM Inverse nodes."
        )


def _set_mixed_samples(latent: Latent, samples: Tensor) -> Latent:
    inversion = read_inversion_info(latent)
    return make_inverted_latent(latent, samples, inversion and replace(inversion, branch="mix"))

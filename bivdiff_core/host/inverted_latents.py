"""Inverted LATENTs, and the description that they carry.

Samples are in model space and in diffusers' scale: x / sqrt(1 + sigma^2) of diffusion models, x of flow models, of unit
variance at full noise. The description beside them is a hint: nodes of the host drop it, or copy it onto other samples.
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
"""Of mean and standard deviation: more than a cast to bfloat16 moves them, less than any other samples differ by."""


@dataclass(frozen=True)
class InversionInfo:
    """How a LATENT was inverted.

    Args:
        sigma: level reached, at which x was brought to diffusers' scale.
        at_sigma_max: whether that is the model's highest level.
        strength: asked for; 1 means full noise.
        grid: one of `grids.GRIDS`.
        branch: `image`, `video` or `mix_branches`.
        latent_format: class name of the model's latent space.
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
    def share(self) -> float:
        """What is left of the image (`grids.signal_fraction`)."""
        return signal_fraction(self.sigma, self.family == FLOW)

    def has_same_noise_level(self, other: InversionInfo) -> bool:
        """Whether two latents stopped at one level: both at full noise, or within `SIGNAL_TOLERANCE`."""
        return self.strength == other.strength == 1 or abs(self.share - other.share) <= SIGNAL_TOLERANCE


def make_inverted_latent(latent: Latent, samples: Tensor, inversion: InversionInfo | None) -> Latent:
    """A LATENT with inverted samples and their description, where it is known."""
    out = replace_samples(latent, samples)
    if inversion is not None:
        out[INVERSION_KEY] = {**asdict(inversion), "fingerprint": compute_fingerprint(out["samples"])}
    return out


def compute_fingerprint(samples: Tensor) -> dict:
    """What tells whether a description belongs to samples."""
    values = samples.float()
    return {"shape": list(samples.shape), "mean": values.mean().item(), "std": values.std().item()}


def read_inversion_info(latent: Latent) -> InversionInfo | None:
    """The description of a LATENT, None where there is none or it belongs to other samples."""
    told = latent.get(INVERSION_KEY, {})
    known = told.get("fingerprint")
    if known is None:
        return None
    found = compute_fingerprint(latent["samples"])
    same = found["shape"] == known["shape"] and all(
        math.isclose(found[name], known[name], rel_tol=FINGERPRINT_TOLERANCE, abs_tol=FINGERPRINT_TOLERANCE)
        for name in ("mean", "std")
    )
    return InversionInfo(**{field.name: told[field.name] for field in fields(InversionInfo)}) if same else None


def to_sampler_noise(latent: Latent) -> Tensor:
    """Samples of an inverted LATENT as the noise that the host's samplers take.

    At the model's highest level they use it as it is, below that they multiply it by sigma.
    """
    inversion, samples = read_inversion_info(latent), latent["samples"].float()
    if inversion is None or inversion.at_sigma_max:
        return samples
    scale = 1.0 if inversion.family == FLOW else unit_scale(inversion.sigma)
    return samples * scale / inversion.sigma


def mix_branches(image: Latent, video: Latent, ratio: float, mode: str, steadiness: float) -> Latent:
    """Blend two inverted LATENTs that the gate has admitted; `ratio` is the weight of the image branch.

    Args:
        image, video: at ratio 0 and 1 the zero-weight branch may be empty, and the other passes as it is.
        mode: one of `blend.MODES`.
        steadiness: of the image branch, 0..1 (`blend.smooth_over_time`).

    Raises:
        ValueError: the branches do not belong together, or frames are wanted and a video's latent came.
    """
    if steadiness > 0 and ratio > 0:
        image = _smooth_image_branch(image, steadiness)
    alone = image if ratio == 1 else video if ratio == 0 else None
    if alone is not None:
        return _set_mixed_samples(alone, alone["samples"])
    device = comfy.model_management.intermediate_device()  # latents from files are on the CPU, whatever the flags
    a, b = (latent["samples"].to(device, torch.float32) for latent in (image, video))
    if a.shape != b.shape:
        a = to_clip(a)
    if a.shape != b.shape:
        raise ValueError(
            f"the image branch is {list(a.shape)} but the video branch {list(b.shape)}. Invert the same frames, at the "
            "same size, in both branches."
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
        ("family", "kind of noise", "Diffusion and flow models do not mix; use two of one kind"),
    ):
        ours, theirs = getattr(image, key), getattr(video, key)
        if ours != theirs:
            raise ValueError(f"the branches differ in {what}, image {ours} and video {theirs}. {remedy}.")
    if not image.has_same_noise_level(video):
        raise ValueError(
            f"the branches stopped at different noise levels, image at sigma {image.sigma:.3g} (strength "
            f"{image.strength:g}) and video at sigma {video.sigma:.3g} (strength {video.strength:g}). Set the same "
            "strength, and schedulers that reach it, in both DDIM Inverse nodes."
        )


def _set_mixed_samples(latent: Latent, samples: Tensor) -> Latent:
    inversion = read_inversion_info(latent)
    return make_inverted_latent(latent, samples, inversion and replace(inversion, branch="mix"))

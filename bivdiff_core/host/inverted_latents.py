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

from ..blend import MODES, steadied
from ..grids import SAME_SHARE, image_share, unit_scale
from .comfy_types import Latent
from .latents import DESCRIPTION, as_clip, frame_dim, latent_with
from .model_families import FLOW

FINGERPRINT_TOLERANCE = 1e-3
"""Of mean and standard deviation: more than a cast to bfloat16 moves them, less than any other samples differ by."""


@dataclass(frozen=True)
class Inversion:
    """How a LATENT was inverted.

    Args:
        sigma: level reached, at which x was brought to diffusers' scale.
        at_sigma_max: whether that is the model's highest level.
        strength: asked for; 1 means full noise.
        grid: one of `grids.GRIDS`.
        branch: `image`, `video` or `mix`.
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
        """What is left of the image (`grids.image_share`)."""
        return image_share(self.sigma, self.family == FLOW)

    def belongs_with(self, other: Inversion) -> bool:
        """Whether two latents stopped at one level: both at full noise, or within `SAME_SHARE`."""
        return self.strength == other.strength == 1 or abs(self.share - other.share) <= SAME_SHARE


def inverted_latent(latent: Latent, samples: Tensor, inversion: Inversion | None) -> Latent:
    """A LATENT with inverted samples and their description, where it is known."""
    out = latent_with(latent, samples)
    if inversion is not None:
        out[DESCRIPTION] = {**asdict(inversion), "fingerprint": fingerprint(out["samples"])}
    return out


def fingerprint(samples: Tensor) -> dict:
    """What tells whether a description belongs to samples."""
    values = samples.float()
    return {"shape": list(samples.shape), "mean": values.mean().item(), "std": values.std().item()}


def inversion_of(latent: Latent) -> Inversion | None:
    """The description of a LATENT, None where there is none or it belongs to other samples."""
    told = latent.get(DESCRIPTION, {})
    known = told.get("fingerprint")
    if known is None:
        return None
    found = fingerprint(latent["samples"])
    same = found["shape"] == known["shape"] and all(
        math.isclose(found[name], known[name], rel_tol=FINGERPRINT_TOLERANCE, abs_tol=FINGERPRINT_TOLERANCE)
        for name in ("mean", "std")
    )
    return Inversion(**{field.name: told[field.name] for field in fields(Inversion)}) if same else None


def as_noise(latent: Latent) -> Tensor:
    """Samples of an inverted LATENT as the noise that the host's samplers take.

    At the model's highest level they use it as it is, below that they multiply it by sigma.
    """
    inversion, samples = inversion_of(latent), latent["samples"].float()
    if inversion is None or inversion.at_sigma_max:
        return samples
    scale = 1.0 if inversion.family == FLOW else unit_scale(inversion.sigma)
    return samples * scale / inversion.sigma


def mix(image: Latent, video: Latent, ratio: float, mode: str, steadiness: float) -> Latent:
    """Blend two inverted LATENTs that the gate has admitted; `ratio` is the weight of the image branch.

    Args:
        image, video: at ratio 0 and 1 the zero-weight branch may be empty, and the other passes as it is.
        mode: one of `blend.MODES`.
        steadiness: of the image branch, 0..1 (`blend.steadied`).

    Raises:
        ValueError: the branches do not belong together, or frames are wanted and a video's latent came.
    """
    if steadiness > 0 and ratio > 0:
        image = _steadied(image, steadiness)
    alone = image if ratio == 1 else video if ratio == 0 else None
    if alone is not None:
        return _mixed(alone, alone["samples"])
    device = comfy.model_management.intermediate_device()  # latents from files are on the CPU, whatever the flags
    a, b = (latent["samples"].to(device, torch.float32) for latent in (image, video))
    if a.shape != b.shape:
        a = as_clip(a)
    if a.shape != b.shape:
        raise ValueError(
            f"the image branch is {list(a.shape)} but the video branch {list(b.shape)}. Invert the same frames, at the "
            "same size, in both branches."
        )
    _check_branches(inversion_of(image), inversion_of(video))
    return _mixed(video, MODES[mode](a, b, ratio))


def _steadied(image: Latent, steadiness: float) -> Latent:
    samples = image["samples"]
    if frame_dim(samples) != 0:
        raise ValueError(
            f"steadiness works on single frames, but the image branch is a video latent of {samples.shape[2]} latent "
            "frames. Set steadiness to 0."
        )
    return inverted_latent(image, steadied(samples, steadiness), inversion_of(image))


def _check_branches(image: Inversion | None, video: Inversion | None) -> None:
    if image is None or video is None:
        return
    for key, what, remedy in (
        ("latent_format", "latent space", "Use models that share a VAE, or decode and encode again in between"),
        ("family", "kind of noise", "Diffusion and flow models do not mix; use two of one kind"),
    ):
        ours, theirs = getattr(image, key), getattr(video, key)
        if ours != theirs:
            raise ValueError(f"the branches differ in {what}, image {ours} and video {theirs}. {remedy}.")
    if not image.belongs_with(video):
        raise ValueError(
            f"the branches stopped at different noise levels, image at sigma {image.sigma:.3g} (strength "
            f"{image.strength:g}) and video at sigma {video.sigma:.3g} (strength {video.strength:g}). Set the same "
            "strength, and schedulers that reach it, in both DDIM Inverse nodes."
        )


def _mixed(latent: Latent, samples: Tensor) -> Latent:
    inversion = inversion_of(latent)
    return inverted_latent(latent, samples, inversion and replace(inversion, branch="mix"))

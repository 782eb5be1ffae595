"""Inverted latents: parsed from a LATENT once where a node begins, written once where it ends.

Samples are in model space and in diffusers' scale: x / sqrt(1 + sigma^2) of diffusion models, x of flow models. They
have unit variance at full noise. A LATENT also carries an inversion record, which is not reliable: nodes of ComfyUI
drop it, or copy it onto other samples. Its fingerprint shows whether it belongs to the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace

import comfy.model_management
import torch
from torch import Tensor

from ..blend import MODES, smooth_over_time
from ..grids import FULL_NOISE_SIGNAL, SIGNAL_TOLERANCE, signal_fraction, unit_scale
from ..node_warnings import warn
from .comfy_types import Latent
from .latents import INVERSION_KEY, describe_samples, frame_dim, replace_samples, to_clip
from .model_families import FLOW

RECORD_VERSION = 1
"""Version of the inversion record, for later versions of the pack; records without one have no `levels`."""

FINGERPRINT_TOLERANCE = 1e-3
"""Tolerance of mean and standard deviation: more than a cast to bfloat16 changes, less than other samples differ."""


@dataclass(frozen=True)
class InversionInfo:
    """How samples were inverted.

    Args:
        sigma: last noise level of the inversion, that of the samples.
        at_sigma_max: whether that is the model's highest level.
        strength: the strength set in the node, 0..1; 1 means full noise.
        grid: one of `grids.GRIDS`.
        branch: `image`, `video` or `mix`.
        latent_format: class name of the model's latent format.
        family: kind of noise, `diffusion` or `flow`.
        levels: the noise levels from 0 to `sigma`; empty in old records.
    """

    sigma: float
    at_sigma_max: bool
    strength: float
    grid: str
    branch: str
    latent_format: str
    family: str
    levels: tuple[float, ...] = ()

    @property
    def signal_fraction(self) -> float:
        """Fraction of the image left in the samples (`grids.signal_fraction`)."""
        return signal_fraction(self.sigma, self.family == FLOW)

    @property
    def is_full_noise(self) -> bool:
        """Whether hardly anything of the image is left."""
        return self.signal_fraction <= FULL_NOISE_SIGNAL

    def has_same_noise_level(self, other: InversionInfo) -> bool:
        """Whether two inversions stopped at the same level: both at full noise, or within `SIGNAL_TOLERANCE`."""
        return (self.is_full_noise and other.is_full_noise) or (
            abs(self.signal_fraction - other.signal_fraction) <= SIGNAL_TOLERANCE
        )


@dataclass(frozen=True)
class InvertedLatent:
    """An inverted latent.

    Args:
        samples: in model space and diffusers' scale.
        info: how they were inverted; None if unknown.
        noise_mask: a mask of the frames that nodes pass on.
        batch_index: positions of the frames in the whole clip.
        other_keys: the rest of the LATENT that it comes from.
    """

    samples: Tensor
    info: InversionInfo | None
    noise_mask: Tensor | None = None
    batch_index: Sequence[int] | None = None
    other_keys: Latent = field(default_factory=dict)

    @classmethod
    def from_latent(cls, latent: Latent) -> InvertedLatent:
        """Parse a LATENT; a record that belongs to other samples or is incomplete is ignored."""
        return cls.from_samples(latent["samples"], _read_record(latent), latent)

    @classmethod
    def from_samples(cls, samples: Tensor, info: InversionInfo | None, latent: Latent) -> InvertedLatent:
        """New inverted samples with the mask and the other keys of a LATENT."""
        other_keys = {key: value for key, value in latent.items() if key not in ("noise_mask", "batch_index")}
        return cls(samples, info, latent.get("noise_mask"), latent.get("batch_index"), other_keys)

    def to_latent(self) -> Latent:
        """The LATENT, on ComfyUI's device for results, with its inversion record unless that is unknown."""
        latent = replace_samples(self.other_keys, self.samples)
        if self.noise_mask is not None:
            latent["noise_mask"] = self.noise_mask
        if self.batch_index is not None:
            latent["batch_index"] = self.batch_index
        if self.info is not None:
            record = {"version": RECORD_VERSION, **asdict(self.info), "levels": list(self.info.levels)}
            latent[INVERSION_KEY] = {**record, "fingerprint": _fingerprint(latent["samples"])}
        return latent

    def to_sampler_noise(self) -> Tensor:
        """The samples as the noise input of ComfyUI's samplers.

        At the model's highest level they use the noise unchanged; below it they multiply it by sigma.
        """
        samples = self.samples.float()
        if self.info is None or self.info.at_sigma_max:
            return samples
        scale = 1.0 if self.info.family == FLOW else unit_scale(self.info.sigma)
        return samples * scale / self.info.sigma


def _fingerprint(samples: Tensor) -> dict:
    """Shape, mean and standard deviation, which show whether an inversion record belongs to these samples."""
    values = samples.float()
    return {"shape": list(samples.shape), "mean": values.mean().item(), "std": values.std().item()}


def _read_record(latent: Latent) -> InversionInfo | None:
    """A LATENT's inversion record; None if it has none, an incomplete one or one of other samples."""
    record = latent.get(INVERSION_KEY, {})
    required = {item.name for item in fields(InversionInfo) if item.default is MISSING} | {"fingerprint"}
    if not required <= set(record):
        return None
    expected, found = record["fingerprint"], _fingerprint(latent["samples"])
    is_same = found["shape"] == expected["shape"] and all(
        math.isclose(found[name], expected[name], rel_tol=FINGERPRINT_TOLERANCE, abs_tol=FINGERPRINT_TOLERANCE)
        for name in ("mean", "std")
    )
    if not is_same:
        return None
    known = {item.name: record[item.name] for item in fields(InversionInfo) if item.name in record}
    return InversionInfo(**{**known, "levels": tuple(record.get("levels", ()))})


def mix_branches(
    image: InvertedLatent | None, video: InvertedLatent | None, ratio: float, mode: str, steadiness: float
) -> InvertedLatent:
    """Blend two validated inverted latents. The mix is at the video branch's noise level.

    Args:
        image, video: the branches; None for a branch without weight, and the mix is the other one.
        ratio: weight of the image branch, 0..1.
        mode: one of `blend.MODES`.
        steadiness: smoothing of the mix over time, 0..1 (`blend.smooth_over_time`).

    Raises:
        ValueError: the branches do not match.
    """
    mix = next(branch for branch in (video, image) if branch is not None)
    if image is not None and video is not None:
        info = _combine_info(image.info, video.info)
        mix = replace(video, samples=MODES[mode](*_align_branches(image.samples, video.samples), ratio), info=info)
    if steadiness > 0:
        mix = replace(mix, samples=smooth_over_time(mix.samples, steadiness, frame_dim(mix.samples)))
    return replace(mix, info=mix.info and replace(mix.info, branch="mix"))


def _align_branches(image: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    device = comfy.model_management.intermediate_device()  # latents from files are always on the CPU
    image, video = (samples.to(device, torch.float32) for samples in (image, video))
    if image.shape != video.shape:
        image = to_clip(image)
    if image.ndim == video.ndim == 5 and image.shape[2] != video.shape[2]:
        raise ValueError(
            f"the image branch has {image.shape[2]} frames but the video branch {video.shape[2]} latents, and each of "
            "these packs several frames. Encode Frames with mode single_frames gives the image branch one frame for "
            "each latent, at a stride of 4 (8 with LTX); or wire the encoded clip into both DDIM Inverse nodes."
        )
    if image.shape != video.shape:
        raise ValueError(
            f"the image branch is {describe_samples(image)}, but the video branch is {describe_samples(video)}. Invert "
            "the same frames, at the same size, in both branches."
        )
    return image, video


def _combine_info(image: InversionInfo | None, video: InversionInfo | None) -> InversionInfo | None:
    """The record of a mix: the video branch's, or the only one that is known."""
    if image is None or video is None:
        known, unknown = (image, "video") if video is None else (video, "image")
        if known is not None:
            warn(
                "The %s branch does not record how far it was inverted. It is taken to be at sigma %.3g, like the "
                "other branch. Save inverted latents with Save Inverted Latent, which keeps the record.",
                unknown,
                known.sigma,
            )
        return known
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
    return video

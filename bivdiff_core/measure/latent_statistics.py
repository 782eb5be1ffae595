"""How far an inverted latent is from white noise.

Video models are trained to start from N(0, I). From other noise they generate dull, smeared or broken frames.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from ..noise import MAX_NOISE_CORRELATION, spatial_correlation

BAND_EDGES = (0.25, 0.5, 0.75)
"""Frequencies that divide the spectrum into four bands, as shares of each axis's Nyquist frequency."""

HEALTHY_RANGES = {
    "std": (0.93, 1.07),
    "spatial": (-0.1, 0.1),
    "bands": (0.8, 1.25),
    "relative std": (0.93, 1.07),
    "relative bands": (0.8, 1.25),
    "frame std": (0.93, 1.07),
    "frame spatial": (-0.1, 0.1),
}
"""Ranges that count as white noise. Values outside are reported.

The `relative` figures are a frame's value relative to the clip's median frame.
"""

COMPARED_FIGURES = ("std", "spatial", "bands", "relative std", "relative bands")
"""Figures that are compared with white noise."""

BAD_FRAME_THRESHOLDS = {"relative std": 2.0, "relative bands": 2.4}
"""Deviation, as from `normalize_deviations`, at which a frame is broken and raises the alarm.

95% of the demo models' good videos came from latents below each threshold (docs/evidence.md).
"""

SAMPLING_Z = 3.5
"""Standard deviations of sampling variance that the bounds allow: white noise exceeds them in 1 of 2000 figures."""

WHITE_NOISE_THIRD_BAND = (0.7, 1.3)
"""Power of the third band, relative to white noise, in a latent that counts as white noise; see `is_white_noise`."""

NOISE_STD_RANGE = (0.5, 2.0)
"""Plausible noise std of an inverted clip. An empty latent has 0, a clip encoded by SD's VAE 5."""


def flatten_to_frames(latent: Tensor) -> Tensor:
    """Frames `[F, C, H, W]` of a latent `[F, C, H, W]`, `[1, C, T, H, W]` or `[F, C, 1, H, W]`, in float32."""
    frames = latent if latent.ndim == 4 else rearrange(latent, "b c t h w -> (b t) c h w")
    return frames.float()


def band_indices(height: int, width: int) -> Tensor:
    """Band `[H, W]` of each frequency of a frame, 0 (coarse) to 3 (fine)."""
    radius = torch.hypot(torch.fft.fftfreq(height, d=0.5)[:, None], torch.fft.fftfreq(width, d=0.5))
    return torch.bucketize(radius, torch.tensor(BAND_EDGES))


def band_power(frames: Tensor) -> Tensor:
    """Power `[F, 4]` of frames `[F, C, H, W]` in the four bands, coarse to fine; 1 for white noise of unit variance."""
    band = band_indices(*frames.shape[-2:])
    power = torch.fft.fft2(frames, norm="ortho").abs().square().mean(dim=1)  # [F, H, W]
    return torch.stack([power[:, band == i].mean(dim=1) for i in range(len(BAND_EDGES) + 1)], dim=1)


def measure_latent(frames: Tensor) -> dict[str, Tensor]:
    """Figures that distinguish frames `[F, C, H, W]` from white noise.

    `spatial` is the correlation of adjacent values in a frame, `temporal` the correlation of adjacent frames.
    `relative` figures are a frame's value divided by that of the clip's median frame, so a problem of all frames does
    not count. Each channel's mean over the clip is subtracted first, except for `channel mean`. Band powers are divided
    by the clip's variance, so they show only the shape of the spectrum.
    """
    channel_mean = frames.mean(dim=(0, 2, 3))
    frames = frames - channel_mean[:, None, None]
    variance = frames.square().mean().clamp(min=1e-12)
    stds = frames.square().mean(dim=(1, 2, 3)).sqrt()
    bands = band_power(frames) / variance
    return {
        "std": variance.sqrt(),
        "spatial": torch.tensor(spatial_correlation(frames)),
        "bands": bands.mean(dim=0),  # [4]
        "relative std": stds / stds.median().clamp(min=1e-6),  # [F]
        "relative bands": bands / bands.median(dim=0).values.clamp(min=1e-6),  # [F, 4]
        "frame std": stds,  # [F]
        "frame spatial": torch.tensor([spatial_correlation(frame[None]) for frame in frames]),  # [F]
        "frame bands": bands,  # [F, 4]
        "channel std": frames.square().mean(dim=(0, 2, 3)).sqrt(),  # [C]
        "channel mean": channel_mean,  # [C]
        "temporal": torch.cosine_similarity(frames[1:].flatten(1), frames[:-1].flatten(1)),  # [F - 1]
    }


def sampling_limits(shape: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """Bounds for the figures of frames of a shape `[F, C, H, W]`, wide enough for white noise of that shape.

    Each is the wider of `HEALTHY_RANGES` and `SAMPLING_Z` standard deviations of the figure's sampling distribution.
    The std of n values varies by `1 / sqrt(2n)`, a correlation of n pairs by `1 / sqrt(n)`. Power is a chi-square
    variable; its quantiles are Wilson and Hilferty's (PNAS 17, 1931). Figures relative to the median frame also vary
    with the median, whose variance is `pi / 2 / F` of a frame's.
    """
    frames, channels, height, width = shape
    values = channels * height * width
    pairs = channels * min(height * (width - 1), (height - 1) * width)
    smallest_band = channels * int(torch.bincount(band_indices(height, width).flatten()).min())
    median_factor = 1 + math.pi / 2 / frames
    sampled = {
        "std": _normal_range(1, 1 / math.sqrt(2 * frames * values)),
        "spatial": _normal_range(0, 1 / math.sqrt(max(frames * pairs, 1))),
        "bands": _chi_square_range(frames * smallest_band),
        "relative std": _normal_range(1, math.sqrt(median_factor / (2 * values))),
        "relative bands": _chi_square_range(smallest_band / median_factor),
        "frame std": _normal_range(1, 1 / math.sqrt(2 * values)),
        "frame spatial": _normal_range(0, 1 / math.sqrt(max(pairs, 1))),
    }
    return {
        name: (min(low, sampled[name][0]), max(high, sampled[name][1])) for name, (low, high) in HEALTHY_RANGES.items()
    }


def _normal_range(mean: float, std: float) -> tuple[float, float]:
    """Range of a normal variable."""
    return mean - SAMPLING_Z * std, mean + SAMPLING_Z * std


def _chi_square_range(degrees: float) -> tuple[float, float]:
    """Range of the mean square of this many independent standard normal values (degrees of freedom)."""
    variance = 2 / (9 * degrees)  # of its cube root
    low, high = _normal_range(1 - variance, math.sqrt(variance))
    return max(low, 0.0) ** 3, high**3


def normalize_deviations(measured: dict[str, Tensor], bounds: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Deviation of each figure in `COMPARED_FIGURES` from white noise, in units of the distance to its bound."""
    deviations = {}
    for name in COMPARED_FIGURES:
        low, high = bounds[name]
        ideal = 0.0 if name == "spatial" else 1.0
        distance = measured[name] - ideal
        deviations[name] = torch.maximum(distance / (high - ideal), distance / (low - ideal))
    return deviations


def find_bad_frames(deviations: dict[str, Tensor]) -> list[int]:
    """Indices of broken frames: those that differ too much from the other frames, such as black frames or static."""
    worst = torch.maximum(
        deviations["relative std"] / BAD_FRAME_THRESHOLDS["relative std"],
        deviations["relative bands"].amax(dim=1) / BAD_FRAME_THRESHOLDS["relative bands"],
    )
    return (worst > 1).nonzero().flatten().tolist()


def noise_statistics(latent: Tensor) -> tuple[float, float]:
    """Noise std and spatial correlation of a latent, for `is_plausible_noise`."""
    frames = flatten_to_frames(latent)
    return _subtract_channel_means(frames).square().mean().sqrt().item(), spatial_correlation(frames)


def _subtract_channel_means(frames: Tensor) -> Tensor:
    return frames - frames.mean(dim=(0, 2, 3))[:, None, None]


def has_noise_std(std: float) -> bool:
    """Whether the noise std is plausible for a latent inverted to any strength."""
    low, high = NOISE_STD_RANGE
    return low < std < high


def is_plausible_noise(std: float, spatial: float) -> bool:
    """Whether the figures fit a latent inverted to full noise, even a poor one.

    Inversions of smooth footage exceed the bound on the correlation, so a latent with an inversion record is accepted
    without this check.
    """
    return has_noise_std(std) and spatial < MAX_NOISE_CORRELATION


def is_white_noise(latent: Tensor) -> bool:
    """Whether a latent looks like white noise: fully inverted, or generated as noise.

    Very fine patterns in a small latent can have uncorrelated adjacent values, but then the third band has less power
    than in white noise: .24 to .67 of it on 24 hard demo clips, .84 to 1.12 on inversions of eight of them.
    """
    std, spatial = noise_statistics(latent)
    (min_std, max_std), (min_spatial, max_spatial) = HEALTHY_RANGES["std"], HEALTHY_RANGES["spatial"]
    if not (min_std < std < max_std and min_spatial < spatial < max_spatial):
        return False  # nearly all images end here, without an FFT
    frames = _subtract_channel_means(flatten_to_frames(latent).cpu())
    third_band = band_power(frames)[:, 2].mean().item() / std**2
    return WHITE_NOISE_THIRD_BAND[0] < third_band < WHITE_NOISE_THIRD_BAND[1]


def format_latent_statistics(measured: dict[str, Tensor]) -> str:
    """The clip's figures, each with its expected value."""
    bands = ", ".join(f"{band:.2f}" for band in measured["bands"].tolist())
    means = measured["channel mean"]
    lines = [
        f"noise std: {measured['std']:.3f} (expected 1)",
        f"correlation of adjacent values: {measured['spatial']:.3f} (expected 0)",
        f"power from coarse to fine: {bands} (expected 1)",
        f"channel means: {means.min():.2f} to {means.max():.2f} (0 is neutral, other values tint the video)",
    ]
    if len(measured["temporal"]):
        lines.append(
            f"correlation of adjacent frames: {measured['temporal'].mean():.3f} (not a fault: the image branch keeps "
            "what the frames have in common)"
        )
    return "\n".join(lines)

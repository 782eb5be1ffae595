"""Measures how far an inverted latent is from white noise, predicts the effect on the video and names the fixes.

Video models are trained to start from N(0, I). From other noise they generate dull, smeared or broken frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..noise import MAX_NOISE_CORRELATION, spatial_correlation

BAND_EDGES = (0.25, 0.5, 0.75)
"""Radii that divide the spectrum into four bands, in units of each axis's Nyquist frequency."""

HEALTHY_RANGES = {
    "std": (0.93, 1.07),
    "spatial": (-0.1, 0.1),
    "bands": (0.8, 1.25),
    "odd std": (0.93, 1.07),
    "odd bands": (0.8, 1.25),
    "frame std": (0.93, 1.07),
    "frame spatial": (-0.1, 0.1),
}
"""Ranges that count as white noise. Values outside are reported.

The `odd` figures are a frame's value relative to the clip's median frame.
"""

DEVIATIONS = ("std", "spatial", "bands", "odd std", "odd bands")
"""Figures that are compared with white noise."""

BAD_FRAME_THRESHOLDS = {"odd std": 2.0, "odd bands": 2.4}
"""Deviation, in multiples of the healthy range, at which a frame is broken and raises the alarm.

95% of the demo models' good videos came from latents below each threshold (docs/evidence.md).
"""

SAMPLING_Z = 3.5
"""Standard deviations of sampling variance that the bounds allow: white noise exceeds them in 1 of 2000 figures."""

WHITE_NOISE_THIRD_BAND = (0.7, 1.3)
"""Power of the third band, relative to white noise, in a latent that counts as white noise; see `is_white_noise`."""

NOISE_STD_RANGE = (0.5, 2.0)
"""Plausible noise std of an inverted clip. An empty latent has 0, a clip encoded by SD's VAE 5."""

RAISE_STEPS_ADVICE = "In DDIM Inverse raise steps, or set solver to fireflow."
"""How to bring an inversion closer to white noise.

For a mix, more weight of the whiter branch helps more. Example: a clip of the demo models, 25 steps, ddim. Relative to
white noise, the power of the coarsest band is 2.6 in the video branch, 1.1 in the image branch and 1.6 in an equal mix.
Blend mode frequency brings it to 1.04 but is no fix, because it loses shapes (research/pages/study.md).
"""


@dataclass(frozen=True)
class Finding:
    """A problem of a latent, described for artists.

    Attributes:
        problem: its name.
        observation: the measured figures that show it.
        effect: its effect on the video.
        fixes: controls that fix it.
        alarming: whether it raises the alarm: a broken frame, or a latent that is not noise. Latents with other
            problems gave good videos.
    """

    problem: str
    observation: str
    effect: str
    fixes: tuple[str, ...]
    alarming: bool = False


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

    `spatial` is the correlation of adjacent values in a frame, `temporal` the correlation of adjacent frames. `odd`
    figures are a frame's value divided by that of the clip's median frame, so a problem of all frames does not count.
    Each channel's mean over the clip is subtracted first, except for `channel mean`. Band powers are divided by the
    clip's variance, so they show only the shape of the spectrum.
    """
    mean = frames.mean(dim=(0, 2, 3))
    frames = frames - mean[:, None, None]
    variance = frames.square().mean().clamp(min=1e-12)
    stds = frames.square().mean(dim=(1, 2, 3)).sqrt()
    bands = band_power(frames) / variance
    return {
        "std": variance.sqrt(),
        "spatial": torch.tensor(spatial_correlation(frames)),
        "bands": bands.mean(dim=0),  # [4]
        "odd std": stds / stds.median().clamp(min=1e-6),  # [F]
        "odd bands": bands / bands.median(dim=0).values.clamp(min=1e-6),  # [F, 4]
        "frame std": stds,  # [F]
        "frame spatial": torch.tensor([spatial_correlation(frame[None]) for frame in frames]),  # [F]
        "frame bands": bands,  # [F, 4]
        "channel std": frames.square().mean(dim=(0, 2, 3)).sqrt(),  # [C]
        "channel mean": mean,  # [C]
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
    median = 1 + math.pi / 2 / frames
    sampled = {
        "std": _around(1, 1 / math.sqrt(2 * frames * values)),
        "spatial": _around(0, 1 / math.sqrt(max(frames * pairs, 1))),
        "bands": _chi_square_range(frames * smallest_band),
        "odd std": _around(1, math.sqrt(median / (2 * values))),
        "odd bands": _chi_square_range(smallest_band / median),
        "frame std": _around(1, 1 / math.sqrt(2 * values)),
        "frame spatial": _around(0, 1 / math.sqrt(max(pairs, 1))),
    }
    return {
        name: (min(low, sampled[name][0]), max(high, sampled[name][1])) for name, (low, high) in HEALTHY_RANGES.items()
    }


def _around(mean: float, std: float) -> tuple[float, float]:
    return mean - SAMPLING_Z * std, mean + SAMPLING_Z * std


def _chi_square_range(degrees: float) -> tuple[float, float]:
    """Range of the mean square of as many normal values."""
    spread = 2 / (9 * degrees)
    low, high = _around(1 - spread, math.sqrt(spread))
    return max(low, 0.0) ** 3, high**3


def normalized_deviation(measured: dict[str, Tensor], bounds: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Deviation of each figure in `DEVIATIONS` from white noise; 1 is at its bound."""
    deviations = {}
    for name in DEVIATIONS:
        low, high = bounds[name]
        ideal = 0.0 if name == "spatial" else 1.0
        distance = measured[name] - ideal
        deviations[name] = torch.maximum(distance / (high - ideal), distance / (low - ideal))
    return deviations


def find_bad_frames(deviations: dict[str, Tensor]) -> list[int]:
    """Indices of broken frames: those that differ too much from the other frames, such as black frames or static."""
    worst = torch.maximum(
        deviations["odd std"] / BAD_FRAME_THRESHOLDS["odd std"],
        deviations["odd bands"].amax(dim=1) / BAD_FRAME_THRESHOLDS["odd bands"],
    )
    return (worst > 1).nonzero().flatten().tolist()


def noise_statistics(latent: Tensor) -> tuple[float, float]:
    """Noise std and spatial correlation of a latent, for `is_plausible_noise`."""
    frames = flatten_to_frames(latent)
    centred = frames - frames.mean(dim=(0, 2, 3))[:, None, None]
    return centred.square().mean().sqrt().item(), spatial_correlation(frames)


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
    if not all(
        low < value < high
        for value, (low, high) in ((std, HEALTHY_RANGES["std"]), (spatial, HEALTHY_RANGES["spatial"]))
    ):
        return False  # nearly all images end here, without an FFT
    frames = flatten_to_frames(latent).cpu()
    centred = frames - frames.mean(dim=(0, 2, 3))[:, None, None]
    third = band_power(centred)[:, 2].mean().item() / std**2
    return WHITE_NOISE_THIRD_BAND[0] < third < WHITE_NOISE_THIRD_BAND[1]


def diagnose(measured: dict[str, Tensor], deviations: dict[str, Tensor], branch: str, strength: float) -> list[Finding]:
    """Problems of a latent, alarming ones first; empty if its figures are within their bounds.

    Args:
        measured: from `measure_latent`.
        deviations: from `normalized_deviation`.
        branch: `image`, `video`, `mix`, or empty if unknown.
        strength: below 1 the frames are supposed to show in the noise, and only single bad frames are reported.
    """
    std, spatial, bands = measured["std"].item(), measured["spatial"].item(), measured["bands"].tolist()
    if not branch and strength == 1 and not is_plausible_noise(std, spatial):
        return [
            Finding(
                "not an inverted latent",
                f"its noise std is {std:.2f} and adjacent values correlate at {spatial:.2f}, expected 1 and 0",
                "The smoother must start from noise.",
                (
                    "Encoded frames and empty latents look like this: wire the output of DDIM Inverse or Mixed "
                    "Inversion Blend instead. If this is their output, raise the steps of DDIM Inverse.",
                ),
                alarming=True,
            )
        ]
    findings = []
    if deviations["std"] > 1 and strength == 1:
        fixes: tuple[str, ...] = (RAISE_STEPS_ADVICE,)
        name, effect = "lost variance", "The video may come out blurred and dull."
        if std > 1:
            name, effect = "too much variance", "The video may come out harsh, with colours that are too strong."
        elif branch == "mix":
            fixes = ("In Mixed Inversion Blend set mode to variance_preserving.", RAISE_STEPS_ADVICE)
        observation = f"the noise std is {std:.2f}, expected 1"
        findings.append(Finding(name, observation, effect, fixes))
    if max(deviations["spatial"], deviations["bands"].max()) > 1 and strength == 1:
        more_image = () if branch == "image" else ("In Mixed Inversion Blend raise mixing_ratio.",)
        findings.append(
            Finding(
                "structure left in the noise",
                f"adjacent values correlate at {spatial:.2f}, expected 0, and the power from coarse to fine is "
                f"{', '.join(f'{band:.2f}' for band in bands)}, expected 1",
                "Flat areas may smear, and shapes of the source frames show through.",
                (*more_image, RAISE_STEPS_ADVICE),
            )
        )
    bad = find_bad_frames(deviations)
    if bad:
        findings.append(
            Finding(
                "one bad frame" if len(bad) == 1 else f"{len(bad)} bad frames",
                f"unlike the other frames, counted from 0: {', '.join(map(str, bad))}",
                "The video will break there and in the adjacent frames.",
                (
                    "Check the clip before the inversion for a cut, a black frame or a broken frame. Leave that frame "
                    "out with Select Frames, or generate it again with another seed.",
                ),
                alarming=True,
            )
        )
    return sorted(findings, key=lambda finding: not finding.alarming)


def summarize_findings(findings: list[Finding], strength: float) -> str:
    """The findings in one line."""
    alarming = [finding for finding in findings if finding.alarming]
    if alarming:
        return f"Alarm: {', '.join(finding.problem for finding in alarming)}"
    if findings:
        return f"No alarm, but {', '.join(finding.problem for finding in findings)}"
    if strength < 1:
        return f"No bad frames; the inversion stopped at strength {strength:g}"
    return "Healthy: as good as white noise"


def format_findings(findings: list[Finding], branch: str, strength: float) -> str:
    """The findings as text: the problems and their effects, then the fixes, each once."""
    lines = [f"{summarize_findings(findings, strength)}."]
    lines += [f"{found.problem}: {found.observation}. {found.effect}" for found in findings]
    lines += dict.fromkeys(fix for found in findings for fix in found.fixes)
    if strength < 1:
        lines.append(
            "Below a strength of 1 the frames are supposed to show through: only a frame unlike the others is a fault."
        )
    if not branch:
        lines.append(
            "The latent does not say where it comes from: it may come from ComfyUI's Save Latent or be plain noise."
        )
    return "\n".join(lines)


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

"""How far an inverted latent is from white noise, what that will do to the video, and which control fixes it.

Video models know N(0, I); from noise that is not like it they make dull, smeared or broken frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from ..noise import MAX_NOISE_CORRELATION, spatial_correlation

BAND_EDGES = (0.25, 0.5, 0.75)
"""Radii that divide the spectrum into four bands, in units of each axis's highest frequency."""

HEALTHY_RANGES = {
    "std": (0.93, 1.07),
    "spatial": (-0.1, 0.1),
    "bands": (0.8, 1.25),
    "odd std": (0.93, 1.07),
    "odd bands": (0.8, 1.25),
    "frame std": (0.93, 1.07),
    "frame spatial": (-0.1, 0.1),
}
"""Ranges that pass for white noise. A value outside is reported; only one beyond `ALARM_THRESHOLDS` is an alarm."""

ALARM_THRESHOLDS = {"std": 4.5, "spatial": 2.7, "bands": 7.2, "odd std": 2.0, "odd bands": 2.4}
"""How many times as far off as `HEALTHY_RANGES` allows a figure is before it raises the alarm.

The clip's figures are compared with white noise, a frame's (`odd`) with the other frames'. Of the demo models' good
videos 95 in 100 came from latents below each of these (research/pages/alarm.md). Not among them is what the clip brings
along: its tint, and that neighbouring frames are alike.
"""

SAMPLE_COUNT_RANGE, MAX_SAMPLED_VALUES = (16, 256), 2**25
"""How many draws of white noise tell what chance does: fewer of large latents, where chance does little."""

WHITE_NOISE_THIRD_BAND = (0.7, 1.3)
"""Its power in a latent that looks like noise, relative to white noise's; see `is_white_noise`."""

NOISE_STD_RANGE = (0.5, 2.0)
"""Noise std that an inversion of a whole clip leaves behind; 0 is an empty latent, 5 an encoded one of SD."""

RAISE_STEPS_ADVICE = "In DDIM Inverse raise steps, or set solver to fireflow."
"""What brings an inversion closer to noise.

In the mix the whiter branch helps sooner: on a clip of the demo models (25 steps, ddim) the coarsest band of the video
branch has 2.6 times the power of noise, that of the image branch 1.1 and that of half of each 1.6. The mode frequency
brings it to 1.04, but is no fix: it loses shapes (research/pages/study.md).
"""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a latent, in an artist's words: its name, how it shows, what it does, what fixes it.

    alarming: whether it is worth stopping for; videos from latents with less of it came out well.
    """

    failure: str
    seen: str
    effect: str
    fixes: tuple[str, ...]
    alarming: bool


def flatten_to_frames(latent: Tensor) -> Tensor:
    """Frames `[F, C, H, W]` of a latent `[F, C, H, W]`, `[1, C, T, H, W]` or `[F, C, 1, H, W]`, in float32."""
    frames = latent if latent.ndim == 4 else rearrange(latent, "b c t h w -> (b t) c h w")
    return frames.float()


def band_power(frames: Tensor) -> Tensor:
    """Power `[F, 4]` of frames `[F, C, H, W]` in the four bands, coarse to fine; 1 for white noise of unit variance."""
    height, width = frames.shape[-2:]
    radius = torch.hypot(torch.fft.fftfreq(height, d=0.5)[:, None], torch.fft.fftfreq(width, d=0.5))
    band = torch.bucketize(radius, torch.tensor(BAND_EDGES))
    power = torch.fft.fft2(frames, norm="ortho").abs().square().mean(dim=1)  # [F, H, W]
    return torch.stack([power[:, band == i].mean(dim=1) for i in range(len(BAND_EDGES) + 1)], dim=1)


def measure_latent(frames: Tensor) -> dict[str, Tensor]:
    """What tells frames `[F, C, H, W]` from white noise.

    `spatial` is the correlation of values next to each other in a frame, `temporal` that of a frame with the next;
    `odd` figures are a frame's over those of the clip's median frame, since what all frames have is the fault of none.
    Each channel's mean over the clip is taken away before all but itself is measured. Band powers are relative to the
    clip's variance: they show the spectrum's shape alone.
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


@lru_cache(maxsize=16)
def sampling_limits(shape: tuple[int, int, int, int]) -> dict[str, tuple[float, float]]:
    """Bounds that frames of a shape `[F, C, H, W]` do not overstep by chance, only if something is wrong.

    Each is the wider of `HEALTHY_RANGES` and the extremes among draws from N(0, I) of that shape, always the same ones.
    """
    generator = torch.Generator().manual_seed(0)
    count = MAX_SAMPLED_VALUES // torch.Size(shape).numel()
    draws = [
        measure_latent(torch.randn(shape, generator=generator))
        for _ in range(min(max(count, SAMPLE_COUNT_RANGE[0]), SAMPLE_COUNT_RANGE[1]))
    ]
    found = {}
    for name, (low, high) in HEALTHY_RANGES.items():
        values = torch.cat([draw[name].flatten() for draw in draws]).tolist()
        found[name] = min([low, *values]), max([high, *values])
    return found


def normalized_deviation(measured: dict[str, Tensor], bounds: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    """How far off each of the `ALARM_THRESHOLDS` figures is, against what health and chance allow, which is 1."""
    off = {}
    for name in ALARM_THRESHOLDS:
        low, high = bounds[name]
        ideal = 0.0 if name == "spatial" else 1.0
        distance = measured[name] - ideal
        off[name] = torch.maximum(distance / (high - ideal), distance / (low - ideal))
    return off


def alarm_severity(off: dict[str, Tensor], strength: float) -> float:
    """The worst `normalized_deviation` as a share of what is `ALARM_THRESHOLDS`: above 1 the alarm goes off.

    At a strength below 1 a clip is meant to be unlike noise, and only single frames count.
    """
    counting = [name for name in ALARM_THRESHOLDS if strength == 1 or name.startswith("odd")]
    return max(off[name].max().item() / ALARM_THRESHOLDS[name] for name in counting)


def find_bad_frames(off: dict[str, Tensor]) -> list[int]:
    """Frames so unlike the rest that it is alarming."""
    worst = torch.maximum(
        off["odd std"] / ALARM_THRESHOLDS["odd std"], off["odd bands"].amax(dim=1) / ALARM_THRESHOLDS["odd bands"]
    )
    return (worst > 1).nonzero().flatten().tolist()


def noise_statistics(latent: Tensor) -> tuple[float, float]:
    """Noise std and spatial correlation of a latent, the two figures by which `is_plausible_noise` judges."""
    frames = flatten_to_frames(latent)
    centred = frames - frames.mean(dim=(0, 2, 3))[:, None, None]
    return centred.square().mean().sqrt().item(), spatial_correlation(frames)


def has_noise_std(std: float) -> bool:
    """Whether a latent's values are as large as those of an inverted one, to whatever strength."""
    low, high = NOISE_STD_RANGE
    return low < std < high


def is_plausible_noise(std: float, spatial: float) -> bool:
    """Whether a latent may be one inverted to full noise, however poor, as far as its figures tell.

    Inversions of smooth footage exceed the bound on the correlation; what says that it was inverted is believed.
    """
    return has_noise_std(std) and spatial < MAX_NOISE_CORRELATION


def is_white_noise(latent: Tensor) -> bool:
    """Whether a latent looks like white noise: inverted all the way, or never anything else.

    Patterns as fine as a small latent holds can leave neighbouring values unrelated, but not every band as full as
    noise's: on 24 hard demo clips the third has .24 to .67 of it, on inversions of eight of them .84 to 1.12.
    """
    std, spatial = noise_statistics(latent)
    if not all(
        low < value < high
        for value, (low, high) in ((std, HEALTHY_RANGES["std"]), (spatial, HEALTHY_RANGES["spatial"]))
    ):
        return False  # as nearly all frames, without a transform
    frames = flatten_to_frames(latent).cpu()
    centred = frames - frames.mean(dim=(0, 2, 3))[:, None, None]
    third = band_power(centred)[:, 2].mean().item() / std**2
    return WHITE_NOISE_THIRD_BAND[0] < third < WHITE_NOISE_THIRD_BAND[1]


def diagnose(measured: dict[str, Tensor], off: dict[str, Tensor], branch: str, strength: float) -> list[Finding]:
    """What is wrong with a latent, the alarming first; nothing if its figures stay within their bounds.

    Args:
        off: its `normalized_deviation`.
        branch: `image`, `video`, `mix`, or empty where nobody knows.
        strength: below 1 the frames are meant to show in the noise, and only single bad frames are named.
    """
    std, spatial, bands = measured["std"].item(), measured["spatial"].item(), measured["bands"].tolist()
    if not branch and strength == 1 and not is_plausible_noise(std, spatial):
        return [
            Finding(
                "not an inverted latent",
                f"its noise std is {std:.2f} and neighbouring values correlate at {spatial:.2f}, expected 1 and 0",
                "The smoother needs noise to start from.",
                (
                    "Encoded frames and empty latents look like this: wire the output of DDIM Inverse or Mixed "
                    "Inversion Blend instead. If this is their output, raise the steps of DDIM Inverse.",
                ),
                alarming=True,
            )
        ]
    findings = []
    if off["std"] > 1 and strength == 1:
        fixes: tuple[str, ...] = (RAISE_STEPS_ADVICE,)
        name, effect = "lost variance", "The video may come out blurred and dull."
        if std > 1:
            name, effect = "too much variance", "The video may come out harsh, with colours that are too strong."
        elif branch == "mix":
            fixes = ("In Mixed Inversion Blend set mode to variance_preserving.", RAISE_STEPS_ADVICE)
        seen = f"the noise std is {std:.2f} instead of 1"
        findings.append(Finding(name, seen, effect, fixes, alarming=off["std"].item() > ALARM_THRESHOLDS["std"]))
    if max(off["spatial"], off["bands"].max()) > 1 and strength == 1:
        raised = () if branch == "image" else ("In Mixed Inversion Blend raise mixing_ratio.",)
        findings.append(
            Finding(
                "structure left in the noise",
                f"neighbouring values correlate at {spatial:.2f} instead of 0, and the power from coarse to fine is "
                f"{', '.join(f'{band:.2f}' for band in bands)} instead of 1",
                "Flat areas may smear, and shapes of the old frames show through.",
                (*raised, RAISE_STEPS_ADVICE),
                alarming=any(off[name].max().item() > ALARM_THRESHOLDS[name] for name in ("spatial", "bands")),
            )
        )
    bad = find_bad_frames(off)
    if bad:
        findings.append(
            Finding(
                "one bad frame" if len(bad) == 1 else f"{len(bad)} bad frames",
                f"unlike the rest, counted from 0: {', '.join(map(str, bad))}",
                "The video will break there and in the neighbouring frames.",
                (
                    "Check the clip before the inversion for a cut, a black or a broken picture. Leave that frame out "
                    "with Select Frames, or draw it again with another seed.",
                ),
                alarming=True,
            )
        )
    return sorted(findings, key=lambda finding: not finding.alarming)


def summarize_findings(findings: list[Finding], strength: float) -> str:
    """A report in one line."""
    alarming = [finding for finding in findings if finding.alarming]
    if alarming:
        return f"Alarm: {', '.join(finding.failure for finding in alarming)}"
    if findings:
        return f"No alarm, but {', '.join(finding.failure for finding in findings)}"
    if strength < 1:
        return f"No bad frames; the inversion stopped at strength {strength:g}"
    return "Healthy: as good as white noise"


def format_findings(findings: list[Finding], branch: str, strength: float) -> str:
    """A report in words: what is wrong and what that does, then what fixes it, each fix once."""
    lines = [f"{summarize_findings(findings, strength)}."]
    lines += [f"{found.failure}: {found.seen}. {found.effect}" for found in findings]
    lines += dict.fromkeys(fix for found in findings for fix in found.fixes)
    if strength < 1:
        lines.append(
            "Below a strength of 1 the frames are meant to show through: only a frame unlike the others is a fault."
        )
    if not branch:
        lines.append(
            "The latent does not say where it comes from: perhaps from core's Save Latent, or it is plain noise."
        )
    return "\n".join(lines)


def format_latent_statistics(measured: dict[str, Tensor]) -> str:
    """The clip's figures, each with what it should be."""
    bands = ", ".join(f"{band:.2f}" for band in measured["bands"].tolist())
    means = measured["channel mean"]
    lines = [
        f"noise std: {measured['std']:.3f} (1 is right)",
        f"neighbouring values correlate at {measured['spatial']:.3f} (0 is right)",
        f"power from coarse to fine: {bands} (1 is right)",
        f"channel means: {means.min():.2f} to {means.max():.2f} (0 is neutral, more tints the video)",
    ]
    if len(measured["temporal"]):
        lines.append(
            f"neighbouring frames correlate at {measured['temporal'].mean():.3f} (not a fault: the image branch keeps "
            "what the frames have in common)"
        )
    return "\n".join(lines)

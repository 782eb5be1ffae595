"""The verdict of Temporal Report and Sweep Grid: whether smoothing reduced flicker, and what it cost.

`WARNINGS`, `NOTES` and `HEADLINES` hold its sentences, each with the condition under which it applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..bivdiff_core.measure.video_metrics import MeasuredClip, Reconstruction, colour_drift

MIN_MOTION = 0.0005
"""A video with less motion counts as still; an eighth of a pixel at `MAX_FLOW_SIDE`."""

MIN_MOTION_RATIO, MIN_SHARPNESS_RATIO, MAX_FLICKER_RATIO = 0.5, 0.85, 0.9
"""Ratios to the video before. Below the first two, motion or sharpness is lost; below the third, flicker is reduced.

An average of three frames, the cheapest way to reduce flicker, keeps two thirds to three quarters of the sharpness of
independently generated frames (docs/evidence.md). The ratio for motion is lower because flicker is partly
measured as motion: blotches of .1 on a still image gave .3% to 1.3% per frame.
"""

MAX_FLICKER_RATIO_ALONG_SOURCE = 0.6**2
"""Largest ratio of flicker, along the source's motion, to the flicker before that counts as smoothing.

The published results have .04 to .29, those that are not steadier .97 and 1.5 (docs/real_footage.md).
"""

MIN_FOLLOWING, MAX_DOUBLING = 1 / 3, 0.3
"""Below the first a video counts as still; above the second its frames contain detail of adjacent frames (ghosting).

1/3 means that the change in place is half the change along the motion. Doubling is at most .15 in the published
results and at least .40 in averages of three frames (docs/real_footage.md).
"""

MIN_FLICKER, MIN_SHARPNESS = 0.01 / 255**2, (0.01 / 255**2) ** 0.5
"""Below these there is nothing to compare with: less than one 8-bit level at one pixel in a hundred."""

MIN_RELIABLE_SHARE = 0.25
"""If a smaller share of pixels has reliable flow, the video's frames share no motion.

Independently generated frames have .07 to .09, mostly consistent frames .43 and more.
"""


MAX_COLOUR_DRIFT = 5 / 255
"""Largest drift of colours over a clip that goes unmentioned."""


@dataclass(frozen=True)
class Verdict:
    """Result of `judge_video`.

    Attributes:
        headline: the result in one line.
        is_good: whether the video improved; None if undecided.
        warnings: problems, by metric.
        notes: remarks and limitations.
    """

    headline: str
    is_good: bool | None
    warnings: dict[str, str]
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Headline, warnings and notes, one per line."""
        return "\n".join([f"{self.headline}.", *self.warnings.values(), *self.notes])


@dataclass(frozen=True)
class Comparison:
    """A video and the video before smoothing.

    Attributes:
        after, before: mean metrics, keys as in `METRIC_FORMATS`.
        source_sharpness: mean sharpness of the clip that both were generated from; None without one.
        colour_drift: of the video, relative to the source or else to the video before, 0..1.
    """

    after: dict[str, float]
    before: dict[str, float]
    source_sharpness: float | None
    colour_drift: float

    @property
    def has_source(self) -> bool:
        """Whether the source is known; it moves if the metrics include `following`."""
        return self.source_sharpness is not None

    @property
    def has_known_motion(self) -> bool:
        """Whether it is known how the video should move."""
        return self.has_source or self.before["reliable"] >= MIN_RELIABLE_SHARE

    @property
    def min_motion(self) -> float:
        """Motion below which the video stands still, judged by the video before."""
        return MIN_MOTION_RATIO * self.before["motion"] if self.has_known_motion else MIN_MOTION

    @property
    def flicker_ratio(self) -> float:
        """Flicker relative to the video before."""
        return self.after["flicker"] / self.before["flicker"]

    @property
    def sharpness_ratios(self) -> dict[str, float]:
        """Sharpness relative to the video before, and to the source if any; uniform videos are left out."""
        found = {"the frames before": self.before["sharpness"], "the source": self.source_sharpness or 0.0}
        return {name: self.after["sharpness"] / value for name, value in found.items() if value >= MIN_SHARPNESS}

    @property
    def sharpness_text(self) -> str:
        """`sharpness_ratios` as text."""
        return " and ".join(f"{ratio:.0%} of {name}" for name, ratio in self.sharpness_ratios.items())

    @property
    def is_blurred(self) -> bool:
        """Whether the video is less sharp than both the video before and the source."""
        return self.has_known_motion and max(self.sharpness_ratios.values(), default=1) < MIN_SHARPNESS_RATIO

    @property
    def losses(self) -> str:
        """What smoothing cost, for the headline; empty if nothing."""
        return " and ".join(rule.loss for rule in WARNINGS if rule.applies(self))


class Rule(NamedTuple):
    """A sentence of the verdict.

    Attributes:
        applies: its condition.
        text: the sentence.
        metric, loss: of a warning, the metric that shows the loss, and the loss as a part of the headline.
        is_good: of a headline, whether the video improved; None if undecided.
    """

    applies: Callable[[Comparison], bool]
    text: Callable[[Comparison], str]
    metric: str = ""
    loss: str = ""
    is_good: bool | None = None


WARNINGS = (
    Rule(
        lambda c: c.has_source and c.after.get("following", 1) < MIN_FOLLOWING,
        lambda c: (
            "The source moves but the video does not, and a video that stands still is always steady. Lower "
            "mixing_ratio or strength."
        ),
        metric="following",
        loss="stands still",
    ),
    Rule(
        lambda c: not c.has_source and c.before["motion"] > MIN_MOTION and c.after["motion"] < c.min_motion,
        lambda c: (
            f"Motion fell to {c.after['motion'] / c.before['motion']:.0%}, and a video that stands still is "
            "always steady. If it should move, lower mixing_ratio or strength."
        ),
        metric="motion",
        loss="stands still",
    ),
    Rule(
        lambda c: c.is_blurred,
        lambda c: (
            f"Sharpness fell to {c.sharpness_text}, and blur hides flicker. Raise steps, or set mode to "
            "variance_preserving in Mixed Inversion Blend."
        ),
        metric="sharpness",
        loss="is blurred",
    ),
    Rule(
        lambda c: c.after.get("doubling", 0) > MAX_DOUBLING,
        lambda c: (
            f"{c.after['doubling']:.0%} of the new detail comes from adjacent frames: this is an average of "
            "frames, whose outlines show through each other, and an average is always steadier. If the video was "
            "smoothed, raise the strength of both DDIM Inverse nodes towards 1."
        ),
        metric="doubling",
        loss="is a double exposure",
    ),
)

NOTES = (
    Rule(
        lambda c: c.has_source and "following" not in c.after,
        lambda c: "The source stands still, so the report cannot tell whether the video should move.",
    ),
    Rule(
        lambda c: c.has_source and c.sharpness_ratios != {} and not c.is_blurred,
        lambda c: f"Sharpness is {c.sharpness_text}.",
    ),
    Rule(
        lambda c: c.colour_drift > MAX_COLOUR_DRIFT,
        lambda c: (
            f"The colours drift by {c.colour_drift * 255:.0f} of 255 levels from the first frame to the last. "
            "ComfyUI's Post-Process SeedVR2 Output corrects them: wire the source clip or another steady one to "
            "original_resized_images, since flickering frames would bring the flicker back."
        ),
    ),
)

HEADLINES = (
    Rule(
        lambda c: c.before["flicker"] < MIN_FLICKER,
        lambda c: "Not steadier: the frames before do not flicker",
        is_good=False,
    ),
    Rule(
        lambda c: not c.has_known_motion and not c.losses,
        lambda c: "No verdict: the frames before share no motion. Wire their source clip to source_images",
    ),
    Rule(
        lambda c: c.flicker_ratio >= MAX_FLICKER_RATIO and c.losses != "",
        lambda c: f"Not steadier, and the video {c.losses}",
        is_good=False,
    ),
    Rule(lambda c: c.flicker_ratio >= MAX_FLICKER_RATIO, lambda c: "Not steadier", is_good=False),
    Rule(
        lambda c: c.losses != "",
        lambda c: f"No clear gain: steadier, but the video {c.losses}",
        is_good=False,
    ),
    Rule(
        lambda c: c.has_source and c.flicker_ratio > MAX_FLICKER_RATIO_ALONG_SOURCE,
        lambda c: f"Hardly steadier: flicker fell by only {1 - c.flicker_ratio:.0%}",
    ),
    Rule(
        lambda c: True,
        lambda c: f"Steadier: flicker fell by {1 - c.flicker_ratio:.0%}, with motion and sharpness kept",
        is_good=True,
    ),
)
"""The first that applies is the result."""


def judge_video(
    after: dict[str, Tensor], before: dict[str, Tensor] | None, source: MeasuredClip | None = None
) -> Verdict:
    """Decide whether smoothing reduced flicker without losing motion or sharpness.

    Args:
        after, before: metrics from `measure_video`; `before` is None if there is no video before smoothing.
        source: the clip that both were generated from, if both were measured with it.
    """
    after_means = _mean_metrics(after)
    measured, pairs = len(after["flicker"]), len(after["change"])
    notes = [f"Motion was measured at {measured} of {pairs} pairs of frames."] if measured < pairs else []
    if before is None:
        if after_means["motion"] < MIN_MOTION:
            return Verdict("Almost nothing moves", None, {"motion": "A video that stands still is always steady."})
        return Verdict("One video measured: wire reference_images for a verdict", None, {}, tuple(notes))
    source_sharpness = None if source is None else source.sharpness.mean().item()
    drift = colour_drift(after["colour"]) if "colour" in after else 0.0
    comparison = Comparison(after_means, _mean_metrics(before), source_sharpness, drift)
    headline = next(rule for rule in HEADLINES if rule.applies(comparison))
    warnings = {rule.metric: rule.text(comparison) for rule in WARNINGS if rule.applies(comparison)}
    notes += [rule.text(comparison) for rule in NOTES if rule.applies(comparison)]
    return Verdict(headline.text(comparison), headline.is_good, warnings, tuple(notes))


def describe_vae(vae: Reconstruction, after: dict[str, Tensor]) -> str:
    """What the VAE alone costs, as a sentence.

    Args:
        after: the video's metrics.
    """
    flicker = ""
    if not math.isnan(vae.flicker):
        flicker = f" It flickers by {vae.flicker:.5f}; this video by {after['flicker'].nanmean():.5f}."
    return (
        f"The VAE alone keeps {vae.sharpness:.0%} of the sharpness, at a similarity of {vae.similarity:.3f}.{flicker} "
        "No setting improves that."
    )


def _mean_metrics(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: values.nanmean().item() for name, values in metrics.items()}

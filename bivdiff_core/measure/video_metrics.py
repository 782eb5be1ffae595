"""Per-frame metrics of a video: flicker, motion, sharpness, similarity to another video.

Frames are `[F, H, W, 3]` in 0..1. Low flicker alone is not a good sign: still, blurred or averaged videos have the
least. Independently generated frames share no motion, so their optical flow is noise. Their flicker is measured along
the motion of the source, the clip that they were generated from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .optical_flow import LUMA_WEIGHTS, MAX_FLOW_SIDE, estimate_flow, sample_along_flow, shrink_for_flow

MIN_MOTION = 0.0005
"""A video with less motion counts as still; an eighth of a pixel at `MAX_FLOW_SIDE`."""

MAX_FLOW_PAIRS = 64
"""Largest number of frame pairs whose flow is estimated, evenly spaced over the clip. A large pair takes a second."""

MIN_MOTION_RATIO, MIN_SHARPNESS_RATIO, MAX_FLICKER_RATIO = 0.5, 0.85, 0.9
"""Ratios to the video before. Below the first two, motion or sharpness is lost; below the third, flicker is reduced.

An average of three frames, the cheapest way to reduce flicker, keeps two thirds to three quarters of the sharpness of
independently generated frames (research/pages/claims.md). The ratio for motion is lower because flicker is partly
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

SHARED_DETAIL_LIMIT = 0.6
"""If the previous unsmoothed frame explains more than this share of a frame's detail, both show the same texture.

Doubling cannot be measured then. The published sets reach .46, frames of the toy world with random tints .81 and more.
"""

MIN_RELIABLE_SHARE = 0.25
"""If a smaller share of pixels has reliable flow, the video's frames share no motion.

Independently generated frames have .07 to .09, mostly consistent frames .43 and more.
"""

METRIC_FORMATS = {
    "change": ("{:.4f}", "includes motion; 0 is a still"),
    "flicker": ("{:.5f}", "along motion; 0 is steady"),
    "motion": ("{:.2%}", "of the longer side, per frame"),
    "reliable": ("{:.0%}", "pixels with reliable flow"),
    "sharpness": ("{:.3f}", "contrast of adjacent pixels"),
    "following": ("{:.2f}", "0 still, 1 follows the source"),
    "similarity": ("{:.3f}", "SSIM; 1 is the reference"),
    "doubling": ("{:.2f}", "ghosting; 0 is none"),
    "consistency": ("{:.3f}", "CLIP cosine, adjacent frames"),
}
"""Format and explanation of each metric."""


@dataclass(frozen=True)
class Verdict:
    """Result of `judge_video`.

    Attributes:
        headline: the result in one line.
        good: whether the video improved; None if undecided.
        cautions: problems, by metric.
        notes: remarks and limitations.
    """

    headline: str
    good: bool | None
    cautions: dict[str, str]
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """Headline, cautions and notes, one per line."""
        return "\n".join([f"{self.headline}.", *self.cautions.values(), *self.notes])


@dataclass(frozen=True)
class SourceMotion:
    """Motion and sharpness of the clip that a video was generated from.

    Attributes:
        flow, reliable: from `estimate_flow` of the clip's `select_frame_pairs`.
        sharpness: `[F]`.
    """

    flow: Tensor
    reliable: Tensor
    sharpness: Tensor

    @classmethod
    def of(cls, frames: Tensor, on_pair: Callable[[], None] = lambda: None) -> SourceMotion:
        """Measure a clip; `on_pair` is called after the flow of each pair of frames."""
        previous, current = select_frame_pairs(frames)
        flow, reliable = estimate_flow(previous, current, on_pair)
        return cls(flow, reliable, sharpness(frames))

    @property
    def moving_pixels(self) -> Tensor:
        """Mask `[P, H, W]` of pixels with reliable flow longer than one pixel at `MAX_FLOW_SIDE`."""
        return self.reliable & (self.flow.norm(dim=-1) > max(self.flow.shape[1:3]) / MAX_FLOW_SIDE)


def validate_video(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE, in float32 on the CPU, without alpha.

    Raises:
        ValueError: fewer than 2 frames, frames below 2x2 pixels, or another size or length than `like`.
    """
    frames = images[..., :3].float().cpu()
    if min(frames.shape[1:3]) < 2:
        raise ValueError(
            f"frames of {frames.shape[2]}x{frames.shape[1]} are too small to show motion. Wire the video itself."
        )
    if len(frames) < 2:
        raise ValueError(
            f"expected a video of at least 2 frames, got {len(frames)}. Wire all frames as one batch of images."
        )
    if like is not None and frames.shape != like.shape:
        raise ValueError(
            f"one video is {_size(like)} but another {_size(frames)}. Give them the same size with Upscale "
            "Image and the same frames with Select Frames."
        )
    return frames


def validate_source(images: Tensor, like: Tensor, name: str = "source_images") -> Tensor:
    """The source clip of the input `name`, checked by `validate_video` and resized to the size of `like`.

    Raises:
        ValueError: another number of frames, or an aspect ratio that differs by more than 2%.
    """
    frames = validate_video(images)
    if len(frames) != len(like):
        raise ValueError(
            f"{name} has {len(frames)} frames but the video {len(like)}. Wire the clip that the frames were generated "
            "from, through the same Select Frames."
        )
    height, width = like.shape[1:3]
    aspect = frames.shape[2] / frames.shape[1] * height / width
    if not 1 / 1.02 <= aspect <= 1.02:
        raise ValueError(
            f"{name} is {_size(frames)} but the video {_size(like)}, another shape. Crop the clip like the video, with "
            "Upscale Image."
        )
    if (height, width) == frames.shape[1:3]:
        return frames
    resized = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.movedim(1, -1)


def _size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"


def change(frames: Tensor) -> Tensor:
    """Mean absolute difference `[F - 1]` between adjacent frames, 0..1. It includes motion.

    VBench's temporal flickering score is 1 minus its mean (arXiv 2311.17982).
    """
    return frames.diff(dim=0).abs().mean(dim=(1, 2, 3))


def sharpness(frames: Tensor) -> Tensor:
    """Root mean square difference `[F]` of horizontally and vertically adjacent pixels, 0..1 (similar to Tenengrad)."""
    across = frames.diff(dim=2).square().mean(dim=(1, 2, 3))
    down = frames.diff(dim=1).square().mean(dim=(1, 2, 3))
    return ((across + down) / 2).sqrt()


def similarity(frames: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity `[F]` to another video of the same size, 1 for identical frames.

    SSIM with the authors' 11-pixel Gaussian window, at positions where it fits into the image (Wang et al., IEEE TIP
    2004).
    """
    from kornia.metrics import ssim

    return ssim(frames.movedim(-1, 1), reference.movedim(-1, 1), window_size=11, padding="valid").mean(dim=(1, 2, 3))


def consistency(embeddings: Tensor) -> Tensor:
    """Frame consistency `[F - 1]`: cosine similarity of the embeddings `[F, D]` of adjacent frames."""
    return torch.cosine_similarity(embeddings[1:], embeddings[:-1], dim=1)


def count_frame_pairs(frames: Tensor) -> int:
    """Number of frame pairs whose flow is estimated."""
    return min(len(frames) - 1, MAX_FLOW_PAIRS)


def select_frame_pairs(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Adjacent frames, previous and current, `[P, H, W, 3]` each, downscaled by `shrink_for_flow`.

    All pairs of the clip, or `MAX_FLOW_PAIRS` evenly spaced ones.
    """
    first = torch.linspace(0, len(frames) - 2, count_frame_pairs(frames)).round().long()
    return shrink_for_flow(frames[first]), shrink_for_flow(frames[first + 1])


def motion(flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean length `[P]` of the flow where it is reliable, as a share of the frame's longer side."""
    length = flow.norm(dim=-1) * reliable
    return length.sum(dim=(1, 2)) / reliable.sum(dim=(1, 2)).clamp(min=1) / max(flow.shape[1:3])


def flicker(previous: Tensor, current: Tensor, flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean squared difference `[P]` of each frame to its previous frame, warped along the flow, where it is reliable.

    The warp error of Lai et al., ECCV 2018, eq. 10; 0 is no flicker. If no pixel of a pair is reliable, all count.
    """
    error = (current - sample_along_flow(previous, flow)[0]).square().mean(dim=-1)
    counts = reliable | ~reliable.any(dim=(1, 2), keepdim=True)
    return (error * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2))


def motion_following(previous: Tensor, current: Tensor, source: SourceMotion) -> Tensor:
    """How well a video follows the source's motion, `[P]`, over the pixels that move in the source.

    `in_place / (in_place + along)`, the root mean square changes in place and along the source's motion: 1 follows the
    source, 1/2 changes independently of it, 0 stands still. NaN if the source stands still.
    """
    moving = source.moving_pixels
    counts = moving.sum(dim=(1, 2))
    changes = [
        (current - old).square().mean(dim=-1) * moving
        for old in (previous, sample_along_flow(previous, source.flow)[0])
    ]
    in_place, along = ((change.sum(dim=(1, 2)) / counts).sqrt() for change in changes)
    return in_place / (in_place + along)


def doubling(current: Tensor, unsmoothed_previous: Tensor, unsmoothed_current: Tensor, flow: Tensor) -> Tensor:
    """How much of a smoothed frame's detail comes from the previous unsmoothed frame, `[P]`, 0..1.

    The coefficient of partial determination. Fit the detail with (1) the same unsmoothed frame and the mean frame, then
    (2) also the previous unsmoothed frame, in place and warped along the flow. Return the share of the residual of (1)
    that (2) removes. Newly generated detail gives little, averaged frames give much. Residuals below one 8-bit level
    (1/255) count as none. Pairs more alike than `SHARED_DETAIL_LIMIT` give 0.

    Args:
        current: the current frames of the smoothed video's `select_frame_pairs`.
        unsmoothed_previous, unsmoothed_current: the `select_frame_pairs` of the video before smoothing.
        flow: the source's flow.
    """
    mean = torch.cat((unsmoothed_previous[:1], unsmoothed_current)).mean(dim=0).expand_as(current)
    warped, _ = sample_along_flow(unsmoothed_previous, flow)
    target, own, common, in_place, along = map(
        fine_detail, (current, unsmoothed_current, mean, unsmoothed_previous, warped)
    )
    without = residual_power(target, [own, common])
    with_previous = residual_power(target, [own, common, in_place, along])
    alike = residual_power(own, [in_place, along]) < (1 - SHARED_DETAIL_LIMIT) * own.double().square().mean(dim=1)
    return ((without - with_previous) / without.clamp(min=255**-2)).float().masked_fill(alike, 0)


def fine_detail(frames: Tensor) -> Tensor:
    """Luma detail finer than about 6 pixels, `[P, H * W]`."""
    from kornia.filters import gaussian_blur2d

    grey = (frames @ frames.new_tensor(LUMA_WEIGHTS))[:, None]
    return (grey - gaussian_blur2d(grey, (13, 13), (2.0, 2.0), border_type="replicate")).flatten(1)


def residual_power(target: Tensor, predictors: list[Tensor]) -> Tensor:
    """Mean square residual `[P]` of a least-squares fit of `target` with `predictors`, all `[P, N]`."""
    matrix = torch.stack(predictors, dim=-1).double()
    weights = torch.linalg.lstsq(matrix, target[..., None].double(), driver="gelsd").solution
    return (target.double() - (matrix @ weights)[..., 0]).square().mean(dim=1)


def measure_video(
    frames: Tensor,
    reference: Tensor | None = None,
    embeddings: Tensor | None = None,
    on_pair: Callable[[], None] = lambda: None,
    source: SourceMotion | None = None,
) -> dict[str, Tensor]:
    """All metrics of a video, keys as in `METRIC_FORMATS`. Metrics whose inputs are missing are left out.

    Args:
        frames: `[F, H, W, 3]`.
        reference: the video before smoothing, for `similarity` and `doubling`.
        embeddings: CLIP embeddings of the frames, `[F, D]`, for `consistency`.
        on_pair: called after each of the `select_frame_pairs`. Their optical flow takes nearly all the time.
        source: the clip that the video was generated from. Flicker is then measured along its motion, not the video's.
    """
    previous, current = select_frame_pairs(frames)
    flow, reliable = estimate_flow(previous, current, on_pair)
    metrics = {
        "change": change(frames),
        "flicker": flicker(previous, current, source.flow, source.reliable)
        if source
        else flicker(previous, current, flow, reliable),
        "motion": motion(flow, reliable),
        "reliable": reliable.float().mean(dim=(1, 2)),
        "sharpness": sharpness(frames),
    }
    if source and source.moving_pixels.any():
        metrics["following"] = motion_following(previous, current, source)
    if reference is not None:
        metrics["similarity"] = similarity(frames, reference)
        if source:
            metrics["doubling"] = doubling(current, *select_frame_pairs(reference), source.flow)
    if embeddings is not None:
        metrics["consistency"] = consistency(embeddings)
    return metrics


def judge_video(
    after: dict[str, Tensor], before: dict[str, Tensor] | None, source: SourceMotion | None = None
) -> Verdict:
    """Decide whether smoothing reduced flicker without losing motion or sharpness.

    Args:
        after, before: metrics from `measure_video`; `before` is None if there is no video before smoothing.
        source: the clip that both were generated from, if both were measured with it.
    """
    after_means = {name: values.nanmean().item() for name, values in after.items()}
    notes = []
    if len(after["flicker"]) < len(after["change"]):
        notes.append(f"Motion was measured at {len(after['flicker'])} of {len(after['change'])} pairs of frames.")
    if before is None:
        if after_means["motion"] < MIN_MOTION:
            return Verdict("Almost nothing moves", None, {"motion": "A video that stands still is always steady."})
        return Verdict("One video measured: wire reference_images for a verdict", None, {}, tuple(notes))

    before_means = {name: values.nanmean().item() for name, values in before.items()}
    has_known_motion = source is not None or before_means["reliable"] >= MIN_RELIABLE_SHARE
    min_motion = MIN_MOTION_RATIO * before_means["motion"] if has_known_motion else MIN_MOTION
    losses, cautions = [], {}
    if source is not None and "following" not in after_means:
        notes.append("The source stands still, so the report cannot tell whether the video should move.")
    elif source is not None:
        if after_means["following"] < MIN_FOLLOWING:
            losses.append("stands still")
            cautions["following"] = (
                "The source moves but the video does not, and a video that stands still is always steady. Lower "
                "mixing_ratio or strength."
            )
    elif before_means["motion"] > MIN_MOTION and after_means["motion"] < min_motion:
        losses.append("stands still")
        cautions["motion"] = (
            f"Motion fell to {after_means['motion'] / before_means['motion']:.0%}, and a video that stands still is "
            "always steady. If it should move, lower mixing_ratio or strength."
        )

    sharpness_ratios = {"the frames before": after_means["sharpness"] / before_means["sharpness"]}
    if source is not None:
        sharpness_ratios["the source"] = after_means["sharpness"] / source.sharpness.mean().item()
    shares = " and ".join(f"{ratio:.0%} of {name}" for name, ratio in sharpness_ratios.items())
    if has_known_motion and max(sharpness_ratios.values()) < MIN_SHARPNESS_RATIO:
        losses.append("is blurred")
        cautions["sharpness"] = (
            f"Sharpness fell to {shares}, and blur hides flicker. Raise steps, or set mode to variance_preserving in "
            "Mixed Inversion Blend."
        )
    elif source is not None:
        notes.append(f"Sharpness is {shares}.")
    if after_means.get("doubling", 0) > MAX_DOUBLING:
        losses.append("is a double exposure")
        cautions["doubling"] = (
            f"{after_means['doubling']:.0%} of the new detail comes from adjacent frames: this is an average of "
            "frames, whose outlines show through each other, and an average is always steadier. If the video was "
            "smoothed, raise the strength of both DDIM Inverse nodes towards 1."
        )

    loss_text = " and ".join(losses)
    if not has_known_motion and not losses:
        headline = "No verdict: the frames before share no motion. Wire their source clip to source_images"
        return Verdict(headline, None, {}, tuple(notes))
    flicker_ratio = after_means["flicker"] / before_means["flicker"]
    if flicker_ratio >= MAX_FLICKER_RATIO:
        headline = f"Not steadier{', and the video ' + loss_text if losses else ''}"
        return Verdict(headline, False, cautions, tuple(notes))
    if losses:
        return Verdict(f"No clear gain: steadier, but the video {loss_text}", False, cautions, tuple(notes))
    if source is not None and flicker_ratio > MAX_FLICKER_RATIO_ALONG_SOURCE:
        headline = f"Hardly steadier: flicker fell by only {1 - flicker_ratio:.0%}"
        return Verdict(headline, None, cautions, tuple(notes))
    headline = f"Steadier: flicker fell by {1 - flicker_ratio:.0%}, with motion and sharpness kept"
    return Verdict(headline, True, cautions, tuple(notes))


def format_metrics(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> str:
    """The metrics' means over the clip, before and after, each with its explanation."""
    lines = []
    for name, values in after.items():
        form, meaning = METRIC_FORMATS[name]
        before_text = f"{form.format(before[name].nanmean())} -> " if before and name in before else ""
        lines.append(f"{name}: {before_text}{form.format(values.nanmean())} ({meaning})")
    return "\n".join(lines)

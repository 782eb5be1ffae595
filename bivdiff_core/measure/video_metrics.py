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

MAX_FLOW_PAIRS = 64
"""Largest number of frame pairs whose flow is estimated, evenly spaced over the clip. A large pair takes a second."""

MAX_SHARED_DETAIL = 0.6
"""If the previous unsmoothed frame explains more than this share of a frame's detail, both show the same texture.

Doubling cannot be measured then. The published sets reach .46, frames of the toy world with random tints .81 and more.
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
    def from_frames(cls, frames: Tensor, on_pair: Callable[[], None] = lambda: None) -> SourceMotion:
        """Measure a clip; `on_pair` is called after the flow of each pair of frames."""
        previous, current = select_frame_pairs(frames)
        flow, reliable = estimate_flow(previous, current, on_pair)
        return cls(flow, reliable, sharpness(frames))

    @property
    def moving_pixels(self) -> Tensor:
        """Mask `[P, H, W]` of pixels with reliable flow longer than one pixel at `MAX_FLOW_SIDE`."""
        return self.reliable & (self.flow.norm(dim=-1) > max(self.flow.shape[1:3]) / MAX_FLOW_SIDE)


def frame_difference(frames: Tensor) -> Tensor:
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
    second = find_second_frames(count_frame_pairs(frames), len(frames))
    return shrink_for_flow(frames[second - 1]), shrink_for_flow(frames[second])


def find_second_frames(pair_count: int, frame_count: int) -> Tensor:
    """The second frame of each of a number of evenly spaced pairs of adjacent frames, `[P]`."""
    return torch.linspace(0, frame_count - 2, pair_count).round().long() + 1


def find_worst_pair(flicker: Tensor) -> int:
    """The pair of frames with the most flicker `[P]`; pairs that were not measured (NaN) do not count."""
    return int(flicker.nan_to_num(-1).argmax())


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

    `in_place / (in_place + along)`, the root mean square differences to the previous frame in place and along
    the source's motion: 1 follows the source, 1/2 changes independently of it, 0 stands still. NaN if the source stands
    still.
    """
    moving = source.moving_pixels
    counts = moving.sum(dim=(1, 2))
    errors = [
        (current - old).square().mean(dim=-1) * moving
        for old in (previous, sample_along_flow(previous, source.flow)[0])
    ]
    in_place, along = ((error.sum(dim=(1, 2)) / counts).sqrt() for error in errors)
    return in_place / (in_place + along)


def doubling(current: Tensor, unsmoothed_previous: Tensor, unsmoothed_current: Tensor, flow: Tensor) -> Tensor:
    """How much of a smoothed frame's detail comes from the previous unsmoothed frame, `[P]`, 0..1.

    The coefficient of partial determination. Fit the detail with (1) the same unsmoothed frame and the mean frame, then
    (2) also the previous unsmoothed frame, in place and warped along the flow. Return the share of the residual of (1)
    that (2) removes. Newly generated detail gives little, averaged frames give much. Residuals below one 8-bit level
    (1/255) count as none. Pairs more alike than `MAX_SHARED_DETAIL` give 0.

    Args:
        current: the current frames of the smoothed video's `select_frame_pairs`.
        unsmoothed_previous, unsmoothed_current: the `select_frame_pairs` of the video before smoothing.
        flow: the source's flow.
    """
    mean_frame = torch.cat((unsmoothed_previous[:1], unsmoothed_current)).mean(dim=0).expand_as(current)
    warped, _ = sample_along_flow(unsmoothed_previous, flow)
    smoothed, unsmoothed, mean, in_place, along = map(
        fine_detail, (current, unsmoothed_current, mean_frame, unsmoothed_previous, warped)
    )
    without_previous = residual_power(smoothed, [unsmoothed, mean])
    with_previous = residual_power(smoothed, [unsmoothed, mean, in_place, along])
    power = unsmoothed.double().square().mean(dim=1)
    share_texture = residual_power(unsmoothed, [in_place, along]) < (1 - MAX_SHARED_DETAIL) * power
    share = (without_previous - with_previous) / without_previous.clamp(min=255**-2)
    return share.float().masked_fill(share_texture, 0)


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
    flicker_flow = (source.flow, source.reliable) if source else (flow, reliable)
    metrics = {
        "change": frame_difference(frames),
        "flicker": flicker(previous, current, *flicker_flow),
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


def format_metrics(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> str:
    """The metrics' means over the clip, before and after, each with its explanation."""
    lines = []
    for name, values in after.items():
        form, meaning = METRIC_FORMATS[name]
        before_text = f"{form.format(before[name].nanmean())} -> " if before and name in before else ""
        lines.append(f"{name}: {before_text}{form.format(values.nanmean())} ({meaning})")
    return "\n".join(lines)

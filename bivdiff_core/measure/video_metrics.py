"""Per-frame metrics of a video: flicker, motion, sharpness, similarity to another video.

Frames are `[F, H, W, 3]` in 0..1. Low flicker alone is not a good sign: still, blurred or averaged videos have the
least. Independently generated frames share no motion, so their optical flow is noise. Their flicker is measured along
the motion of the source, the clip that they were generated from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .optical_flow import MAX_FLOW_SIDE, ON_CPU, Computation, estimate_flow, shrink_for_flow, to_luma
from .warping import sample_along_flow

MAX_FLOW_PAIRS = 64
"""Largest number of frame pairs whose flow is estimated, evenly spaced over the clip."""

PIXELS_PER_BATCH = 1 << 21
"""Pixels of the frames that are processed together: one frame of 1080p, or 8 of 512x512."""

MAX_SHARED_DETAIL = 0.6
"""If the previous unsmoothed frame explains more than this share of a frame's detail, both show the same texture.

Doubling cannot be measured then. The published sets reach .46, frames of the toy world with random tints .81 and more.
"""

METRIC_FORMATS = {
    "change": ("{:.1%}", "includes motion; 0 is a still"),
    "flicker": ("{:.5f}", "along motion; 0 is steady"),
    "motion": ("{:.2%}", "of the longer side, per frame"),
    "reliable": ("{:.0%}", "pixels with reliable flow"),
    "sharpness": ("{:.3f}", "contrast of adjacent pixels"),
    "following": ("{:.2f}", "0 still, 1 follows the source"),
    "colour": ("{:.4f}", "shift since frame 0; 0 is none"),
    "similarity": ("{:.3f}", "SSIM; 1 is the reference"),
    "doubling": ("{:.2f}", "ghosting; 0 is none"),
    "consistency": ("{:.3f}", "CLIP cosine, adjacent frames"),
}
"""Format and explanation of each metric."""


@dataclass(frozen=True)
class MeasuredClip:
    """A clip and what is measured of it alone.

    Attributes:
        frames: `[F, H, W, 3]`, as given.
        size: height and width at which the clip is measured.
        change: `frame_difference`, `[F - 1]`.
        sharpness: `[F]`.
        colour: `colour_statistics`, `[F, 6]`.
        pairs: first frame of each pair of adjacent frames whose flow is estimated, `[P]`.
        previous, current: the frames of these pairs, `[P, h, w, 3]` each, downscaled by `shrink_for_flow`.
        flow, reliable: from `estimate_flow` of these pairs.
    """

    frames: Tensor
    size: tuple[int, int]
    change: Tensor
    sharpness: Tensor
    colour: Tensor
    pairs: Tensor
    previous: Tensor
    current: Tensor
    flow: Tensor
    reliable: Tensor

    @classmethod
    def from_frames(
        cls, frames: Tensor, computation: Computation = ON_CPU, size: tuple[int, int] | None = None
    ) -> MeasuredClip:
        """Measure a clip.

        Args:
            frames: `[F, H, W, 3]` on any device, in any floating-point format.
            computation: `on_step` is called for each frame and for each pair of frames, `count_steps` in all.
            size: height and width to which the frames are resized first.
        """
        size = size or (frames.shape[1], frames.shape[2])
        pairs = select_pairs(len(frames))
        needed = torch.cat((pairs, pairs + 1)).unique()
        # In place, since kept small tensors fragment the memory of the large ones.
        count, filled = len(frames), 0
        change, sharp, colour, images = torch.empty(count - 1), torch.empty(count), torch.empty(count, 6), None
        for batch in split_frames(len(frames), size):
            # One more frame, whose difference to the last one counts here.
            loaded = load_frames(frames, slice(batch.start, batch.stop + 1), size, computation.device)
            own = loaded[: batch.stop - batch.start]
            change[batch.start : batch.start + len(loaded) - 1] = frame_difference(loaded)
            sharp[batch] = sharpness(own)
            colour[batch] = colour_statistics(own)
            kept = needed[(needed >= batch.start) & (needed < batch.stop)] - batch.start
            if len(kept):
                small = shrink_for_flow(own[kept.to(own.device)])
                images = torch.empty(len(needed), *small.shape[1:]) if images is None else images
                images[filled : filled + len(kept)] = small
                filled += len(kept)
            computation.on_step(len(own))
        assert images is not None  # a clip has a pair of frames
        previous, current = (images[torch.searchsorted(needed, i)] for i in (pairs, pairs + 1))
        flow, reliable = estimate_flow(previous, current, computation)
        return cls(
            frames,
            size,
            change,
            sharp,
            colour,
            pairs,
            previous,
            current,
            flow,
            reliable,
        )

    @property
    def moving_pixels(self) -> Tensor:
        """Mask `[P, H, W]` of pixels with reliable flow longer than one pixel at `MAX_FLOW_SIDE`."""
        return self.reliable & (self.flow.norm(dim=-1) > max(self.flow.shape[1:3]) / MAX_FLOW_SIDE)


def split_frames(count: int, size: tuple[int, int]) -> Iterator[slice]:
    """Consecutive batches of frames with `PIXELS_PER_BATCH` pixels, at least one frame each."""
    step = max(1, PIXELS_PER_BATCH // (size[0] * size[1]))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def load_frames(frames: Tensor, batch: slice, size: tuple[int, int], device: torch.device) -> Tensor:
    """A batch of frames `[F, H, W, 3]` in float32 on a device, resized if their size differs."""
    loaded = frames[batch].to(device, torch.float32)
    if loaded.shape[1:3] == size:
        return loaded
    resized = torch.nn.functional.interpolate(
        loaded.movedim(-1, 1), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.movedim(1, -1)


def select_pairs(frames: int) -> Tensor:
    """First frame `[P]` of each pair of adjacent frames whose flow is estimated.

    All pairs of a clip of that many frames, or `MAX_FLOW_PAIRS` evenly spaced ones.
    """
    return find_second_frames(min(frames - 1, MAX_FLOW_PAIRS), frames) - 1


def find_second_frames(pair_count: int, frame_count: int) -> Tensor:
    """The second frame of each of a number of evenly spaced pairs of adjacent frames, `[P]`."""
    return torch.linspace(0, frame_count - 2, pair_count).round().long() + 1


def count_steps(frames: int) -> int:
    """Number of steps, see `Computation`, that measuring a clip of that many frames takes."""
    return frames + len(select_pairs(frames))


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

    # By colour, because kornia holds about fifteen copies of its input.
    colours = zip(*(images.movedim(-1, 1).split(1, dim=1) for images in (frames, reference)), strict=True)
    values = [ssim(a, b, window_size=11, padding="valid").mean(dim=(1, 2, 3)) for a, b in colours]
    return torch.stack(values).mean(dim=0)


def colour_statistics(frames: Tensor) -> Tensor:
    """Mean and spread (standard deviation) of red, green and blue, `[F, 6]`."""
    return torch.cat((frames.mean(dim=(1, 2)), frames.std(dim=(1, 2), correction=0)), dim=1)


def colour_shift(colour: Tensor, reference: Tensor) -> Tensor:
    """How far a video's colours have moved away from another video's since the first frame, `[F - 1]`.

    The root mean square over the channels, 0..1. A constant difference of colours does not count.

    Args:
        colour, reference: `colour_statistics` of both.
    """
    difference = colour - reference
    return ((difference[1:] - difference[0]).square().sum(dim=1) / 3).sqrt()


def colour_drift(shift: Tensor) -> float:
    """How far the colours drift over a clip: the rise of a straight line fitted to their shift.

    0 if the rise is less than 3 standard errors, as with colours that only flicker.

    Args:
        shift: from `colour_shift`.
    """
    count = len(shift)
    if count < 4:
        return 0.0
    time = torch.arange(count) - (count - 1) / 2
    slope = (time * shift).sum() / time.square().sum()
    residual = shift - shift.mean() - slope * time
    error = (residual.square().sum() / (count - 2) / time.square().sum()).sqrt()
    return (slope * (count - 1)).item() if slope > 3 * error else 0.0


def consistency(embeddings: Tensor) -> Tensor:
    """Frame consistency `[F - 1]`: cosine similarity of the embeddings `[F, D]` of adjacent frames."""
    return torch.cosine_similarity(embeddings[1:], embeddings[:-1], dim=1)


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


def motion_following(previous: Tensor, current: Tensor, source: MeasuredClip) -> Tensor:
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
        current: the current frames of the smoothed video's pairs.
        unsmoothed_previous, unsmoothed_current: the pairs of the video before smoothing.
        flow: the source's flow.
    """
    mean_frame = torch.cat((unsmoothed_previous[:1], unsmoothed_current)).mean(dim=0, keepdim=True)
    size = current.shape[1], current.shape[2]
    shares = [
        _doubling(current[batch], unsmoothed_previous[batch], unsmoothed_current[batch], flow[batch], mean_frame)
        for batch in split_frames(len(current), size)
    ]
    return torch.cat(shares)


def _doubling(
    current: Tensor, unsmoothed_previous: Tensor, unsmoothed_current: Tensor, flow: Tensor, mean_frame: Tensor
) -> Tensor:
    """`doubling` of some pairs, given the mean frame `[1, H, W, 3]` of the video before smoothing."""
    warped, _ = sample_along_flow(unsmoothed_previous, flow)
    mean_frame = mean_frame.expand_as(current)
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

    grey = to_luma(frames)[:, None]
    return (grey - gaussian_blur2d(grey, (13, 13), (2.0, 2.0), border_type="replicate")).flatten(1)


def residual_power(target: Tensor, predictors: list[Tensor]) -> Tensor:
    """Mean square residual `[P]` of a least-squares fit of `target` with `predictors`, all `[P, N]`."""
    matrix = torch.stack(predictors, dim=-1).double()
    weights = torch.linalg.lstsq(matrix, target[..., None].double(), driver="gelsd").solution
    return (target.double() - (matrix @ weights)[..., 0]).square().mean(dim=1)


def measure_video(
    video: MeasuredClip,
    reference: MeasuredClip | None = None,
    embeddings: Tensor | None = None,
    source: MeasuredClip | None = None,
    computation: Computation = ON_CPU,
) -> dict[str, Tensor]:
    """All metrics of a video, keys as in `METRIC_FORMATS`. Metrics whose inputs are missing are left out.

    Args:
        reference: the video before smoothing, for `similarity`, `doubling`, and `colour` without a source.
        embeddings: CLIP embeddings of the frames, `[F, D]`, for `consistency`.
        source: the clip that the video was generated from, measured at the video's size. Flicker is then measured along
            its motion, not the video's, and `colour` is relative to its colours.
        computation: `on_step` is called for each frame that is compared with the reference.
    """
    previous, current = video.previous, video.current
    along = source or video
    metrics = {
        "change": video.change,
        "flicker": flicker(previous, current, along.flow, along.reliable),
        "motion": motion(video.flow, video.reliable),
        "reliable": video.reliable.float().mean(dim=(1, 2)),
        "sharpness": video.sharpness,
    }
    if source and source.moving_pixels.any():
        metrics["following"] = motion_following(previous, current, source)
    if steadiest := source or reference:
        metrics["colour"] = colour_shift(video.colour, steadiest.colour)
    if reference is not None:
        metrics["similarity"] = _similarity_in_batches(video, reference, computation)
        if source:
            metrics["doubling"] = doubling(current, reference.previous, reference.current, source.flow)
    if embeddings is not None:
        metrics["consistency"] = consistency(embeddings)
    return metrics


def _similarity_in_batches(video: MeasuredClip, reference: MeasuredClip, computation: Computation) -> Tensor:
    values = torch.empty(len(video.frames))
    for batch in split_frames(len(video.frames), video.size):
        pair = [load_frames(clip.frames, batch, video.size, computation.device) for clip in (video, reference)]
        values[batch] = similarity(*pair)
        computation.on_step(batch.stop - batch.start)
    return values


@dataclass(frozen=True)
class Reconstruction:
    """What encoding and decoding by a VAE changes.

    Attributes:
        similarity: mean SSIM to the original.
        sharpness: relative to the original's.
        flicker: mean `flicker` of the VAE's error along the original's motion; NaN if no pair of frames was measured.
    """

    similarity: float
    sharpness: float
    flicker: float


def measure_reconstruction(clip: MeasuredClip, decoded: Tensor, computation: Computation = ON_CPU) -> Reconstruction:
    """Compare the first frames of a clip with the same frames after encoding and decoding, `[N, H, W, 3]`."""
    similar, sharp, errors = [], [], []
    for batch in split_frames(len(decoded), clip.size):
        original, changed = (
            load_frames(frames, batch, clip.size, computation.device) for frames in (clip.frames, decoded)
        )
        similar.append(similarity(changed, original).cpu())
        sharp.append(sharpness(changed).cpu())
        errors.append(shrink_for_flow(changed - original).cpu())
        computation.on_step(len(changed))
    error, first = torch.cat(errors), clip.pairs[clip.pairs + 1 < len(decoded)]
    measured = slice(len(first))
    return Reconstruction(
        torch.cat(similar).mean().item(),
        (torch.cat(sharp).mean() / clip.sharpness[: len(decoded)].mean()).item(),
        flicker(error[first], error[first + 1], clip.flow[measured], clip.reliable[measured]).mean().item(),
    )


def format_metrics(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> str:
    """The metrics' means over the clip, before and after, each with its explanation."""
    lines = []
    for name, values in after.items():
        form, meaning = METRIC_FORMATS[name]
        before_text = f"{form.format(before[name].nanmean())} -> " if before and name in before else ""
        lines.append(f"{name}: {before_text}{form.format(values.nanmean())} ({meaning})")
    return "\n".join(lines)

"""Optical flow between adjacent frames, and averages along it.

Frames are `[F, H, W, 3]` in 0..1, flows `[..., H, W, 2]` in pixels, (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor

from .tv_l1 import estimate_tv_l1
from .warping import sample_along_flow

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma weights of red, green and blue (ITU-R BT.601)."""
MAX_FLOW_SIDE = 256
"""Longest side, in pixels, at which flow is estimated. Larger frames are downscaled first to save time."""
PAIRS_PER_BATCH = 8
"""Pairs of frames whose flow is estimated together on a GPU. A CPU gains nothing, and one pair is cancelled sooner."""

FlowEstimator: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Estimates the flow `[P, H, W, 2]` from each reference frame to its moving frame, `[P, H, W, 3]` each."""


def to_luma(frames: Tensor) -> Tensor:
    """Luma `[..., H, W]` of frames `[..., H, W, 3]`."""
    return (frames * frames.new_tensor(LUMA_WEIGHTS)).sum(dim=-1)


def estimate_tv_l1_of_luma(reference: Tensor, moving: Tensor) -> Tensor:
    """The `FlowEstimator` that needs no weights. It loses motion of more than about 6% of the longer side."""
    return estimate_tv_l1(to_luma(reference), to_luma(moving))


@dataclass(frozen=True)
class Computation:
    """Where and how clips are measured.

    Attributes:
        device: frames are moved there a few at a time. What is kept of them is small and stays on the CPU.
        estimate_flow: the method of optical flow.
        on_step: called with the number of frames or pairs of frames that were processed since the last call.
    """

    device: torch.device = torch.device("cpu")
    estimate_flow: FlowEstimator = estimate_tv_l1_of_luma
    on_step: Callable[[int], None] = lambda count: None

    @property
    def pairs_per_batch(self) -> int:
        """How many pairs of frames are processed together."""
        return 1 if self.device.type == "cpu" else PAIRS_PER_BATCH


ON_CPU = Computation()


def shrink_for_flow(frames: Tensor) -> Tensor:
    """Frames downscaled to a longest side of `MAX_FLOW_SIDE`; smaller frames are returned unchanged."""
    scale = MAX_FLOW_SIDE / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    small = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    return small.movedim(1, -1)


def estimate_flow(previous: Tensor, current: Tensor, computation: Computation = ON_CPU) -> tuple[Tensor, Tensor]:
    """Optical flow from each current frame to its previous frame.

    A pixel's flow is reliable if the forward flow leads back to the pixel (Sundaram et al., ECCV 2010, eq. 5). Covered
    and uncovered pixels are therefore not reliable.

    Args:
        previous, current: pairs of frames, `[P, H, W, 3]` each.
        computation: `on_step` is called with the number of pairs that were processed.

    Returns:
        flow: `[P, H, W, 2]`, on the CPU.
        reliable: `[P, H, W]`, bool, on the CPU.
    """
    batches = zip(previous.split(computation.pairs_per_batch), current.split(computation.pairs_per_batch), strict=True)
    paths = torch.cat([_estimate_paths(*batch, computation)[0].cpu() for batch in batches])
    return paths[..., :2], paths[..., 2] > 0


def _estimate_paths(previous: Tensor, current: Tensor, computation: Computation) -> tuple[Tensor, Tensor]:
    """Paths from current to previous frames and from previous to current frames, on the computation's device.

    A path is a flow and its reliability, 0 or 1, `[P, h, w, 3]`.
    """
    frames = [frames.to(computation.device, torch.float32) for frames in (previous, current)]
    backward, forward = computation.estimate_flow(torch.cat(frames[::-1]), torch.cat(frames)).chunk(2)
    computation.on_step(len(previous))
    return _with_reliability(backward, forward), _with_reliability(forward, backward)


def _with_reliability(flow: Tensor, reverse_flow: Tensor) -> Tensor:
    return torch.cat([flow, _is_flow_consistent(flow, reverse_flow)[..., None]], dim=-1)


def _is_flow_consistent(flow: Tensor, reverse_flow: Tensor) -> Tensor:
    reverse, inside = sample_along_flow(reverse_flow, flow)
    squared_error = (flow + reverse).square().sum(dim=-1)
    return inside & (squared_error < 0.01 * (flow.square() + reverse.square()).sum(dim=-1) + 0.5)


def average_along_flow(
    frames: Tensor, clip: Tensor, reach: int, computation: Computation = ON_CPU
) -> tuple[Tensor, Tensor]:
    """Average each frame with nearby frames, warped along a clip's flow where the whole path is reliable.

    Args:
        frames: `[F, H, W, 3]`.
        clip: `[F, h, w, 3]` with the same aspect ratio; its flow is used, estimated at `MAX_FLOW_SIDE` at most.
        reach: number of frames on either side to average with; fewer at the ends of the clip.
        computation: `on_step` is called after each pair of frames and each frame, with 0 after each warp.

    Returns:
        averaged: `[F, H, W, 3]`, with the frames' dtype and device.
        share: fraction of the frames within reach that were used, `[F, H, W]` in 0..1.
    """
    averaged, share = torch.empty_like(frames), frames.new_empty(frames.shape[:3])

    def load(i: int) -> Tensor:
        return frames[i].to(computation.device, torch.float32)

    for i, paths in enumerate(_paths_within_reach(clip, reach, computation)):
        total = load(i).clone()
        used = total.new_zeros(total.shape[:2])
        for j, path in paths:
            warped, reliable = _warp(load(j), path)
            total += reliable[..., None] * warped
            used += reliable
            computation.on_step(0)
        averaged[i], share[i] = total / (1 + used)[..., None], used / len(paths)
        computation.on_step(1)
    return averaged, share


def _paths_within_reach(clip: Tensor, reach: int, computation: Computation) -> Iterator[list[tuple[int, Tensor]]]:
    """For each frame of a clip, the other frames within reach and the paths to them, `[1, h, w, 3]`.

    Only the flows within reach are kept in memory, and those of a batch.
    """
    reach = min(reach, len(clip) - 1)
    to_previous: dict[int, Tensor] = {}  # by frame, the path to its previous frame
    to_next: dict[int, Tensor] = {}
    for i in range(len(clip)):
        first, last = max(i - reach, 0), min(i + reach, len(clip) - 1)
        while max(to_next, default=-1) + 1 < last:
            start = max(to_next, default=-1) + 1
            end = min(start + computation.pairs_per_batch, len(clip) - 1)
            small = shrink_for_flow(clip[start : end + 1].to(computation.device, torch.float32))
            backward, forward = _estimate_paths(small[:-1], small[1:], computation)
            to_next |= zip(range(start, end), forward.split(1), strict=True)
            to_previous |= zip(range(start + 1, end + 1), backward.split(1), strict=True)
        yield [
            *_accumulate_paths(to_previous, range(i, first - 1, -1)),
            *_accumulate_paths(to_next, range(i, last + 1)),
        ]
        to_previous.pop(i - reach + 1, None)
        to_next.pop(i - 1, None)


def _accumulate_paths(flows: dict[int, Tensor], frames: range) -> Iterator[tuple[int, Tensor]]:
    """The frames of a range after its first, and the paths to them from its first.

    Args:
        flows: the path from each frame to the next one of the range.
    """
    return zip(frames[1:], accumulate((flows[i] for i in frames[:-1]), _compose_flow), strict=True)


def _compose_flow(path: Tensor, step: Tensor) -> Tensor:
    """Extend a path (flow and reliability, `[1, h, w, 3]`) by the flow of the next step, sampled at the path's end."""
    sampled, inside = sample_along_flow(step, path[..., :2])
    reliable = path[..., 2:] * sampled[..., 2:] * inside[..., None]
    return torch.cat([path[..., :2] + sampled[..., :2], reliable], dim=-1)


def _warp(frame: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Warp a frame `[H, W, 3]` along a path of any size; also returns where `[H, W]` it is reliable, 0 or 1."""
    size = frame.shape[:2]
    large = torch.nn.functional.interpolate(path.movedim(-1, 1), size=size, mode="bilinear", align_corners=False)
    large = large.movedim(1, -1)
    flow = large[..., :2] * large.new_tensor([size[1] / path.shape[2], size[0] / path.shape[1]])
    warped, inside = sample_along_flow(frame[None], flow)
    return warped[0], (inside & (large[..., 2] > 0.5))[0].float()

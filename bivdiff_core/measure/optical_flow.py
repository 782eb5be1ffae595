"""Optical flow between adjacent frames, and warping of frames along it.

Frames are `[F, H, W, 3]` in 0..1, flows `[..., H, W, 2]` in pixels, (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma weights of red, green and blue (ITU-R BT.601)."""
MAX_FLOW_SIDE = 256
"""Longest side, in pixels, at which flow is estimated. Larger frames are downscaled first to save time."""


def shrink_for_flow(frames: Tensor) -> Tensor:
    """Frames downscaled to a longest side of `MAX_FLOW_SIDE`; smaller frames are returned unchanged."""
    scale = MAX_FLOW_SIDE / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    small = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    return small.movedim(1, -1)


def estimate_flow(
    previous: Tensor, current: Tensor, on_pair: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Optical flow from each current frame to its previous frame.

    TV-L1 (Zach et al., DAGM 2007), which needs no weights. A pixel's flow is reliable if the forward flow leads back to
    the pixel (Sundaram et al., ECCV 2010, eq. 5). Covered and uncovered pixels are therefore not reliable.

    Args:
        previous, current: pairs of frames, `[P, H, W, 3]` each.
        on_pair: called after the flow of each pair. A pair of large frames takes a second.

    Returns:
        flow: `[P, H, W, 2]`.
        reliable: `[P, H, W]`, bool.
    """
    backward, forward = _estimate_flow_both_ways(previous, current, on_pair)
    return backward, _is_flow_consistent(backward, forward)


def _estimate_flow_both_ways(previous: Tensor, current: Tensor, on_pair: Callable[[], None]) -> tuple[Tensor, Tensor]:
    """Flow from current to previous frames and from previous to current frames, each `[P, H, W, 2]`."""
    from skimage.registration import optical_flow_tvl1

    grey = [(frames @ frames.new_tensor(LUMA_WEIGHTS)).numpy() for frames in (previous, current)]
    flows = []
    for old, new in zip(*grey, strict=True):
        flows.append(np.stack([optical_flow_tvl1(new, old), optical_flow_tvl1(old, new)]))
        on_pair()
    # skimage orders flow (row, column): reorder to (x, y).
    backward, forward = torch.from_numpy(np.stack(flows, axis=1)).flip(2).movedim(2, -1).float()
    return backward, forward


def _is_flow_consistent(flow: Tensor, reverse_flow: Tensor) -> Tensor:
    reverse, inside = sample_along_flow(reverse_flow, flow)
    squared_error = (flow + reverse).square().sum(dim=-1)
    return inside & (squared_error < 0.01 * (flow.square() + reverse.square()).sum(dim=-1) + 0.5)


def sample_along_flow(images: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Sample images `[N, H, W, C]` at pixels displaced by a flow `[N, H, W, 2]`.

    Returns:
        the warped images, and whether `[N, H, W]` each sampled point lies inside the image.
    """
    height, width = images.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = (torch.stack([x, y], dim=-1) + flow) / torch.tensor([width - 1, height - 1]) * 2 - 1
    warped = torch.nn.functional.grid_sample(
        images.movedim(-1, 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return warped.movedim(1, -1), (grid.abs() <= 1).all(dim=-1)


def average_along_flow(
    frames: Tensor, clip: Tensor, reach: int, on_pair: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Average each frame with nearby frames, warped along a clip's flow where the whole path is reliable.

    Args:
        frames: `[F, H, W, 3]`.
        clip: `[F, h, w, 3]` with the same aspect ratio; its flow is used, estimated at `MAX_FLOW_SIDE` at most.
        reach: number of frames on either side to average with; fewer at the ends of the clip.
        on_pair: called after the flow of each pair of frames.

    Returns:
        averaged: `[F, H, W, 3]`.
        share: fraction of the frames within reach that were used, `[F, H, W]` in 0..1.
    """
    averaged, share = torch.empty_like(frames), frames.new_empty(frames.shape[:3])
    for i, paths in enumerate(_paths_within_reach(clip, reach, on_pair)):
        total, used = frames[i].clone(), torch.zeros(frames.shape[1:3])
        for j, path in paths:
            warped, reliable = _warp(frames[j], path)
            total += reliable[..., None] * warped
            used += reliable
        averaged[i], share[i] = total / (1 + used)[..., None], used / len(paths)
    return averaged, share


def _paths_within_reach(clip: Tensor, reach: int, on_pair: Callable[[], None]) -> Iterator[list[tuple[int, Tensor]]]:
    """For each frame of a clip, the other frames within reach and the paths to them.

    A path is a flow and its reliability, `[1, h, w, 3]`. Only the flows within reach are kept in memory.
    """
    reach = min(reach, len(clip) - 1)
    to_previous: dict[int, Tensor] = {}  # by frame, with reliability, [1, h, w, 3]
    to_next: dict[int, Tensor] = {}
    for i in range(len(clip)):
        first, last = max(i - reach, 0), min(i + reach, len(clip) - 1)
        for j in range(max(to_next, default=-1) + 1, last):
            backward, forward = _estimate_flow_both_ways(
                shrink_for_flow(clip[j : j + 1]), shrink_for_flow(clip[j + 1 : j + 2]), on_pair
            )
            to_next[j] = torch.cat([forward, _is_flow_consistent(forward, backward)[..., None]], dim=-1)
            to_previous[j + 1] = torch.cat([backward, _is_flow_consistent(backward, forward)[..., None]], dim=-1)
        yield [
            *_accumulate_paths(to_previous, range(i, first - 1, -1)),
            *_accumulate_paths(to_next, range(i, last + 1)),
        ]
        to_previous.pop(i - reach + 1, None)
        to_next.pop(i - 1, None)


def _accumulate_paths(flows: dict[int, Tensor], frames: range) -> Iterator[tuple[int, Tensor]]:
    """The frames of a range after its first, and the paths to them from its first.

    Args:
        flows: from each frame to the next one of the range, with reliability.
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
    flow = large[..., :2] * (torch.tensor([size[1], size[0]]) / torch.tensor([path.shape[2], path.shape[1]]))
    warped, inside = sample_along_flow(frame[None], flow)
    return warped[0], (inside & (large[..., 2] > 0.5))[0].float()

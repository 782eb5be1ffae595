"""Optical flow: where the pixels of a frame are in its neighbours, and frames carried along it.

Frames are `[F, H, W, 3]` in 0..1, flows `[..., H, W, 2]` in pixels, x and y.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""What red, green and blue count for in lightness (ITU-R BT.601)."""
MAX_FLOW_SIDE = 256
"""Longest side, in pixels, at which motion is measured; larger frames are reduced first, since flow takes time."""


def shrink_for_flow(frames: Tensor) -> Tensor:
    """Frames no larger than `MAX_FLOW_SIDE`."""
    scale = MAX_FLOW_SIDE / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    small = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    return small.movedim(1, -1)


def estimate_flow(before: Tensor, now: Tensor, on_pair: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor]:
    """Where each frame's pixels were in the frame before.

    TV-L1 (Zach et al., DAGM 2007), which needs no weights. A pixel's motion is reliable if the motion the other way
    leads back to it (Sundaram et al., ECCV 2010, eq. 5): covered and uncovered pixels are not.

    Args:
        before, now: pairs of frames, `[P, H, W, 3]` each.
        on_pair: called after each pair, which takes a second where the frames are large.

    Returns:
        flow: `[P, H, W, 2]`.
        reliable: `[P, H, W]`, bool.
    """
    back, forth = _estimate_flow_both_ways(before, now, on_pair)
    return back, _is_flow_consistent(back, forth)


def _estimate_flow_both_ways(before: Tensor, now: Tensor, on_pair: Callable[[], None]) -> tuple[Tensor, Tensor]:
    from skimage.registration import optical_flow_tvl1

    grey = [(frames @ frames.new_tensor(LUMA_WEIGHTS)).numpy() for frames in (before, now)]
    flows = []
    for old, new in zip(*grey, strict=True):
        flows.append(np.stack([optical_flow_tvl1(new, old), optical_flow_tvl1(old, new)]))
        on_pair()
    # Rows come first there.
    back, forth = torch.from_numpy(np.stack(flows, axis=1)).flip(2).movedim(2, -1).float()
    return back, forth


def _is_flow_consistent(flow: Tensor, returning: Tensor) -> Tensor:
    returned, inside = sample_along_flow(returning, flow)
    off = (flow + returned).square().sum(dim=-1)
    return inside & (off < 0.01 * (flow.square() + returned.square()).sum(dim=-1) + 0.5)


def sample_along_flow(images: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Images `[N, H, W, C]` at pixels moved by a flow `[N, H, W, 2]`, and whether `[N, H, W]` these lie inside."""
    height, width = images.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = (torch.stack([x, y], dim=-1) + flow) / torch.tensor([width - 1, height - 1]) * 2 - 1
    moved = torch.nn.functional.grid_sample(
        images.movedim(-1, 1), where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return moved.movedim(1, -1), (where.abs() <= 1).all(dim=-1)


def average_along_flow(
    frames: Tensor, clip: Tensor, reach: int, on_pair: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Every frame averaged with its neighbours, carried along a clip's motion, where that is reliable all the way.

    Only the flows within reach are held at a time.

    Args:
        frames: `[F, H, W, 3]`.
        clip: whose motion counts, `[F, h, w, 3]` of the same shape; its motion is measured at `MAX_FLOW_SIDE` at most.
        reach: of frames to either side, as far as there are any.
        on_pair: called after each pair of frames whose motion is known.

    Returns:
        averaged: `[F, H, W, 3]`.
        share: of the neighbours within reach that took part, `[F, H, W]` in 0..1.
    """
    reach = min(reach, len(frames) - 1)
    # Flow and its reliability, [1, h, w, 3], from each frame to the one before and after.
    flows: dict[int, dict[int, Tensor]] = {-1: {}, 1: {}}
    averaged, share = torch.empty_like(frames), frames.new_empty(frames.shape[:3])
    for i in range(len(frames)):
        for j in range(max(flows[1], default=-1) + 1, min(i + reach, len(frames) - 1)):
            back, forth = _estimate_flow_both_ways(
                shrink_for_flow(clip[j : j + 1]), shrink_for_flow(clip[j + 1 : j + 2]), on_pair
            )
            flows[1][j] = torch.cat([forth, _is_flow_consistent(forth, back)[..., None]], dim=-1)
            flows[-1][j + 1] = torch.cat([back, _is_flow_consistent(back, forth)[..., None]], dim=-1)
        total, used, available = frames[i].clone(), torch.zeros(frames.shape[1:3]), 0
        for direction, known in flows.items():
            end = max(i - reach, 0) if direction < 0 else min(i + reach, len(frames) - 1)
            path = None
            for j in range(i, end, direction):
                path = known[j] if path is None else _compose_flow(path, known[j])
                carried, trusted = _warp(frames[j + direction], path)
                total += trusted[..., None] * carried
                used += trusted
                available += 1
        averaged[i], share[i] = total / (1 + used)[..., None], used / available
        flows[-1].pop(i - reach + 1, None)
        flows[1].pop(i - 1, None)
    return averaged, share


def _compose_flow(path: Tensor, step: Tensor) -> Tensor:
    """A path `[1, h, w, 3]`, flow and reliability, with the next step from where it leads."""
    moved, inside = sample_along_flow(step, path[..., :2])
    reliable = path[..., 2:] * moved[..., 2:] * inside[..., None]
    return torch.cat([path[..., :2] + moved[..., :2], reliable], dim=-1)


def _warp(frame: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """A frame `[H, W, 3]` along a path of any size, and where `[H, W]` that can be trusted, 0 or 1."""
    size = frame.shape[:2]
    large = torch.nn.functional.interpolate(path.movedim(-1, 1), size=size, mode="bilinear", align_corners=False)
    large = large.movedim(1, -1)
    flow = large[..., :2] * (torch.tensor([size[1], size[0]]) / torch.tensor([path.shape[2], path.shape[1]]))
    moved, inside = sample_along_flow(frame[None], flow)
    return moved[0], (inside & (large[..., 2] > 0.5))[0].float()

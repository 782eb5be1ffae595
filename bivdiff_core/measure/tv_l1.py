"""Optical flow by TV-L1 for a batch of image pairs, on any device.

Equations are those of Zach et al., "A duality based approach for realtime TV-L1 optical flow", DAGM 2007. Settings and
discretization are scikit-image's `optical_flow_tvl1`, so both give the same flow up to rounding. In this module a flow
is `[2, P, H, W]`, (x, y) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .warping import sample_along_flow

ATTACHMENT = 15.0
"""Weight of the data term (lambda)."""
TIGHTNESS = 0.3
"""How closely the smooth flow is coupled to that of the data term (theta)."""
TIME_STEP = 0.25
"""Step of the dual variable's gradient descent (tau)."""
WARPS, STEPS, DUAL_STEPS = 5, 10, 2
"""Warps of the moving image per level, steps per warp, and steps of the dual variable per step."""
TOLERANCE = 1e-4
"""A pair's level ends early if a warp changes its flow by a smaller mean square, in squared pixels."""
MIN_SIDE, MAX_LEVELS = 16, 10
"""Shortest side and number of images in the pyramid."""
BLUR_RADIUS, BLUR_STD = 3, 2 / 3
"""Radius and standard deviation of the Gaussian before an image is halved, in pixels."""


def estimate_tv_l1(reference: Tensor, moving: Tensor) -> Tensor:
    """Flow `[P, H, W, 2]`, (x, y) in pixels, from grey reference images to moving images, `[P, H, W]` in 0..1 each."""
    levels = list(zip(_build_pyramid(reference), _build_pyramid(moving), strict=True))
    flow = reference.new_zeros(2, *levels[-1][0].shape)
    with _use_one_thread():
        for reference_level, moving_level in reversed(levels):
            flow = _solve_level(reference_level, moving_level, _resize_flow(flow, reference_level.shape[1:]))
    return flow.movedim(0, -1)


@contextmanager
def _use_one_thread() -> Iterator[None]:
    """Compute with one CPU thread.

    Several threads wait for each other after each of thousands of small operations, long if the CPU has other work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _build_pyramid(images: Tensor) -> list[Tensor]:
    """Images `[P, H, W]` from large to small; each is half as large as the previous one."""
    levels = [images]
    while len(levels) < MAX_LEVELS and min(levels[-1].shape[1:]) > 2 * MIN_SIDE:
        levels.append(_halve(levels[-1]))
    return levels


def _halve(images: Tensor) -> Tensor:
    """Blurred images at half their size, rounded up."""
    offsets = range(-BLUR_RADIUS, BLUR_RADIUS + 1)
    weights = [math.exp(-0.5 * (offset / BLUR_STD) ** 2) for offset in offsets]
    for dim in (1, 2):
        start, end = images.narrow(dim, 0, BLUR_RADIUS), images.narrow(dim, -BLUR_RADIUS, BLUR_RADIUS)
        padded = torch.cat((start.flip(dim), images, end.flip(dim)), dim)
        images = torch.zeros_like(images)
        # No convolution: GPUs may compute it in TF32, which rounds to 3 digits.
        for i, weight in enumerate(weights):
            images.add_(padded.narrow(dim, i, images.shape[dim]), alpha=weight / sum(weights))
    halves = [math.ceil(side / 2) for side in images.shape[1:]]
    return interpolate(images[:, None], size=halves, mode="bilinear", align_corners=False)[:, 0]


def _resize_flow(flow: Tensor, size: torch.Size) -> Tensor:
    """A flow at another size, by nearest neighbour; the centres of the corner pixels coincide."""
    for component, dim, new in ((0, 3, size[1]), (1, 2, size[0])):
        old = flow.shape[dim]
        nearest = [math.floor(i * (old - 1) / (new - 1) + 0.5) for i in range(new)]
        flow = flow.index_select(dim, torch.tensor(nearest, device=flow.device))
        flow[component] *= new / old
    return flow


def _solve_level(reference: Tensor, moving: Tensor, flow: Tensor) -> Tensor:
    """The flow at one level of the pyramid, from an initial flow. Pairs that have converged are left out."""
    result, dual = torch.empty_like(flow), flow.new_zeros(2, *flow.shape)
    pairs = torch.arange(flow.shape[1], device=flow.device)
    for _ in range(WARPS):
        flow, dual, change = _solve_warp(reference, moving, flow, dual)
        result[:, pairs] = flow
        moves = change >= TOLERANCE
        if not moves.any():
            break
        if not moves.all():
            pairs, reference, moving = pairs[moves], reference[moves], moving[moves]
            flow, dual = flow[:, moves], dual[:, :, moves]
    return result


def _solve_warp(reference: Tensor, moving: Tensor, flow: Tensor, dual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linearize the moving image around a flow, then alternate between the data term and the smoothness.

    Flow and dual variables are scaled by tau / theta meanwhile, so that the dual's update needs no factors.

    Args:
        dual: for each direction and flow component, `[2, 2, P, H, W]`.

    Returns:
        the new flow, the new dual variables, and each pair's mean square change after the first data step, `[P]`.
    """
    scale, limit = TIME_STEP / TIGHTNESS, ATTACHMENT * TIGHTNESS
    warped = sample_along_flow(moving[..., None], flow.movedim(0, -1))[0][..., 0]
    gradient = torch.stack(torch.gradient(warped, dim=(2, 1)))
    power = gradient.square().sum(dim=0)
    power = torch.where(power == 0, 1, power)
    constant = warped - reference - (gradient * flow).sum(dim=0)
    scaled_gradient, gradient_per_scale = gradient * scale, gradient / scale
    flow = first = flow * scale
    differences = torch.zeros_like(dual)
    down, right = differences
    norm, smooth = torch.empty_like(flow), torch.empty_like(flow)
    for step in range(STEPS):
        # The data term: eq. 15.
        residual = torch.addcmul(constant, gradient_per_scale[0], flow[0]).addcmul_(gradient_per_scale[1], flow[1])
        residual = residual.div_(power).clamp_(-limit, limit)
        target = torch.addcmul(flow, residual, scaled_gradient, value=-1)
        first = target if step == 0 else first
        # The smoothness: eq. 8 to 10, with forward differences.
        flow = target
        for _ in range(DUAL_STEPS):
            torch.sub(flow[..., 1:, :], flow[..., :-1, :], out=down[..., :-1, :])
            torch.sub(flow[..., 1:], flow[..., :-1], out=right[..., :-1])
            torch.mul(down, down, out=norm).addcmul_(right, right).sqrt_().add_(1)
            dual.sub_(differences, alpha=TIME_STEP).div_(norm)
            flow = torch.sub(target, dual[0], out=smooth).sub_(dual[1])
            flow[..., 1:, :] += dual[0, ..., :-1, :]
            flow[..., 1:] += dual[1, ..., :-1]
    change = (flow - first).div_(scale).square().sum(dim=0).mean(dim=(1, 2))
    return flow / scale, dual, change

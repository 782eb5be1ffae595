"""Sampling of images along an optical flow."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_along_flow(images: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Sample images `[N, H, W, C]` at pixels displaced by a flow `[N, H, W, 2]`, (x, y); the border continues outside.

    Returns:
        the warped images, and whether `[N, H, W]` each sampled point lies inside the image.
    """
    y, x = (torch.arange(side, device=flow.device) for side in images.shape[1:3])
    points = torch.stack([x + flow[..., 0], y[:, None] + flow[..., 1]], dim=-1)
    grid = points / points.new_tensor([len(x) - 1, len(y) - 1]) * 2 - 1
    warped = torch.nn.functional.grid_sample(
        images.movedim(-1, 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return warped.movedim(1, -1), (grid.abs() <= 1).all(dim=-1)

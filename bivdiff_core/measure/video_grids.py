"""The videos of a sweep in a grid, and which of them are best."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MIN_CELL_WIDTH = 192
"""Smallest width of a grid cell in pixels. Smaller videos are enlarged by a whole factor."""


def render_caption(text: str, width: int, font: Path) -> Tensor:
    """A line of black text on white as an image `[H, W, 3]`, in a font from its file."""
    size = width // 12
    strip = Image.new("RGB", (width, round(size * 1.5)), "white")
    ImageDraw.Draw(strip).text((size // 2, size // 6), text, "black", ImageFont.truetype(font, size))
    return torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)


def tile_videos(videos: list[Tensor], names: list[str], font: Path) -> Tensor:
    """Arrange videos `[F, H, W, 3]` of the same size in a grid, each below its name, as one video.

    Args:
        font: file of the names' font, from `label_fonts.find_font`.
    """
    factor = math.ceil(MIN_CELL_WIDTH / videos[0].shape[2])
    cells = []
    for video, name in zip(videos, names, strict=True):
        large = video.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        caption = render_caption(name, large.shape[2], font).expand(len(large), -1, -1, -1)
        cells.append(torch.cat([caption, large], dim=1))
    columns = math.ceil(len(cells) ** 0.5)
    cells += [torch.ones_like(cells[0])] * (-len(cells) % columns)
    rows = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    return torch.cat(rows, dim=1)


def find_pareto_front(similarity: list[float], flicker: list[float], is_degraded: list[bool]) -> list[int]:
    """Indices of the videos on the Pareto front of high similarity and low flicker.

    Videos that lost their motion or sharpness (`is_degraded`) are ignored.
    """
    points = list(zip(similarity, flicker, strict=True))
    kept = [i for i, degraded in enumerate(is_degraded) if not degraded]

    def is_dominated(i: int) -> bool:
        x, y = points[i]
        return any(points[j] != (x, y) and points[j][0] >= x and points[j][1] <= y for j in kept)

    return [i for i in kept if not is_dominated(i)]

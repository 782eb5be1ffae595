"""The videos of a sweep in a grid, and which of them are best."""

import math
from itertools import product
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
    frames, height, width = videos[0].shape[:3]
    factor = math.ceil(MIN_CELL_WIDTH / width)
    captions = [render_caption(name, factor * width, font) for name in names]
    columns = math.ceil(len(videos) ** 0.5)
    cell_height, cell_width = len(captions[0]) + factor * height, factor * width
    grid = torch.ones(frames, math.ceil(len(videos) / columns) * cell_height, columns * cell_width, 3)
    for i, (video, caption) in enumerate(zip(videos, captions, strict=True)):
        top, left = i // columns * cell_height, i % columns * cell_width
        cell = grid[:, top : top + cell_height, left : left + cell_width]
        cell[:, : len(caption)] = caption
        for row, column in product(range(factor), repeat=2):
            cell[:, len(caption) + row :: factor, column::factor] = video
    return grid


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

"""Sweeps, one video per setting: parse the list of settings, compare the videos and show them in a grid."""

from collections.abc import Callable, Collection

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import video_metrics

MIN_CELL_WIDTH = 192
"""Smallest width of a grid cell in pixels. Smaller videos are enlarged by a whole factor."""


def parse_ratios(text: str) -> list[float]:
    """Parse mixing ratios from text such as `0, 0.25 1`.

    Raises:
        ValueError: a word is not a number in 0..1, or the text is empty.
    """
    ratios = []
    for word in text.replace(",", " ").split():
        try:
            ratios.append(float(word))
        except ValueError:
            raise ValueError(
                f"expected comma-separated numbers, got {word!r}. Write ratios like 0, 0.25, 0.5, 1"
            ) from None
        if not 0 <= ratios[-1] <= 1:
            raise ValueError(f"{word} must lie between 0 (video branch) and 1 (image branch)")
    if not ratios:
        raise ValueError("there are no ratios. Write one or more, like 0, 0.25, 0.5, 1")
    return ratios


def parse_choices(text: str, choices: Collection[str]) -> list[str]:
    """Parse choices of a control from text such as `linear, slerp`, in the text's order.

    Raises:
        ValueError: a word is not one of the choices, or the text is empty.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if word not in choices:
            raise ValueError(f"{word!r} is not one of {', '.join(choices)}")
    if not words:
        raise ValueError(f"there are no choices. Write one or more of {', '.join(choices)}")
    return words


def render_caption(text: str, width: int) -> Tensor:
    """A line of black text on white as an image `[H, W, 3]`."""
    size = width // 12
    strip = Image.new("RGB", (width, round(size * 1.5)), "white")
    ImageDraw.Draw(strip).text((size // 2, size // 6), text, "black", ImageFont.load_default(size))
    return torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)


def tile_videos(videos: list[Tensor], names: list[str]) -> Tensor:
    """Arrange videos `[F, H, W, 3]` of the same size in a grid, each below its name, as one video."""
    factor = -(-MIN_CELL_WIDTH // videos[0].shape[2])
    cells = []
    for video, name in zip(videos, names, strict=True):
        large = video.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        cells.append(torch.cat([render_caption(name, large.shape[2]).expand(len(large), -1, -1, -1), large], dim=1))
    columns = int(np.ceil(len(cells) ** 0.5))
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
        (x, y) = points[i]
        return any(points[j] != (x, y) and points[j][0] >= x and points[j][1] <= y for j in kept)

    return [i for i in kept if not is_dominated(i)]


def compare_videos(
    videos: list[Tensor],
    reference: Tensor,
    on_pair: Callable[[], None] = lambda: None,
    source: video_metrics.SourceMotion | None = None,
) -> tuple[list[float], list[float], list[int], list[bool]]:
    """Compare videos with a reference.

    Args:
        videos: `[F, H, W, 3]` each.
        reference: one of the videos, or another one such as the video before smoothing.
        on_pair: called after the flow of each pair of frames of every video, and of the reference if it is another one.
        source: the clip that the videos were generated from.

    Returns:
        similarity, flicker: mean of each video.
        pareto_indices: from `find_pareto_front`.
        is_degraded: whether each video lost its motion or sharpness.
    """
    metrics = [video_metrics.measure_video(video, reference, on_pair=on_pair, source=source) for video in videos]
    of_reference = (found for video, found in zip(videos, metrics, strict=True) if video is reference)
    before = next(of_reference, None) or video_metrics.measure_video(reference, on_pair=on_pair, source=source)
    similarity = [found["similarity"].mean().item() for found in metrics]
    flicker = [found["flicker"].mean().item() for found in metrics]
    is_degraded = [bool(video_metrics.judge_video(found, before, source).cautions) for found in metrics]
    return similarity, flicker, find_pareto_front(similarity, flicker, is_degraded), is_degraded

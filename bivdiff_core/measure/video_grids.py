"""One video for each of several settings: the lists that start them, and the grid that shows them side by side."""

from collections.abc import Callable, Collection

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import video_metrics

MIN_CELL_WIDTH = 192
"""Width in pixels that a cell has at least; smaller videos are enlarged by a whole number."""


def parse_ratios(text: str) -> list[float]:
    """Mixing ratios out of text such as `0, 0.25 1`.

    Raises:
        ValueError: a word is not a number in 0..1, or there is none.
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
        raise ValueError("there are no ratios. Write some like 0, 0.25, 0.5, 1")
    return ratios


def parse_choices(text: str, choices: Collection[str]) -> list[str]:
    """Some of a control's choices out of text such as `linear, slerp`, in the text's order.

    Raises:
        ValueError: a word is not one of the choices, or there is none.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if word not in choices:
            raise ValueError(f"{word!r} is not one of {', '.join(choices)}")
    if not words:
        raise ValueError(f"there is nothing to try. Write some of {', '.join(choices)}")
    return words


def render_caption(text: str, width: int) -> Tensor:
    """A line of text on white as a picture `[H, W, 3]`."""
    size = width // 12
    strip = Image.new("RGB", (width, round(size * 1.5)), "white")
    ImageDraw.Draw(strip).text((size // 2, size // 6), text, "black", ImageFont.load_default(size))
    return torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)


def tile_videos(videos: list[Tensor], names: list[str]) -> Tensor:
    """Videos `[F, H, W, 3]` of one size side by side, row by row, each under its name, as one video."""
    enlarge = -(-MIN_CELL_WIDTH // videos[0].shape[2])
    cells = []
    for video, name in zip(videos, names, strict=True):
        large = video.repeat_interleave(enlarge, dim=1).repeat_interleave(enlarge, dim=2)
        cells.append(torch.cat([render_caption(name, large.shape[2]).expand(len(large), -1, -1, -1), large], dim=1))
    columns = int(np.ceil(len(cells) ** 0.5))
    cells += [torch.ones_like(cells[0])] * (-len(cells) % columns)
    rows = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    return torch.cat(rows, dim=1)


def find_pareto_front(similarity: list[float], flicker: list[float], lost: list[bool]) -> list[int]:
    """Which videos no other beats: as much like the reference and as steady, and better in one (Pareto's front).

    Videos that lost their motion or sharpness neither count nor beat others.
    """
    points = list(zip(similarity, flicker, strict=True))
    kept = [i for i, is_lost in enumerate(lost) if not is_lost]

    def beaten(i: int) -> bool:
        (x, y) = points[i]
        return any(points[j] != (x, y) and points[j][0] >= x and points[j][1] <= y for j in kept)

    return [i for i in kept if not beaten(i)]


def compare_videos(
    videos: list[Tensor],
    reference: Tensor,
    on_pair: Callable[[], None] = lambda: None,
    source: video_metrics.SourceMotion | None = None,
) -> tuple[list[float], list[float], list[int], list[bool]]:
    """Each video's similarity to a reference and flicker, which are the best, and which lost too much for it.

    Args:
        on_pair: as in `metrics.measure_video`, over all videos and the reference, if that is none of them.
        source: the clip that they were made from.
    """
    figures = [video_metrics.measure_video(video, reference, on_pair=on_pair, source=source) for video in videos]
    own = (found for video, found in zip(videos, figures, strict=True) if video is reference)
    before = next(own, None) or video_metrics.measure_video(reference, on_pair=on_pair, source=source)
    similarity = [found["similarity"].mean().item() for found in figures]
    flicker = [found["flicker"].mean().item() for found in figures]
    lost = [bool(video_metrics.judge_video(found, before, source).cautions) for found in figures]
    return similarity, flicker, find_pareto_front(similarity, flicker, lost), lost

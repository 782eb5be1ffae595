"""Hard cuts of a clip: frames at which the whole picture changes."""

from __future__ import annotations

import torch
from torch import Tensor

from .video_metrics import find_second_frames

CUT_SIDE = 32
"""Longer side, in pixels, at which frames are compared: motion and grain change small pictures little."""

MIN_CUT_CHANGE, MIN_CUT_RATIO, CUT_REACH = 0.06, 3.0, 2
"""A cut changes the mean pixel by the first at least, and by `MIN_CUT_RATIO` times the largest other change within
`CUT_REACH` frames. So neither a flash, which changes twice, nor flicker or fast motion is a cut. PySceneDetect's
AdaptiveDetector has similar values (15 of 255, 3.0 times the mean, 2 frames)."""


def find_cuts(frames: Tensor) -> list[int]:
    """First frame of each shot except the first. Dissolves are not found, nor a cut in a clip of two frames.

    Args:
        frames: a clip, `[F, H, W, C]` in 0..1. Frames are reduced one at a time to save memory.
    """
    small = torch.empty(len(frames), 3, *_small_size(frames))
    for i, frame in enumerate(frames):  # in place, since kept small tensors fragment the memory of the large ones
        pixels = frame[..., :3].float().movedim(-1, 0)[None]
        small[i] = torch.nn.functional.interpolate(pixels, size=small.shape[2:], mode="area")[0]
    changes = small.diff(dim=0).abs().mean(dim=(1, 2, 3)).tolist()
    cuts = []
    for i, change in enumerate(changes):
        others = changes[max(i - CUT_REACH, 0) : i] + changes[i + 1 : i + 1 + CUT_REACH]
        if others and change >= max(MIN_CUT_CHANGE, MIN_CUT_RATIO * max(others)):
            cuts.append(i + 1)
    return cuts


def _small_size(frames: Tensor) -> tuple[int, int]:
    """Height and width of frames `[F, H, W, C]` whose longer side is `CUT_SIDE`, or their own if that is smaller."""
    height, width = frames.shape[1:3]
    scale = min(1, CUT_SIDE / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def leave_out_cuts(metrics: dict[str, Tensor], cuts: list[int], frame_count: int) -> dict[str, Tensor]:
    """The metrics of a video with NaN for pairs of frames with a cut between them.

    Args:
        metrics: from `measure_video`. Those of fewer than `frame_count` values are of pairs of frames: of all pairs,
            or of those that `select_pairs` selects. `colour` is of single frames, compared with the first.
        cuts: from `find_cuts`.
        frame_count: number of frames of the video.
    """
    masked = {}
    for name, values in metrics.items():
        if len(values) < frame_count and name != "colour":
            second = find_second_frames(len(values), frame_count)
            values = values.masked_fill(torch.isin(second, torch.tensor(cuts, dtype=torch.long)), torch.nan)
        masked[name] = values
    return masked


def format_frames(frames: list[int]) -> str:
    """Frame numbers as text: "frame 3", "frames 3, 8 and 12"."""
    *others, last = map(str, frames)
    return f"frames {', '.join(others)} and {last}" if others else f"frame {last}"

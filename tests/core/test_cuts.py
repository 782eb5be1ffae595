"""Cuts: found where clips are joined, and nowhere else."""

import pytest
import torch
from fixtures.sample_videos import flickering, moving
from torch import Tensor

from bivdiff_core.measure.cuts import find_cuts, format_frames, leave_out_cuts
from bivdiff_core.measure.video_metrics import MeasuredClip, find_second_frames, find_worst_pair, measure_video
from research import toy_world
from research.demo_chain import add_colour_flicker


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    return [toy_world.generate_clip(seed).frames for seed in toy_world.HELD_OUT_SEEDS[:4]]


def test_cuts_are_where_clips_are_joined(clips):
    lengths = (8, 3, 5, 1)
    joined = torch.cat([clip[:length] for clip, length in zip(clips, lengths, strict=True)])
    assert find_cuts(joined) == [8, 11, 16]
    large = joined.repeat_interleave(5, 1).repeat_interleave(5, 2)
    assert find_cuts(large) == [8, 11, 16]


def test_other_changes_are_no_cuts(clips):
    flash = clips[0].clone()
    flash[4] = 1
    independent = torch.stack([clip[0] for clip in clips])
    others = [*clips, flash, independent, add_colour_flicker(clips[0], 0), moving(7, 8), flickering(moving(1, 8))]
    assert [find_cuts(frames) for frames in others] == [[]] * len(others)
    assert find_cuts(independent[:2]) == find_cuts(independent[:1]) == []  # nothing to compare the change with


def test_pairs_across_a_cut_are_not_measured():
    """All pairs, as of `change`, and 64 evenly spaced ones, as of `flicker`."""
    metrics = {"sharpness": torch.ones(101), "change": torch.ones(100), "flicker": torch.ones(64)}
    masked = leave_out_cuts(metrics, [30, 75], 101)
    assert torch.equal(masked["sharpness"], metrics["sharpness"])
    for name in ("change", "flicker"):
        measured = find_second_frames(len(metrics[name]), 101)
        missing = measured[masked[name].isnan()].tolist()
        assert missing == [frame for frame in (30, 75) if frame in measured] and missing


def test_the_worst_flicker_is_named_apart_from_cuts(clips):
    frames = torch.cat([clips[0], clips[1]])
    frames[4] = (frames[4] + 0.2).clamp(0, 1)
    metrics = leave_out_cuts(measure_video(MeasuredClip.from_frames(frames)), find_cuts(frames), len(frames))
    assert metrics["flicker"].isnan().nonzero().flatten().tolist() == [7]
    assert find_worst_pair(metrics["flicker"]) + 1 in (4, 5)


def test_frame_numbers_as_text():
    assert [format_frames(frames) for frames in ([3], [3, 8], [3, 8, 12])] == [
        "frame 3",
        "frames 3 and 8",
        "frames 3, 8 and 12",
    ]

"""Parsing of ratios and choices, grids of videos, and the Pareto front."""

import numpy as np
import pytest
import torch

from bivdiff_core.measure import plots, video_grids, video_metrics


@pytest.mark.parametrize("text", ["0, .25 1", "0,0.25,1", " 0\n0.25;1".replace(";", " "), "0 25e-2 1,"])
def test_parse_ratios(text):
    assert video_grids.parse_ratios(text) == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0, half", "got 'half'"),
        ("1.5", "1.5 must lie"),
        (" , ", "no ratios"),
        ("nan", "nan must lie"),
    ],
)
def test_an_invalid_ratio_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        video_grids.parse_ratios(text)


def test_choices_keep_their_order():
    assert video_grids.parse_choices(" b,a\n c,", {"a": 1, "b": 2, "c": 3}) == ["b", "a", "c"]


@pytest.mark.parametrize(("text", "message"), [("a, d", "'d' is not one of a, b"), (" , ", "no choices.* a, b")])
def test_an_invalid_choice_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        video_grids.parse_choices(text, ("a", "b"))


def test_the_grid_shows_every_video_in_full_below_its_name():
    videos = [torch.full((3, 64, 48, 3), shade) for shade in (0.1, 0.3, 0.5, 0.7, 0.9)]
    grid = video_grids.tile_videos(videos, [f"ratio {i}" for i in range(5)])
    frames, height, width, _ = grid.shape
    assert frames == 3 and width == 3 * 48 * 4  # three columns, enlarged to at least 192 pixels
    for video in videos:
        assert (grid == video[0, 0, 0, 0]).all(dim=-1).sum() == 3 * 256 * 192
    captions = grid[:, : height // 2 - 256]
    assert (captions < 0.3).any() and captions.mean() > 0.8  # dark on white


def test_the_grid_moves():
    video = torch.rand(4, 64, 256, 3)
    grid = video_grids.tile_videos([video], ["ratio 1"])
    assert grid.shape[2] == 256 and torch.equal(grid[:, -64:], video)


def test_the_pareto_front():
    similarity, flicker = [0.9, 0.8, 0.7, 0.6, 0.6], [0.5, 0.2, 0.3, 0.1, 0.1]
    assert video_grids.find_pareto_front(similarity, flicker, [False] * 5) == [0, 1, 3, 4]
    assert video_grids.find_pareto_front(similarity, flicker, [False, True, False, False, False]) == [0, 2, 3, 4]


def random_images(count: int, seed: int) -> torch.Tensor:
    """Soft random images `[count, 64, 64, 3]`."""
    pattern = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(pattern, size=(64, 64), mode="bicubic").movedim(1, -1).clamp(0, 1)


def test_a_still_video_is_not_on_the_pareto_front():
    image = random_images(1, seed=0)[0]
    moving = torch.stack([image.roll(2 * t, 1) for t in range(4)])
    still = moving[:1].expand_as(moving)
    similarity, flicker, pareto_indices, is_degraded = video_grids.compare_videos([moving, still], moving)
    assert flicker[1] < flicker[0] and is_degraded == [False, True] and pareto_indices == [0]
    assert similarity[0] > similarity[1]


def test_with_the_source_a_video_with_another_motion_is_degraded():
    """Without it nothing is, because the frames of the reference share no motion."""
    image = random_images(1, seed=0)[0]
    moving, other_motion = (torch.stack([image.roll(speed * t, 1) for t in range(4)]) for speed in (2, -1))
    independent = random_images(4, seed=1)
    assert video_grids.compare_videos([independent, moving, other_motion], independent)[3] == [False, False, False]
    _, flicker, pareto_indices, is_degraded = video_grids.compare_videos(
        [independent, moving, other_motion], independent, source=video_metrics.SourceMotion.of(moving)
    )
    assert is_degraded[2] and 2 not in pareto_indices and flicker[1] < 0.2 * flicker[0]


def test_points_close_together_share_a_label():
    width, height = plots.LABEL_SIZE
    points = np.array([(0, 0), (width - 1, height - 1), (width, 0), (0, 2 * height), (5, 2 * height + 5)])
    assert plots.group_overlapping_labels(points) == [[0, 1], [2], [3, 4]]

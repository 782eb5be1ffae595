"""Grids of videos, and the Pareto front."""

import numpy as np
import torch

from bivdiff_core.measure import plots, video_grids


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


def test_points_close_together_share_a_label():
    width, height = plots.LABEL_SIZE
    points = np.array([(0, 0), (width - 1, height - 1), (width, 0), (0, 2 * height), (5, 2 * height + 5)])
    assert plots.group_overlapping_labels(points) == [[0, 1], [2], [3, 4]]

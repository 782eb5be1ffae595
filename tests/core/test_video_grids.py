"""Grids of videos, and the Pareto front."""

from pathlib import Path

import numpy as np
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from bivdiff_core.measure import plots, video_grids
from bivdiff_core.measure.label_fonts import default_font, find_font


def test_the_grid_shows_every_video_in_full_below_its_name():
    videos = [torch.full((3, 64, 48, 3), shade) for shade in (0.1, 0.3, 0.5, 0.7, 0.9)]
    grid = video_grids.tile_videos(videos, [f"ratio {i}" for i in range(5)], default_font())
    frames, height, width, _ = grid.shape
    assert frames == 3 and width == 3 * 48 * 4  # three columns, enlarged to at least 192 pixels
    for video in videos:
        assert (grid == video[0, 0, 0, 0]).all(dim=-1).sum() == 3 * 256 * 192
    captions = grid[:, : height // 2 - 256]
    assert (captions < 0.3).any() and captions.mean() > 0.8  # dark on white


def test_the_grid_moves():
    video = torch.rand(4, 64, 256, 3)
    grid = video_grids.tile_videos([video], ["ratio 1"], default_font())
    assert grid.shape[2] == 256 and torch.equal(grid[:, -64:], video)


def test_the_pareto_front():
    similarity, flicker = [0.9, 0.8, 0.7, 0.6, 0.6], [0.5, 0.2, 0.3, 0.1, 0.1]
    assert video_grids.find_pareto_front(similarity, flicker, [False] * 5) == [0, 1, 3, 4]
    assert video_grids.find_pareto_front(similarity, flicker, [False, True, False, False, False]) == [0, 2, 3, 4]


def test_points_close_together_share_a_label():
    width, height = plots.LABEL_SIZE
    points = np.array([(0, 0), (width - 1, height - 1), (width, 0), (0, 2 * height), (5, 2 * height + 5)])
    assert plots.group_overlapping_labels(points) == [[0, 1], [2], [3, 4]]


MISSING_CHARACTER = "\ufdd0"
"""A noncharacter, which no font has."""


def write_font(file: Path, text: str) -> None:
    """Write a font that shows a box for each character of a text, and nothing for others."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (600, 700), (600, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyphs = dict.fromkeys((f"glyph{i}" for i in range(len(text))), pen.glyph())
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *glyphs])
    font.setupCharacterMap(dict(zip(map(ord, text), glyphs, strict=True)))
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), **glyphs})
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs], (700, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Box", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(file)


def test_labels_get_a_font_that_has_their_characters(tmp_path, monkeypatch):
    assert find_font("ratio 0.5, \u03b1\u044f") == default_font()
    assert find_font(f"a{MISSING_CHARACTER}") is None
    file = tmp_path / "box.ttf"
    write_font(file, f"before{MISSING_CHARACTER}")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(file)
    assert find_font(f"before {MISSING_CHARACTER}") == file
    caption = video_grids.render_caption(MISSING_CHARACTER, 192, file)
    assert (caption == 0).any() and not (video_grids.render_caption("x", 192, file) < 1).any()


def plot_labels(*labels: str) -> torch.Tensor:
    return plots.plot_trade_off(list(labels), [0.5, 0.9], [0.2, 0.1], [1], [False, False], labels[0], default_font())


def test_labels_are_not_formulas():
    for labels in (("$\\frac$", "b"), ("$x", "y$"), ("a_{", "\\alpha"), ("$", "$$")):
        assert plot_labels(*labels).std() > 0.05
    assert not torch.equal(plot_labels("$\\alpha$", "b"), plot_labels("\u03b1", "b"))

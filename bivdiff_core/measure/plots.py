"""The reports' plots as IMAGEs `[1, H, W, 3]` in 0..1, rendered without a display or matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .video_metrics import METRIC_FORMATS, find_second_frames, find_worst_pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

GOOD, BAD, AFTER, BEFORE = "#66bb6a", "#ef5350", "#4fb3ff", "#e8a33d"
"""AFTER and BEFORE are those of Compare Videos (js/compare_videos.js)."""
PAPER, TEXT, NEUTRAL = "#262626", "#e0e0e0", "#b0bec5"
"""Dark, like the node."""
WIDTH, DPI = 360, 200
"""Width of a page on the node, in pixels at 100 per inch. It is rendered at `DPI`, twice that, for zooming in."""
TITLE_POINTS, TEXT_POINTS, TICK_POINTS = 7, 8, 6.5
LABEL_SIZE = 120, 30
"""Width and height, in pixels, that a point's label needs."""
MAX_SHOWN_FRAMES = 9


def new_page(height: int, caption: str) -> Figure:
    """An empty page of `height` pixels with a caption above."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(WIDTH / 100, height / 100), dpi=DPI, layout="constrained", facecolor=PAPER)
    page.suptitle(caption, color=NEUTRAL, fontsize=TEXT_POINTS)
    return page


def render_page(page: Figure) -> Tensor:
    """A page as an IMAGE `[1, H, W, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(page)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[None, ..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def label_panel(axes: Axes, title: str, x_label: str, colour: str = TEXT) -> None:
    """Set a panel's title and the label below it, and its colours."""
    axes.set_facecolor(PAPER)
    axes.spines[:].set_color(NEUTRAL)
    axes.set_title(title, fontsize=TITLE_POINTS, color=colour, loc="left")
    axes.set_xlabel(x_label, fontsize=TICK_POINTS, color=NEUTRAL, loc="left")
    axes.tick_params(labelsize=TICK_POINTS, colors=NEUTRAL)
    axes.grid(axis="y", alpha=0.3)


def use_integer_ticks(axes: Axes, count: int) -> None:
    """Ticks at integers (frames or channels)."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6, count - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def choose_colour(value: float, bounds: tuple[float, float], healthy_colour: str) -> str:
    """`healthy_colour` if the value is within its bounds, otherwise red."""
    low, high = bounds
    return healthy_colour if low <= value <= high else BAD


def plot_dots(axes: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    """Plot values as dots, red outside their bounds, over a green band that shows the bounds."""
    colours = [choose_colour(value, bounds, AFTER) for value in values]
    axes.scatter(range(len(values)), values, c=colours, s=14, zorder=2)
    low, high = bounds
    axes.axhspan(low, high, color=GOOD, alpha=0.15, zorder=0)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, low - (high - low) / 2), max(top, high + (high - low) / 2))


def plot_line(axes: Axes, value: float, bounds: tuple[float, float]) -> None:
    """Plot the whole clip's value as a line over a green band of its bounds, which are narrower than for a frame."""
    axes.axhspan(*bounds, color=GOOD, alpha=0.15, zorder=0)
    axes.axhline(value, color=choose_colour(value, bounds, AFTER), linewidth=1)


def plot_latent_report(
    frames: Tensor, measured: dict[str, Tensor], bounds: dict[str, tuple[float, float]], bad: list[int]
) -> Tensor:
    """Plot frames `[F, C, H, W]` of a latent as images next to white noise, above their figures and healthy ranges.

    Args:
        frames: from `flatten_to_frames`.
        measured: from `measure_latent`.
        bounds: from `sampling_limits`.
        bad: indices of bad frames, shown in red.
    """
    page = new_page(480, "Frames should look like the white noise: no shapes")
    top, bottom = page.subfigures(2, 1, squeeze=False, height_ratios=[1, 2], facecolor=PAPER).flat
    _show_latent_frames(top, frames, bad)
    bottom.suptitle("Dots are frames, lines the clip; green is healthy", fontsize=TEXT_POINTS, color=NEUTRAL)
    (std, spatial), (spectrum, channels) = bottom.subplots(2, 2)
    values = {name: figures.numpy() for name, figures in measured.items()}
    for axes, name, title, expected in ((std, "std", "Noise std", 1), (spatial, "spatial", "Spatial correlation", 0)):
        value, frame_name = values[name].item(), f"frame {name}"
        plot_line(axes, value, bounds[name])
        plot_dots(axes, values[frame_name], bounds[frame_name])
        colour = choose_colour(value, bounds[name], GOOD)
        label_panel(axes, f"{title}: {value:.2f}", f"frame; expected {expected}", colour)
        use_integer_ticks(axes, len(frames))

    bands = values["bands"]
    spectrum.plot(values["frame bands"].T, color=NEUTRAL, alpha=0.4, linewidth=0.8)
    plot_dots(spectrum, bands, bounds["bands"])
    colour = choose_colour(max(bands, key=lambda band: abs(band - 1)), bounds["bands"], GOOD)
    label_panel(spectrum, f"Band power: {bands[0]:.2f} to {bands[-1]:.2f}", "size of detail; expected 1", colour)
    spectrum.set_xticks(range(4), ["coarse", "", "", "fine"])

    channels.plot(values["channel std"], "o", color=AFTER, markersize=4)
    channels.plot(values["channel mean"], "s", color=BEFORE, markersize=4)
    label_panel(channels, "Channel std and mean", "blue expected 1, orange 0")
    use_integer_ticks(channels, len(values["channel std"]))
    return render_page(page)


def _show_latent_frames(page: SubFigure, frames: Tensor, bad: list[int]) -> None:
    """Show up to `MAX_SHOWN_FRAMES` frames, all bad ones if possible, and white noise after them."""
    noise = torch.randn(frames.shape[1:], generator=torch.Generator().manual_seed(0))
    samples = torch.linspace(0, len(frames) - 1, min(len(frames), MAX_SHOWN_FRAMES)).round().long().tolist()
    indices = sorted([*bad, *(i for i in samples if i not in bad)][:MAX_SHOWN_FRAMES])
    grid = page.subplots(2, (MAX_SHOWN_FRAMES + 1) // 2).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, i in zip(grid, [*indices, None], strict=False):
        latent = noise if i is None else frames[i]
        grey = latent.sum(dim=0) / len(latent) ** 0.5  # white noise stays of unit variance
        axes.imshow(grey.numpy(), cmap="gray", vmin=-2.5, vmax=2.5, interpolation="nearest")
        name = "white noise" if i is None else f"frame {i}"
        colour = NEUTRAL if i is None else BAD if i in bad else AFTER
        axes.set_title(name, fontsize=TICK_POINTS, color=colour, pad=2)


def plot_temporal_report(
    after: dict[str, Tensor], before: dict[str, Tensor] | None, warnings: Collection[str]
) -> Tensor:
    """A panel for each metric of a video, frame by frame, with the video before if any; those with warnings in red.

    A metric of a pair of frames is at the second frame. A red ring marks the worst flicker.
    """
    rows = math.ceil(len(after) / 2)
    frame_count = len(after["sharpness"])
    page = new_page(50 + 110 * rows, "Frame by frame: orange is before, blue is after" if before else "Frame by frame")
    grid = page.subplots(rows, 2).flatten()
    for axes, (name, values) in zip(grid, after.items(), strict=False):
        form, meaning = METRIC_FORMATS[name]
        mean = form.format(values.nanmean())
        is_of_pairs = len(values) < frame_count
        frames = find_second_frames(len(values), frame_count) if is_of_pairs else torch.arange(frame_count)
        if before and name in before:
            axes.plot(frames, before[name], "o-", color=BEFORE, markersize=2)
            mean = f"{form.format(before[name].nanmean())} -> {mean}"
        axes.plot(frames, values, "o-", color=AFTER, markersize=2)
        if name == "flicker":
            worst = find_worst_pair(values)
            axes.plot(frames[worst], values[worst], "o", color=BAD, fillstyle="none", markersize=7)
        label_panel(axes, f"{name}: {mean}", meaning, BAD if name in warnings else TEXT)
        use_integer_ticks(axes, frame_count)
        if name in ("flicker", "motion", "sharpness"):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    for axes in grid[len(after) :]:
        axes.set_axis_off()
    return render_page(page)


def plot_trade_off(
    names: list[str],
    similarity: list[float],
    flicker: list[float],
    pareto_indices: list[int],
    is_degraded: list[bool],
    reference_name: str,
    font: Path,
) -> Tensor:
    """Plot videos as points: less flicker is up, more similarity to the reference is right.

    Args:
        similarity, flicker: mean similarity and mean flicker of each video.
        pareto_indices: videos on the Pareto front, joined by a line.
        is_degraded: whether each video lost its motion or sharpness.
        reference_name: name of the reference of the similarity.
        font: file of the names' font, from `label_fonts.find_font`. Names are shown as they are: `$` begins no formula.
    """
    page = new_page(380, "Up is steadier, right is closer to the frames")
    axes = page.subplots()
    kinds = {
        "no other is better in both": ("o", GOOD, pareto_indices),
        "another is steadier and closer": (
            "o",
            NEUTRAL,
            [i for i in range(len(names)) if i not in pareto_indices and not is_degraded[i]],
        ),
        "steady because still, blurred or averaged": ("X", BAD, [i for i in range(len(names)) if is_degraded[i]]),
    }
    for label, (marker, colour, members) in kinds.items():
        if members:
            points = [similarity[i] for i in members], [flicker[i] for i in members]
            axes.scatter(*points, s=40, marker=marker, color=colour, label=label, zorder=2)
    front = sorted(pareto_indices, key=lambda i: similarity[i])
    axes.plot([similarity[i] for i in front], [flicker[i] for i in front], color=GOOD, zorder=1)
    axes.margins(0.3, 0.2)
    axes.invert_yaxis()
    for marker, _, members in kinds.values():
        offset = (6, -10) if marker == "X" else (6, 4)
        positions = [(similarity[i], flicker[i]) for i in members]
        for group in group_overlapping_labels(axes.transData.transform(positions) if positions else np.empty((0, 2))):
            label = ", ".join(names[members[i]] for i in group)
            text = axes.annotate(label, positions[group[0]], textcoords="offset points", xytext=offset)
            text.set(font=font, fontsize=TEXT_POINTS, color=TEXT, parse_math=False)
    label_panel(axes, "", f"similarity to {reference_name} (SSIM, 1 is identical)")
    axes.xaxis.label.set(font=font, fontsize=TICK_POINTS, parse_math=False)
    axes.set_ylabel("flicker (squared change along the motion)", fontsize=TICK_POINTS, color=NEUTRAL)
    page.legend(fontsize=TICK_POINTS, loc="outside lower center", labelcolor=TEXT, facecolor=PAPER, edgecolor=NEUTRAL)
    return render_page(page)


def group_overlapping_labels(points: np.ndarray) -> list[list[int]]:
    """Group points `[N, 2]`, in pixels, whose labels would overlap the label of the group's first point."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        for members in groups:
            if (np.abs(point - points[members[0]]) < LABEL_SIZE).all():
                members.append(i)
                break
        else:
            groups.append([i])
    return groups

"""The reports' pictures: IMAGEs `[1, H, W, 3]` in 0..1, drawn without a display or matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .video_metrics import METRIC_FORMATS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD, BAD, NEUTRAL, AFTER, BEFORE = "#2e7d32", "#c62828", "#37474f", "#1565c0", "#9e9e9e"
WIDTH, DPI = 360, 200
"""A page is as wide as a node, at a hundred of its pixels an inch, and drawn at twice that for whoever zooms in."""
TITLE, TEXT_POINTS, TICKS = 7, 8, 6.5  # points
LABEL_SIZE = 120, 30
"""Width and height, in pixels, of the room that a point's label needs."""
MAX_SHOWN_FRAMES = 9


def new_page(height: int, caption: str) -> Figure:
    """An empty page of a height in pixels under a caption."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(WIDTH / 100, height / 100), dpi=DPI, layout="constrained")
    page.suptitle(caption, color=NEUTRAL, fontsize=TEXT_POINTS)
    return page


def render_page(page: Figure) -> Tensor:
    """A page as an IMAGE `[1, H, W, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(page)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[None, ..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def label_panel(axes: Axes, title: str, below: str, colour: str = "black") -> None:
    """Name a panel, and say below it what lies along it or how to read it."""
    axes.set_title(title, fontsize=TITLE, color=colour, loc="left")
    axes.set_xlabel(below, fontsize=TICKS, color=NEUTRAL, loc="left")
    axes.tick_params(labelsize=TICKS)
    axes.grid(axis="y", alpha=0.3)


def use_integer_ticks(axes: Axes, count: int) -> None:
    """Ticks at whole frames or channels."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6, count - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def choose_colour(value: float, bounds: tuple[float, float], fine: str) -> str:
    """A colour for a figure, red out of its bounds."""
    low, high = bounds
    return fine if low <= value <= high else BAD


def plot_dots(axes: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    """Values as dots, red where they lie out of their bounds, and those shaded with room around."""
    colours = [choose_colour(value, bounds, AFTER) for value in values]
    axes.scatter(range(len(values)), values, c=colours, s=14, zorder=2)
    low, high = bounds
    axes.axhspan(low, high, color=GOOD, alpha=0.15, zorder=0)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, low - (high - low) / 2), max(top, high + (high - low) / 2))


def plot_line(axes: Axes, value: float, bounds: tuple[float, float]) -> None:
    """The whole clip's value as a line, and where it may lie, which is narrower than for a frame."""
    axes.axhspan(*bounds, color=GOOD, alpha=0.15, zorder=0)
    axes.axhline(value, color=choose_colour(value, bounds, AFTER), linewidth=1)


def plot_latent_report(
    frames: Tensor, measured: dict[str, Tensor], bounds: dict[str, tuple[float, float]], bad: list[int]
) -> Tensor:
    """Frames `[F, C, H, W]` of a latent as pictures, beside white noise, over their figures and what is healthy."""
    values = {name: figures.numpy() for name, figures in measured.items()}
    page = new_page(480, "Frames should look like the white noise: no shapes")
    top, bottom = page.subfigures(2, 1, squeeze=False, height_ratios=[1, 2]).flat

    noise = torch.randn(frames.shape[1:], generator=torch.Generator().manual_seed(0))
    evenly = torch.linspace(0, len(frames) - 1, min(len(frames), MAX_SHOWN_FRAMES)).round().long().tolist()
    shown = sorted([*bad, *(i for i in evenly if i not in bad)][:MAX_SHOWN_FRAMES])
    grid = top.subplots(2, (MAX_SHOWN_FRAMES + 1) // 2).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, i in zip(grid, [*shown, None], strict=False):
        latent = noise if i is None else frames[i]
        grey = latent.sum(dim=0) / len(latent) ** 0.5  # white noise stays of unit variance
        axes.imshow(grey.numpy(), cmap="gray", vmin=-2.5, vmax=2.5, interpolation="nearest")
        name = "white noise" if i is None else f"frame {i}"
        axes.set_title(name, fontsize=TICKS, color=NEUTRAL if i is None else BAD if i in bad else AFTER, pad=2)

    bottom.suptitle("Dots are frames, lines the clip; healthy on green", fontsize=TEXT_POINTS, color=NEUTRAL)
    (deviation, correlation), (spectrum, channels) = bottom.subplots(2, 2)
    count, std, spatial = len(frames), values["std"].item(), values["spatial"].item()
    coarse, fine = values["bands"][0], values["bands"][-1]

    plot_line(deviation, std, bounds["std"])
    plot_dots(deviation, values["frame std"], bounds["frame std"])
    label_panel(deviation, f"Noise std: {std:.2f}", "frame; expected 1", choose_colour(std, bounds["std"], GOOD))
    use_integer_ticks(deviation, count)

    plot_line(correlation, spatial, bounds["spatial"])
    plot_dots(correlation, values["frame spatial"], bounds["frame spatial"])
    title = f"Spatial correlation: {spatial:.2f}"
    label_panel(correlation, title, "frame; expected 0", choose_colour(spatial, bounds["spatial"], GOOD))
    use_integer_ticks(correlation, count)

    spectrum.plot(values["frame bands"].T, color=BEFORE, alpha=0.4, linewidth=0.8)
    plot_dots(spectrum, values["bands"], bounds["bands"])
    worst = max(values["bands"], key=lambda band: abs(band - 1))
    title = f"Band power: {coarse:.2f} to {fine:.2f}"
    label_panel(spectrum, title, "size of detail; expected 1", choose_colour(worst, bounds["bands"], GOOD))
    spectrum.set_xticks(range(4), ["coarse", "", "", "fine"])

    channels.plot(values["channel std"], "o", color=AFTER, markersize=4)
    channels.plot(values["channel mean"], "s", color=BEFORE, markersize=4)
    label_panel(channels, "Channel std and mean", "blue expected 1, grey 0")
    use_integer_ticks(channels, len(values["channel std"]))
    return render_page(page)


def plot_temporal_report(
    after: dict[str, Tensor], before: dict[str, Tensor] | None, cautioned: Collection[str]
) -> Tensor:
    """A panel for each figure of a video, frame by frame, over the video before; ``cautioned`` are those in red."""
    rows = math.ceil(len(after) / 2)
    page = new_page(50 + 110 * rows, "Frame by frame: grey is before, blue is after" if before else "Frame by frame")
    grid = page.subplots(rows, 2).flatten()
    for axes, (name, values) in zip(grid, after.items(), strict=False):
        form, meaning = METRIC_FORMATS[name]
        mean = form.format(values.nanmean())
        if before and name in before:
            axes.plot(before[name].numpy(), "o-", color=BEFORE, markersize=2)
            mean = f"{form.format(before[name].nanmean())} -> {mean}"
        axes.plot(values.numpy(), "o-", color=AFTER, markersize=2)
        label_panel(axes, f"{name}: {mean}", meaning, BAD if name in cautioned else "black")
        use_integer_ticks(axes, len(values))
        if name in ("flicker", "motion", "sharpness"):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    for axes in grid[len(after) :]:
        axes.set_axis_off()
    return render_page(page)


def plot_trade_off(
    names: list[str], similarity: list[float], flicker: list[float], best: list[int], lost: list[bool], against: str
) -> Tensor:
    """Videos as points, steadier upwards and more like a reference rightwards.

    Args:
        similarity, flicker: mean similarity and mean flicker of each.
        best: those that no other beats in both, to be joined by a line.
        lost: whether a video paid with its motion or sharpness.
        against: what the similarity is to.
    """
    page = new_page(380, "Up is steadier, right is closer to the frames")
    axes = page.subplots()
    kinds = {
        "no other is better in both": ("o", GOOD, best),
        "another is steadier and closer": (
            "o",
            BEFORE,
            [i for i in range(len(names)) if i not in best and not lost[i]],
        ),
        "steady because still, blurred or averaged": ("X", BAD, [i for i in range(len(names)) if lost[i]]),
    }
    for label, (marker, colour, members) in kinds.items():
        if members:
            points = [similarity[i] for i in members], [flicker[i] for i in members]
            axes.scatter(*points, s=40, marker=marker, color=colour, label=label, zorder=2)
    along = sorted(best, key=lambda i: similarity[i])
    axes.plot([similarity[i] for i in along], [flicker[i] for i in along], color=GOOD, zorder=1)
    axes.margins(0.3, 0.2)
    axes.invert_yaxis()
    for marker, _, members in kinds.values():
        beside = (6, -10) if marker == "X" else (6, 4)
        at = [(similarity[i], flicker[i]) for i in members]
        for group in group_overlapping_labels(axes.transData.transform(at) if at else np.empty((0, 2))):
            label = ", ".join(names[members[i]] for i in group)
            axes.annotate(label, at[group[0]], textcoords="offset points", xytext=beside, fontsize=TEXT_POINTS)
    label_panel(axes, "", f"similarity to {against} (SSIM, 1 is the same)")
    axes.set_ylabel("flicker (squared change along the motion)", fontsize=TICKS, color=NEUTRAL)
    page.legend(fontsize=TICKS, loc="outside lower center")
    return render_page(page)


def group_overlapping_labels(places: np.ndarray) -> list[list[int]]:
    """Points `[N, 2]`, in pixels, in groups whose labels would lie over that of their first."""
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        for members in groups:
            if (np.abs(place - places[members[0]]) < LABEL_SIZE).all():
                members.append(i)
                break
        else:
            groups.append([i])
    return groups

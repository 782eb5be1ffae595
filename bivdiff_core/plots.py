"""The reports' pictures: IMAGEs `[1, H, W, 3]` in 0..1, drawn without a display or matplotlib's global state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .metrics import FIGURES, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD, BAD, NEUTRAL, NOW, BEFORE = "#2e7d32", "#c62828", "#37474f", "#1565c0", "#9e9e9e"
DPI = 100
SHOWN_FRAMES = 8


def figure(width: int, height: int, title: str, colour: str) -> Figure:
    """An empty page of a size in pixels under a headline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(page)
    page.suptitle(title, color=colour, fontsize=15, fontweight="bold")
    return page


def picture(page: Figure) -> Tensor:
    """A page as an IMAGE `[1, H, W, 3]`."""
    page.canvas.draw()
    pixels = np.asarray(page.canvas.buffer_rgba())[None, ..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def panel(axes: Axes, title: str, bottom: str, colour: str = "black") -> None:
    """Name a panel and what lies along it."""
    axes.set_title(title, fontsize=10, color=colour)
    axes.set_xlabel(bottom, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.3)


def whole_numbers(axes: Axes, count: int) -> None:
    """Ticks at whole frames or channels."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6, count - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def colour_of(value: float, bounds: tuple[float, float], fine: str) -> str:
    """A colour for a figure, red out of its bounds."""
    low, high = bounds
    return fine if low <= value <= high else BAD


def dots(axes: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    """Values as dots, red where they lie out of their bounds, and those shaded with room around."""
    colours = [colour_of(value, bounds, NOW) for value in values]
    axes.scatter(range(len(values)), values, c=colours, s=45, zorder=2)
    low, high = bounds
    axes.axhspan(low, high, color=GOOD, alpha=0.15, zorder=0)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, low - (high - low) / 2), max(top, high + (high - low) / 2))


def line(axes: Axes, value: float, bounds: tuple[float, float]) -> None:
    """The whole clip's value as a line, and where it may lie, which is narrower than for a frame."""
    axes.axhspan(*bounds, color=GOOD, alpha=0.15, zorder=0)
    axes.axhline(value, color=colour_of(value, bounds, NOW), linewidth=1.5)


def latent_report(
    frames: Tensor,
    measured: dict[str, Tensor],
    bounds: dict[str, tuple[float, float]],
    headline: str,
    alarm: bool,
    bad: list[int],
) -> Tensor:
    """Frames `[F, C, H, W]` of a latent as pictures, beside white noise, over their figures and what is healthy."""
    measured = {name: values.numpy() for name, values in measured.items()}
    page = figure(1200, 640, headline, BAD if alarm else GOOD)
    top, bottom = page.subfigures(2, 1, height_ratios=[1, 1.6])

    top.suptitle("Every frame should look like the white noise on the right: no shapes, no flat areas", fontsize=10)
    noise = torch.randn(frames.shape[1:], generator=torch.Generator().manual_seed(0))
    evenly = torch.linspace(0, len(frames) - 1, min(len(frames), SHOWN_FRAMES)).round().long().tolist()
    shown = sorted([*bad, *(i for i in evenly if i not in bad)][:SHOWN_FRAMES])
    for axes, i in zip(top.subplots(1, len(shown) + 1), [*shown, None], strict=True):
        latent = noise if i is None else frames[i]
        grey = latent.sum(dim=0) / len(latent) ** 0.5  # white noise stays of unit variance
        axes.imshow(grey.numpy(), cmap="gray", vmin=-2.5, vmax=2.5, interpolation="nearest")
        name = "white noise" if i is None else f"frame {i}"
        axes.set_title(name, fontsize=9, color=NEUTRAL if i is None else BAD if i in bad else NOW)
        axes.set_axis_off()

    bottom.suptitle(
        "Green is healthy: light for a frame (dots), dark for the whole clip (line). Red lies outside.", fontsize=10
    )
    deviation, correlation, spectrum, channels = bottom.subplots(1, 4)
    count, std, spatial = len(frames), measured["std"], measured["spatial"]
    coarse, fine = measured["bands"][0], measured["bands"][-1]

    line(deviation, std, bounds["std"])
    dots(deviation, measured["frame std"], bounds["frame std"])
    title = f"Noise std: {std:.2f}\n1 is noise; less makes the video dull"
    panel(deviation, title, "frame", colour_of(std, bounds["std"], GOOD))
    whole_numbers(deviation, count)

    correlation.plot(
        np.arange(count - 1) + 0.5, measured["temporal"], "s--", color=BEFORE, label="frame to frame, no fault"
    )
    line(correlation, spatial, bounds["spatial"])
    dots(correlation, measured["frame spatial"], bounds["frame spatial"])
    title = f"Spatial correlation: {spatial:.2f}\n0 is noise; more is structure"
    panel(correlation, title, "frame", colour_of(spatial, bounds["spatial"], GOOD))
    correlation.legend(fontsize=8, loc="upper right")
    whole_numbers(correlation, count)

    spectrum.plot(measured["frame bands"].T, color=BEFORE, alpha=0.4, linewidth=0.8)
    dots(spectrum, measured["bands"], bounds["bands"])
    title = f"Coarse {coarse:.2f}, fine {fine:.2f}\n1 is noise; lines are frames"
    worst = max(measured["bands"], key=lambda band: abs(band - 1))
    panel(spectrum, title, "size of detail", colour_of(worst, bounds["bands"], GOOD))
    spectrum.set_xticks(range(4), ["coarse", "", "", "fine"])

    channels.axhline(1, color=NOW, linewidth=0.8)
    channels.axhline(0, color=BEFORE, linewidth=0.8)
    channels.plot(measured["channel std"], "o", color=NOW, label="std, 1 is noise")
    channels.plot(measured["channel mean"], "s", color=BEFORE, label="mean, 0 is noise")
    panel(channels, "Channels\na mean off 0 tints the video", "channel")
    channels.legend(fontsize=8, loc="center right")
    whole_numbers(channels, len(measured["channel std"]))
    return picture(page)


def temporal_report(after: dict[str, Tensor], before: dict[str, Tensor] | None, verdict: Verdict) -> Tensor:
    """A panel for each figure of a video, frame by frame, over the video before."""
    colour = {True: GOOD, False: BAD, None: NEUTRAL}[verdict.good]
    columns = max(3, math.ceil(len(after) / 2))
    page = figure(400 * columns, 700, verdict.headline, colour)
    grid = page.subplots(2, columns).flatten()
    for axes, (name, values) in zip(grid, after.items(), strict=False):
        form, meaning = FIGURES[name]
        mean = form.format(values.nanmean())
        if before and name in before:
            axes.plot(before[name].numpy(), "o-", color=BEFORE, label="before", markersize=4)
            mean = f"{form.format(before[name].nanmean())} -> {mean}"
        axes.plot(values.numpy(), "o-", color=NOW, label="after" if before else None, markersize=4)
        along = "frame" if len(values) == len(after["sharpness"]) else "frame pair"
        panel(axes, f"{name}: {mean}\n{meaning}", along, BAD if name in verdict.cautions else "black")
        whole_numbers(axes, len(values))
        if name in ("flicker", "motion", "sharpness"):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        if before and name in before:
            axes.legend(fontsize=8)
    for axes in grid[len(after) :]:
        axes.set_axis_off()
    return picture(page)


def trade_off(
    names: list[str], similarity: list[float], flicker: list[float], best: list[int], lost: list[bool], against: str
) -> Tensor:
    """Videos as points, steadier upwards and more like a reference rightwards.

    Args:
        similarity, flicker: mean similarity and mean flicker of each.
        best: those that no other beats in both, to be joined by a line.
        lost: whether a video paid with its motion or sharpness.
        against: what the similarity is to.
    """
    page = figure(840, 640, "What each choice buys: up is steadier, right is closer to the frames", NEUTRAL)
    axes = page.subplots()
    kinds = {
        "no other is better in both": ("o", GOOD, best),
        "another is steadier and closer": (
            "o",
            BEFORE,
            [i for i in range(len(names)) if i not in best and not lost[i]],
        ),
        "steady because still or blurred": ("X", BAD, [i for i in range(len(names)) if lost[i]]),
    }
    for label, (marker, colour, members) in kinds.items():
        if members:
            points = [similarity[i] for i in members], [flicker[i] for i in members]
            axes.scatter(*points, s=90, marker=marker, color=colour, label=label, zorder=2)
    along = sorted(best, key=lambda i: similarity[i])
    axes.plot([similarity[i] for i in along], [flicker[i] for i in along], color=GOOD, zorder=1)
    for name, x, y in zip(names, similarity, flicker, strict=True):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(9, 7), fontsize=10)
    axes.margins(0.2)
    axes.invert_yaxis()
    panel(axes, "", f"similarity to {against} (SSIM, 1 is the same)")
    axes.set_ylabel("flicker left (squared change along the motion, 0 is none)", fontsize=9)
    axes.legend(fontsize=9, loc="best")
    return picture(page)

"""Run the demo versions of the shipped workflows, and write their cards next to the workflow files.

    python -m tools.thumbnails [NAME ...]

A card is square, as ComfyUI's are. It compares two adjacent frames before and after the workflow, from a run on the
demo models and the packaged clip. The sweep's card shows its grid and its plot. Workflows that frames cannot explain
get a diagram.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from batch.comfyui_server import ComfyUIServer
from research import toy_world
from research.demo_chain import add_colour_flicker
from tools.contact_sheet import resize_to_square
from tools.in_process_comfyui import COMFYUI
from tools.video_files import read_frames, write_demo_inputs
from tools.write_workflows import FILES, RECIPES, build_workflow

CARD, BACKGROUND = 512, "#171718"
FRAMES = 3, 4
"""The frames on a card."""
LEFT_TITLES = dict.fromkeys(("t2i_adapter", "animatediff", "borrowed_control"), "Control")
LEFT_TITLES |= dict.fromkeys(("zeroscope", "tile_upscale"), "Frame-wise")
"""Preview title of the left side, if it is not the source."""
STAGES = {
    "stages_demo": ("Source", "Control", "Frame-wise", "Smoothed"),
    "controlnet": ("Source", "Control", "Frame-wise", "Smoothed"),
}
"""Preview titles of the stages that the cards of the long graphs show: four frames of each, or one."""
GREY, BLUE, GREEN = "#3f5159", "#3f789e", "#335533"
DIAGRAMS = {
    "wan": (("Wan inverts\nsingle frames", "Wan inverts\nthe clip"), ("mixed",), ("Wan denoises:\na smooth video",)),
    "saved_inversion": (("inverted",), ("saved",), ("ratio 0.2", "ratio 0.5", "ratio 0.8")),
    "folder": (("one chain,\none prompt",), ("clip 1, smooth", "clip 2, smooth", "clip 3, smooth")),
    "qwen_edit": (("Qwen edits\nframe 1", "Qwen edits\nframe 2", "Qwen edits\nframe 3"), ("Wan: one\nsmooth video",)),
    "kontext": (("Kontext\nedits",), ("Wan\ninverts",), ("Wan denoises:\na smooth video",)),
    "wan_experts": (("inverted\nby both",), ("high-noise\nexpert", "low-noise\nexpert"), ("smooth\nvideo",)),
    "vace": (("your frames", "outlines of\nthe source"), ("VACE inverts\nthe clip", "VACE smooths\nthe clip")),
    "part_again": (("a part,\nsmoothed again", "the rest\nstays"), ("one\nvideo",)),
    "ltx2": (("every\neighth frame", "the clip"), ("LTX-2\ninverts",), ("LTX-2\ndenoises",)),
}
"""Rows of boxes. Each box is connected to all boxes of the next row, the frames to those of the first."""


def make_card(name: str, read: Callable[[str], Tensor]) -> Image.Image:
    """The card of a workflow; ``read`` returns the frames `[F, H, W, 3]` of the preview with a title."""
    if name == "sweep":
        return stack_grid_and_plot(read("Smoothed"), read("Plot"))
    if name == "stages_demo":
        return tile_frames([frame for title in STAGES[name] for frame in read(title)[::2]])
    if name == "controlnet":
        return tile_frames([read(title)[FRAMES[0]] for title in STAGES[name]])
    if name in ("deflicker_demo", "controlnet_node"):
        before, after = read("Before and after").chunk(2)
    else:
        before, after = read(LEFT_TITLES.get(name, "Source")), read("Smoothed")
    if name == "controlnet_node":
        before = toy_world.canny_hints(toy_world.packaged_clip().frames)
    card = tile_frames([video[t] for t in FRAMES for video in (before, after)])
    draw_slider(card)
    return card


def tile_frames(frames: list[Tensor]) -> Image.Image:
    """A card of 4 or 16 frames `[H, W, 3]`, row by row."""
    count = math.isqrt(len(frames))
    side = CARD // count
    card = Image.new("RGB", (CARD, CARD))
    for i, frame in enumerate(frames):
        card.paste(resize_to_square(frame, side), (i % count * side, i // count * side))
    return card


def draw_slider(card: Image.Image) -> None:
    """Draw the line of a before-and-after comparison, with its handle."""
    draw, middle, radius, reach = ImageDraw.Draw(card), CARD // 2, 22, 5
    draw.line((middle, 0, middle, CARD), "white", 4)
    draw.circle((middle, middle), radius, "white")
    for side in (-1, 1):
        near, far = middle + 6 * side, middle + (6 + 2 * reach) * side
        draw.polygon([(far, middle), (near, middle - 2 * reach), (near, middle + 2 * reach)], BACKGROUND)


def stack_grid_and_plot(grid: Tensor, plot: Tensor) -> Image.Image:
    """The middle frame of a sweep's grid, and the plot under it."""
    pictures = [to_pil_image(images[len(images) // 2].movedim(-1, 0)) for images in (grid, plot)]
    pictures = [ImageOps.contain(picture, (CARD, CARD // 2), Image.Resampling.BICUBIC) for picture in pictures]
    card = Image.new("RGB", (CARD, CARD), BACKGROUND)
    y = (CARD - sum(picture.height for picture in pictures)) // 2
    for picture in pictures:
        card.paste(picture, ((CARD - picture.width) // 2, y))
        y += picture.height
    return card


def draw_diagram(name: str) -> Image.Image:
    """Draw flickering frames, of another clip for each workflow, and rows of boxes for the steps that process them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(CARD / 100, CARD / 100), dpi=100, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    centre, side, gap = CARD / 2, 128, 12
    rows, clip = DIAGRAMS[name], toy_world.held_out_clip("hard", sorted(DIAGRAMS).index(name))
    for i, frame in enumerate(add_colour_flicker(clip.frames[:3], seed=0)):
        left = centre + (i - 1) * (side + gap) - side / 2
        axes.imshow(frame, extent=(left, left + side, CARD - 24 - side, CARD - 24), zorder=2)
    starts = [(centre, CARD - 24 - side)]
    for row, y in zip(rows, np.linspace(290, 60, len(rows)) if len(rows) > 2 else (265, 95), strict=True):
        colour = GREEN if row is rows[-1] else GREY if row is rows[0] else BLUE
        style = {"boxstyle": "round,pad=0.6", "facecolor": colour, "edgecolor": "none"}
        ends = [(centre + 165 * (i - (len(row) - 1) / 2), y) for i in range(len(row))]
        for text, end in zip(row, ends, strict=True):
            axes.text(*end, text, color="white", fontsize=12, ha="center", va="center", bbox=style, zorder=3)
            for start in starts:
                axes.plot(*zip(start, end, strict=True), color="#ff9cf9", linewidth=2.5, zorder=1)
        starts = ends
    axes.set(xlim=(0, CARD), ylim=(0, CARD))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def main() -> None:
    """Write the cards of all workflows, or of those named."""
    names = sys.argv[1:] or sorted(RECIPES)
    with tempfile.TemporaryDirectory() as base, ComfyUIServer(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        write_demo_inputs(server.base / "input", toy_world.packaged_clip())
        object_info = server.object_info()
        for name in names:
            if name in DIAGRAMS:
                picture = draw_diagram(name)
            else:
                prompt = convert_ui_to_api(build_workflow(name, object_info, demo=True), object_info)
                run = server.run(prompt)
                if run.error:
                    sys.exit(f"{name}: {run.error}")
                picture = make_card(name, partial(read_frames, server, run, prompt))
            picture.save(FILES[name].with_suffix(".jpg"), quality=90)
            print(name, flush=True)


if __name__ == "__main__":
    main()

"""Run the demo versions of the shipped workflows, and write the thumbnails next to the workflow files.

    python -m tools.thumbnails [NAME ...]

The upper row of a thumbnail shows the input of the task, the lower row the smoothed video, both from a real run on the
demo models and the packaged clip. The sweep's thumbnail shows its grid and its plot. Workflows that frames cannot
explain get a diagram.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from batch.comfyui_server import ComfyUIServer
from research import toy_world
from research.demo_chain import add_colour_flicker
from tools.contact_sheet import make_contact_sheet
from tools.in_process_comfyui import COMFYUI
from tools.video_files import read_frames, write_demo_inputs
from tools.write_workflows import FILES, RECIPES, build_workflow

UPPER_ROW_TITLES = dict.fromkeys(("controlnet", "t2i_adapter", "animatediff", "borrowed_control"), "Control")
UPPER_ROW_TITLES |= dict.fromkeys(("zeroscope", "tile_upscale"), "Frame-wise")
"""Preview title of the upper row, if it is not the source."""
STAGES = ("Control", "Frame-wise", "No structure pass", "Smoothed")
"""Preview titles of the rows in the thumbnail of the demo by stages."""
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
"""Columns of boxes. Each box is connected to all boxes of the next column, the frames to those of the first."""


def make_thumbnail(name: str, read: Callable[[str], Tensor]) -> Image.Image:
    """The thumbnail of a workflow; ``read`` returns the frames `[F, H, W, 3]` of the preview with a title."""
    if name == "sweep":
        return join_frame_and_plot(read("Smoothed"), read("Plot"))
    if name == "stages_demo":
        return make_contact_sheet({title: read(title) for title in STAGES}, tile=96)
    if name == "deflicker_demo":
        before, after = read("Before and after").chunk(2)
    else:
        before, after = read(UPPER_ROW_TITLES.get(name, "Source")), read("Smoothed")
    rows = {"before": before, "after": after}
    return make_contact_sheet({title: video[: toy_world.FRAMES : 2] for title, video in rows.items()}, tile=192)


def join_frame_and_plot(grid: Tensor, plot: Tensor) -> Image.Image:
    """The middle frame of a sweep's grid, and the plot at equal height to its right."""
    frame, plot = (to_pil_image(pictures[len(pictures) // 2].movedim(-1, 0)) for pictures in (grid, plot))
    plot = plot.resize((round(plot.width * frame.height / plot.height), frame.height), Image.Resampling.BICUBIC)
    return Image.fromarray(np.hstack([frame, plot]))


def draw_diagram(columns: tuple[tuple[str, ...], ...]) -> Image.Image:
    """Draw flickering frames, and columns of boxes for the steps that process them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.68, 3.84), dpi=100, facecolor="#202020")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, frame in enumerate(add_colour_flicker(toy_world.packaged_clip().frames[:5], seed=0)):
        axes.imshow(frame, extent=(20 + 12 * i, 130 + 12 * i, 113 + 12 * i, 223 + 12 * i), zorder=2 + i)
    starts = [(150, 192)]
    for column, x in zip(columns, np.linspace(290, 635, len(columns)), strict=True):
        colour = GREEN if column is columns[-1] else GREY if column is columns[0] else BLUE
        style = {"boxstyle": "round,pad=0.7", "facecolor": colour, "edgecolor": "none"}
        ends = [(x, 192 + 118 * ((len(column) - 1) / 2 - i)) for i in range(len(column))]
        for text, end in zip(column, ends, strict=True):
            axes.text(*end, text, color="white", fontsize=16, ha="center", va="center", bbox=style)
            for start in starts:
                axes.plot(*zip(start, end, strict=True), color="#ff9cf9", linewidth=3, zorder=1)
        starts = ends
    axes.set(xlim=(0, 768), ylim=(0, 384))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def main() -> None:
    """Write the thumbnails of all workflows, or of those named."""
    names = sys.argv[1:] or sorted(RECIPES)
    with tempfile.TemporaryDirectory() as base, ComfyUIServer(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        write_demo_inputs(server.base / "input", toy_world.packaged_clip())
        object_info = server.object_info()
        for name in names:
            if name in DIAGRAMS:
                picture = draw_diagram(DIAGRAMS[name])
            else:
                prompt = convert_ui_to_api(build_workflow(name, object_info, demo=True), object_info)
                run = server.run(prompt)
                if run.error:
                    sys.exit(f"{name}: {run.error}")
                picture = make_thumbnail(name, partial(read_frames, server, run, prompt))
            picture.save(FILES[name].with_suffix(".jpg"), quality=90)
            print(name, flush=True)


if __name__ == "__main__":
    main()

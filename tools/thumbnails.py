"""Run the demo versions of the shipped workflows, and write the thumbnails beside the workflow files.

    python -m tools.thumbnails [NAME ...]

The upper row of a thumbnail shows the input of the task, the lower row the smoothed video, both from a real run on the
demo models and the packaged clip. The sweep's thumbnail shows its grid and its plot. Workflows that frames cannot
explain get a diagram (`DIAGRAMS`). This module also writes the other input files of the demo versions, also for tests.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from batch.comfyui_server import ComfyUIServer
from research import toy_metrics, toy_world
from research.demo_chain import add_colour_flicker
from tools.contact_sheet import make_contact_sheet
from tools.in_process_comfyui import COMFYUI
from tools.video_files import read_frames, write_video
from tools.workflow_parts import PACKAGED_CLIP
from tools.write_workflows import FILES, RECIPES, WORKFLOWS, workflow

ROOT = Path(__file__).resolve().parents[1]

UPPER_ROW_TITLES = dict.fromkeys(("controlnet", "t2i_adapter", "animatediff"), "Control")
UPPER_ROW_TITLES |= dict.fromkeys(("zeroscope", "tile_upscale"), "Frame-wise")
"""Preview title of the upper row, if it is not the source."""
STAGES = ("Control", "Frame-wise", "No structure pass", "Smoothed")
"""Preview titles of the rows in the thumbnail of the demo by stages."""

GREY, BLUE, GREEN = "#3f5159", "#3f789e", "#335533"
Box = tuple[str, int, int, str]
DIAGRAMS: dict[str, tuple[tuple[Box, ...], tuple[tuple[int, ...], ...]]] = {
    "wan": (
        (
            ("Wan inverts\nsingle frames", 300, 290, GREY),
            ("Wan inverts\nthe clip", 300, 94, GREY),
            ("mixed", 452, 192, BLUE),
            ("Wan denoises:\na smooth video", 640, 192, GREEN),
        ),
        ((-1, 0, 2, 3), (-1, 1, 2)),
    ),
    "saved_inversion": (
        (
            ("inverted", 268, 192, GREY),
            ("saved", 420, 192, BLUE),
            ("ratio 0.2", 620, 310, GREEN),
            ("ratio 0.5", 620, 192, GREEN),
            ("ratio 0.8", 620, 74, GREEN),
        ),
        ((-1, 0, 1, 2), (1, 3), (1, 4)),
    ),
    "folder": (
        (
            ("one chain,\none prompt", 370, 192, BLUE),
            ("clip 1, smooth", 630, 310, GREEN),
            ("clip 2, smooth", 630, 192, GREEN),
            ("clip 3, smooth", 630, 74, GREEN),
        ),
        ((-1, 0, 1), (0, 2), (0, 3)),
    ),
}
"""Boxes (text, centre x, centre y, colour), and lines through their indices; -1 is the picture of the frames."""


def write_demo_inputs(folder: Path, clip: toy_world.ToyClip) -> None:
    """Write the inputs of the demo versions: the packaged clip, a mask, a flickering clip, and a folder of two."""
    shutil.copy(WORKFLOWS / PACKAGED_CLIP, folder)
    write_video(folder / "bivdiff_mask.mp4", shape_mask(clip)[..., None].expand(-1, -1, -1, 3))
    write_video(folder / "bivdiff_flicker.mp4", add_colour_flicker(clip.frames, seed=0), sound=True)
    clips = folder / "bivdiff_clips"
    clips.mkdir(exist_ok=True)
    for seed in range(2):
        write_video(clips / f"{seed}.mp4", add_colour_flicker(clip.frames, seed), sound=seed == 0)


def shape_mask(clip: toy_world.ToyClip) -> Tensor:
    """Mask `[F, H, W]` of the shapes, enlarged by 2 pixels; 0 or 1."""
    return toy_metrics.dilate((clip.ground < 0.99).float(), 2)


def make_thumbnail(before: Tensor, after: Tensor) -> Image.Image:
    """Every second of the first 8 frames of two videos `[F, H, W, 3]`, one row each."""
    rows = {name: video[: toy_world.FRAMES : 2] for name, video in (("before", before), ("after", after))}
    return make_contact_sheet(rows, tile=192)


def make_sweep_thumbnail(grid: Tensor, plot: Tensor) -> Tensor:
    """A frame of a sweep's grid `[F, H, W, 3]` beside the plot `[1, H, W, 3]`, at equal height: `[3, H, W]`."""
    frame, plot = (pictures[len(pictures) // 2].movedim(-1, 0) for pictures in (grid, plot))
    scale = frame.shape[1] / plot.shape[1]
    size = frame.shape[1], round(plot.shape[2] * scale)
    plot = torch.nn.functional.interpolate(plot[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return torch.cat([frame, plot], dim=2)


def draw_diagram(boxes: tuple[Box, ...], lines: tuple[tuple[int, ...], ...]) -> Image.Image:
    """Draw flickering frames and the steps that process them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.68, 3.84), dpi=100, facecolor="#202020")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, frame in enumerate(add_colour_flicker(toy_world.packaged_clip().frames[:5], seed=0)):
        axes.imshow(frame, extent=(20 + 12 * i, 130 + 12 * i, 113 + 12 * i, 223 + 12 * i), zorder=2 + i)
    centres = [*((x, y) for _, x, y, _ in boxes), (150, 192)]
    for text, x, y, colour in boxes:
        style = {"boxstyle": "round,pad=0.7", "facecolor": colour, "edgecolor": "none"}
        axes.text(x, y, text, color="white", fontsize=16, ha="center", va="center", bbox=style)
    for line in lines:
        axes.plot(*zip(*(centres[box] for box in line), strict=True), color="#ff9cf9", linewidth=3, zorder=1)
    axes.set(xlim=(0, 768), ylim=(0, 384))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def main() -> None:
    """Write the thumbnails of all workflows, or of those named."""
    with tempfile.TemporaryDirectory() as base, ComfyUIServer(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        write_demo_inputs(server.base / "input", toy_world.packaged_clip())
        object_info = server.object_info()
        for name in sys.argv[1:] or sorted(RECIPES):
            if name in DIAGRAMS:
                draw_diagram(*DIAGRAMS[name]).save(FILES[name].with_suffix(".jpg"), quality=90)
                continue
            prompt = convert_ui_to_api(workflow(name, object_info, demo=True), object_info)
            run = server.run(prompt)
            if run.error:
                sys.exit(f"{name}: {run.error}")
            frames_of = partial(read_frames, server, run, prompt)
            if name == "sweep":
                picture = to_pil_image(make_sweep_thumbnail(frames_of("Smoothed"), frames_of("Plot")))
            elif name == "deflicker_demo":
                picture = make_thumbnail(*frames_of("Before and after").chunk(2))
            elif name == "stages_demo":
                picture = make_contact_sheet({row: frames_of(row) for row in STAGES}, tile=96)
            else:
                picture = make_thumbnail(frames_of(UPPER_ROW_TITLES.get(name, "Source")), frames_of("Smoothed"))
            picture.save(FILES[name].with_suffix(".jpg"), quality=90)
            print(name, flush=True)


if __name__ == "__main__":
    main()

"""Run the demo workflow on a real ComfyUI server; write its video and a contact sheet, print figures.

    python -m tools.demo [--cpu] [VIDEO]

`python dev.py demo` runs it in the right environment. Without VIDEO it uses the packaged clip. That clip
is from the toy world that the demo models are trained on: its true motion is known, so flicker and motion can be told
apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import av
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image, ImageDraw, ImageFont

from batch.comfyui_server import ComfyUIServer, ServerError
from bivdiff_core.measure import video_metrics
from research import toy_metrics, toy_world
from tools.contact_sheet import make_contact_sheet, resize_to_square
from tools.video_files import find_node_by_title, read_frames
from tools.write_workflows import FILES

ROOT = Path(__file__).resolve().parents[1]

WORKFLOW = FILES["stages_demo"]
OUTPUT = ROOT / "output"
STRIDE = 4  # the paper's, for real clips
VIDEO_TITLES = ("Source", "Control", "Frame-wise", "Smoothed")
ANIMATED_TITLES = ("Source", "Frame-wise", "Smoothed")
TILE, LABEL = 128, 150
PANEL, CAPTION, FPS = 200, 28, 8
ICON = 400
BANNER_FRAMES, BANNER_TILE = 7, 114
"""For three rows, because the registry's banners are 21:9."""


def main() -> None:
    """Run the demo on the packaged clip or on VIDEO."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("video", nargs="?", type=Path)
    arguments = parser.parse_args()
    clip, name = arguments.video, arguments.video.stem if arguments.video else "demo"
    stride = choose_stride(clip) if clip else 1
    try:
        videos, saved = run_workflow(clip, stride, arguments.cpu)
    except ServerError as error:
        sys.exit(str(error))
    video, sheet, animation = (OUTPUT / f"{name}{end}" for end in ("-smoothed.mp4", "-sheet.png", ".gif"))
    shutil.copy(saved, video)
    make_contact_sheet(videos, TILE, LABEL).save(sheet)
    first, *rest = make_animation(videos)
    first.save(animation, save_all=True, append_images=rest, duration=round(1000 / FPS), loop=0)
    make_icon(videos).save(OUTPUT / f"{name}-icon.png")
    banner = {title: videos[title][:BANNER_FRAMES] for title in ANIMATED_TITLES}
    make_contact_sheet(banner, BANNER_TILE).save(OUTPUT / f"{name}-banner.png")
    if clip:
        print(
            f"\nFrames {', '.join(str(i * stride) for i in range(toy_world.FRAMES))} of {clip.name}, cut to a square."
        )
        print("The demo models know eight toy things. With a real clip, the result shows that the workflow runs, not")
        print("the quality.")
    measure = measure_any_clip if clip else partial(measure_against_truth, clip=toy_world.packaged_clip())
    print_table({title: measure(frames) for title, frames in videos.items() if title != "Control"})
    print(f"\nVideo: {video}\nSheet: {sheet}\nSide by side: {animation}")


def run_workflow(clip: Path | None, stride: int, cpu: bool) -> tuple[dict[str, torch.Tensor], Path]:
    """Run the demo workflow; return the frames of each preview by title, and the file of the smoothed video."""
    base = OUTPUT / "comfyui"
    print("[demo] starting ComfyUI", flush=True)
    with ComfyUIServer(sys.executable, Path(os.environ["COMFYUI_PATH"]), base, cpu) as server:
        if clip:
            shutil.copy(clip, base / "input")
        prompt = convert_ui_to_api(load_demo_workflow(clip and clip.name), server.object_info())
        inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
        inputs["BIVDiffSelectFrames"].update(stride=stride, count=toy_world.FRAMES)
        run = server.run(prompt, DemoProgress(prompt))
    if run.error:
        raise ServerError(f"The workflow failed: {run.error}")
    (saved,) = server.output_files(run.outputs[find_node_by_title(prompt, "Smoothed video")])
    return {title: read_frames(server, run, prompt, title) for title in VIDEO_TITLES}, saved


def load_demo_workflow(file: str | None) -> dict:
    """The demo workflow; with ``file``, in ComfyUI's input folder, Load Video replaces the demo clip."""
    ui = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in ui["nodes"]:
        if file and node["type"] == "BIVDiffDemoClip":
            node.update(type="LoadVideo", properties={}, widgets_values=[file])
    return ui


def choose_stride(video: Path) -> int:
    """The distance between the frames to use, at most the paper's."""
    try:
        with av.open(str(video)) as container:
            count = sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        sys.exit(f"{video} cannot be read as a video: give a video file, such as an .mp4.")
    if count < toy_world.FRAMES:
        sys.exit(f"{video} has too few frames ({count}): give a video with at least {toy_world.FRAMES}.")
    return min(STRIDE, (count - 1) // (toy_world.FRAMES - 1))


class DemoProgress:
    """Print the server's progress: a line for each node, and on a terminal also the steps."""

    def __init__(self, prompt: dict) -> None:
        self.titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}

    def __call__(self, event: str, content: dict) -> None:
        """Handle a message of the server."""
        if event == "executing" and content["node"]:
            print(f"[demo] {self.titles[content['node']]}", flush=True)
        elif event == "progress" and sys.stdout.isatty():
            print(f"       {content['value']}/{content['max']}", end="\r", flush=True)


def make_animation(videos: dict[str, torch.Tensor]) -> list[Image.Image]:
    """The videos side by side with their names above, one picture per frame."""
    pictures = []
    for i in range(len(videos[ANIMATED_TITLES[0]])):
        picture = Image.new("RGB", (len(ANIMATED_TITLES) * PANEL, CAPTION + PANEL), "white")
        draw = ImageDraw.Draw(picture)
        for x, label in enumerate(ANIMATED_TITLES):
            draw.text(((x + 0.5) * PANEL, CAPTION / 2), label, "black", ImageFont.load_default(16), anchor="mm")
            picture.paste(resize_to_square(videos[label][i], PANEL - 4), (x * PANEL + 2, CAPTION))
        pictures.append(picture)
    return pictures


def make_icon(videos: dict[str, torch.Tensor]) -> Image.Image:
    """A frame before smoothing (left of a wipe) and after (right)."""
    before, after = (videos[row][len(videos[row]) // 2] for row in ANIMATED_TITLES[1:])
    edge = before.shape[1] // 2
    both = torch.cat([before[:, :edge], after[:, edge:]], dim=1)
    both[:, edge - 1 : edge + 1] = 1
    return resize_to_square(both, ICON)


def measure_against_truth(frames: torch.Tensor, clip: toy_world.ToyClip) -> dict[str, float | None]:
    """Figures that need the true motion and masks."""
    figures = toy_metrics.measure_figures(frames, clip)
    return {
        "flicker of the shape": figures["shape flicker"],
        "flicker of the background": figures["background flicker"],
        "overlap with the true shape": figures["IoU"],
        "colours as in the prompt": figures["caption"],
        "sharpness": figures["sharpness"],
    }


def measure_any_clip(frames: torch.Tensor) -> dict[str, float | None]:
    """Figures of any clip; here the change between frames includes flicker and motion."""
    difference = video_metrics.frame_difference(frames).mean().item()
    return {"change from frame to frame": difference, "sharpness": toy_metrics.sharpness(frames)}


def print_table(figures: dict[str, dict[str, float | None]]) -> None:
    """Print a column for each video and a row for each measure."""
    print("\n" + " " * 30 + "".join(f"{video:>20}" for video in figures))
    for row in next(iter(figures.values())):
        cells = ("-" if value is None else f"{value:.3f}" for value in (video[row] for video in figures.values()))
        print(f"{row:30}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"{error}: make sure that {OUTPUT} is writable and the disk is not full.")

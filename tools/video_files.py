"""Write the video files that the demo versions of the workflows load, and read the frames that a server wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from batch.comfyui_server import ComfyUIServer, PromptResult
from research import toy_metrics, toy_world
from research.demo_chain import add_colour_flicker
from tools.workflow_parts import PACKAGED_CLIP

ROOT = Path(__file__).resolve().parents[1]
VIDEO_FPS = 8


def write_demo_inputs(folder: Path, clip: toy_world.ToyClip) -> None:
    """Write the inputs of the demo versions: the packaged clip, a mask, a flickering clip, and a folder of two."""
    shutil.copy(ROOT / "workflows" / PACKAGED_CLIP, folder)
    write_video(folder / "bivdiff_mask.mp4", shape_mask(clip)[..., None].expand(-1, -1, -1, 3))
    write_video(folder / "bivdiff_flicker.mp4", add_colour_flicker(clip.frames, seed=0), sound=True)
    clips = folder / "bivdiff_clips"
    clips.mkdir(exist_ok=True)
    for seed in range(2):
        write_video(clips / f"{seed}.mp4", add_colour_flicker(clip.frames, seed), sound=seed == 0)


def shape_mask(clip: toy_world.ToyClip) -> Tensor:
    """Mask `[F, H, W]` of the shapes, enlarged by 2 pixels; 0 or 1."""
    return toy_metrics.dilate((clip.ground < 0.99).float(), 2)


def write_video(path: Path, frames: Tensor, sound: bool = False) -> None:
    """Write frames `[F, H, W, 3]` in 0..1 without loss; ``sound`` adds one second of a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        tone = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for picture in (frames * 255).round().byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))))
        container.mux(stream.encode())
        if tone:
            wave = np.sin(np.arange(44100) / 20).astype(np.float32)[None]
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.sample_rate = 44100
            container.mux(tone.encode(samples))
            container.mux(tone.encode())


def find_node_by_title(prompt: dict, title: str) -> str:
    """The id of the node with a title."""
    return next(node_id for node_id, node in prompt.items() if node["_meta"]["title"] == title)


def read_frames(server: ComfyUIServer, run: PromptResult, prompt: dict, title: str) -> Tensor:
    """The frames ``[F, H, W, 3]`` in 0..1 that the preview or save node with this title wrote.

    Those of Compare Videos are both clips, one after the other.
    """
    files = server.output_files(run.outputs[find_node_by_title(prompt, title)])
    if files[0].suffix == ".webm":
        with av.open(str(files[0])) as container:
            stacked = torch.stack([to_tensor(frame.to_image()).movedim(0, -1) for frame in container.decode(video=0)])
        return torch.cat(stacked.chunk(2, dim=1))
    return torch.stack([to_tensor(Image.open(file).convert("RGB")).movedim(0, -1) for file in files])

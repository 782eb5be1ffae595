"""The costs of the reports in docs/models.md: printed, because they depend on the machine.

    python -m research.report_costs

The time of optical flow, of a Temporal Report and of an average along motion, relative to the same with scikit-image's
TV-L1. The memory that Temporal Report and Average Along Motion need besides their inputs and outputs, for clips of
1080p in memory-mapped files. It writes up to 12 GB to the temporary folder, and the longest average takes 16 GB.
"""

from __future__ import annotations

import math
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from skimage.registration import optical_flow_tvl1
from torch import Tensor

from bivdiff_core.measure.optical_flow import Computation, average_along_flow, estimate_flow, to_luma
from bivdiff_core.measure.video_metrics import MAX_FLOW_PAIRS, MeasuredClip, measure_video
from research.costs import call_in_new_process, median_seconds, memory
from tools.in_process_comfyui import Pack, use_comfyui

FLOW_SIZE, REPORT_SIZE, REPORT_FRAMES, ROUNDS = (256, 256), (512, 512), 8, 1
CLIP_LENGTHS, CLIP_SIZE = (24, 120, 480), (1080, 1920)
OTHER_INPUTS = {
    "BIVDiffTemporalReport": ("reference_images", "source_images"),
    "BIVDiffAverageAlongMotion": ("motion_from",),
}
"""The nodes whose memory is measured, and their inputs besides images."""
SPEED = 3
"""Pixels by which the made clips move per frame."""


def make_frame(size: tuple[int, int], index: int) -> Tensor:
    """A frame `[H, W, 3]` of a soft texture that moves, with some noise of its own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].movedim(0, -1)
    noise = torch.randn(size[0], size[1], 1, generator=generator.manual_seed(index))
    return (texture.roll(SPEED * index, 1) + 0.02 * noise).clamp(0, 1)


def estimate_by_scikit_image(reference: Tensor, moving: Tensor) -> Tensor:
    """A `FlowEstimator` that computes one pair at a time with NumPy."""
    pairs = zip(to_luma(reference).numpy(), to_luma(moving).numpy(), strict=True)
    flows = np.stack([optical_flow_tvl1(*pair) for pair in pairs])
    return torch.from_numpy(flows).flip(1).movedim(1, -1)


def print_times() -> None:
    """Print the time of each measurement relative to the same with scikit-image's flow."""
    pairs = torch.stack([make_frame(FLOW_SIZE, i) for i in range(MAX_FLOW_PAIRS + 1)])
    video, before, source = (
        torch.stack([make_frame(REPORT_SIZE, i + start) for i in range(REPORT_FRAMES)]) for start in (0, 8, 16)
    )

    def report(computation: Computation) -> None:
        clip, unsmoothed, motion = (MeasuredClip.from_frames(frames, computation) for frames in (video, before, source))
        measure_video(unsmoothed, source=motion)
        measure_video(clip, unsmoothed, source=motion, computation=computation)

    runs = {
        f"flow of {MAX_FLOW_PAIRS} pairs of {FLOW_SIZE[0]}x{FLOW_SIZE[1]}, both ways": lambda computation: (
            estimate_flow(pairs[:-1], pairs[1:], computation)
        ),
        f"report of {REPORT_FRAMES} frames of {REPORT_SIZE[0]}x{REPORT_SIZE[1]}": report,
        "average along motion of the same": lambda computation: average_along_flow(video, source, 1, computation),
    }
    ours, theirs = Computation(), Computation(estimate_flow=estimate_by_scikit_image)
    for name, run in runs.items():
        times = median_seconds({"pack": lambda run=run: run(ours), "scikit": lambda run=run: run(theirs)}, ROUNDS)
        ratio = times["scikit"] / times["pack"]
        print(f"{name}: {times['pack']:.1f} s, {ratio:.1f} times as fast as with scikit-image's flow", flush=True)


def write_clip(file: Path, frames: int) -> None:
    """Write the frames of a clip as float32."""
    with file.open("wb") as out:
        for i in range(frames):
            out.write(make_frame(CLIP_SIZE, i).numpy().tobytes())


def measure_memory(file: Path, frames: int, node_id: str) -> float:
    """Peak memory of a node in GB, without its inputs, which are memory-mapped, and its outputs."""
    use_comfyui(cpu=True)
    pack = Pack()
    shape = frames + 1, *CLIP_SIZE, 3
    clip = torch.from_file(str(file), size=math.prod(shape), dtype=torch.float32).view(shape)

    def run(count: int) -> tuple:
        others = dict.fromkeys(OTHER_INPUTS[node_id], clip[1 : count + 1])
        return pack.run(node_id, images=clip[:count], **others)

    run(2)  # imports libraries and fills caches
    start, peak, is_done = memory("RssAnon"), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.01):
            peak = max(peak, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    outputs = run(frames)
    is_done.set()
    watcher.join()
    return peak - start - sum(output.nbytes for output in outputs if isinstance(output, Tensor)) / 1e9


def main() -> None:
    """Print all costs."""
    print_times()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "clip")
        for frames in CLIP_LENGTHS:
            write_clip(file, frames + 1)
            for node_id in OTHER_INPUTS:
                peak = call_in_new_process(measure_memory, file, frames, node_id)
                print(f"{node_id}, {frames} frames of 1080p: + {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()

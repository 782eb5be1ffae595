"""The run time of the workflow compared with the released code's procedure, on the same models.

    python -m research.released_way [--frames 8] [--rounds 5]

The released code (MCG-NJU/BIVDiff) generates frames with the image model one at a time, and inverts all frames together
with both models, whatever the mixing ratio; 50 steps, guidance 7.5. The workflow generates frames in batches, inverts
only with the branches that the ratio needs, and if only the ratio changes it only blends and smooths again. Prints the
ratios of median times over alternating rounds on the demo models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from research import toy_world
from research.demo_chain import DemoChain, device_name, start

ROOT = Path(__file__).resolve().parents[1]

STEPS, SMOOTH_CFG = 50, 7.5
CLIP_SEED = 1_000_003


class WorkflowComparison(DemoChain):
    """Both procedures on one clip."""

    def __init__(self, frames: int) -> None:
        super().__init__(start())
        clip = toy_world.generate_clip(CLIP_SEED, frames)
        self.positive = self.encode_text(clip.caption)
        self.controlled = self.apply_outline_control(clip.frames, self.positive)
        self.blank = self.empty_latent(frames)

    def run_released(self) -> None:
        """The released code's procedure."""
        frames = self.generate(1)
        image = self.invert_image(frames, self.empty, 1.0, steps=STEPS)
        video = self.invert_video(frames, self.empty, 1.0, steps=STEPS)
        self.smooth_and_decode(image, video, 0.25)

    def run_graph(self, ratio: float) -> None:
        """A first run of the workflow."""
        frames = self.generate(0)
        image = self.invert_image(frames, self.empty, 1.0, steps=STEPS) if ratio > 0 else None
        video = self.invert_video(frames, self.empty, 1.0, steps=STEPS) if ratio < 1 else None
        self.branches = image, video
        self.smooth_and_decode(image, video, ratio)

    def run_another_ratio(self) -> None:
        """A run after only the ratio changed: ComfyUI keeps frames and inversions."""
        self.smooth_and_decode(*self.branches, 0.5)

    def generate(self, at_once: int) -> dict:
        """Generate the frames from their outlines: a LATENT."""
        return self.generate_frames(*self.controlled, self.blank, seed=1, steps=STEPS, frames_per_batch=at_once)

    def smooth_and_decode(self, image: dict | None, video: dict | None, ratio: float) -> None:
        """Blend, smooth and decode."""
        self.decode(self.smooth(self.blend(image, video, ratio), self.positive, STEPS, SMOOTH_CFG))


def seconds(run: Callable[[], None]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    comparison = WorkflowComparison(args.frames)
    comparison.run_released()  # weights load, caches fill
    runs = {
        "released code": comparison.run_released,
        "graph, mixing ratio 1": lambda: comparison.run_graph(1.0),
        "graph, mixing ratio 0.25": lambda: comparison.run_graph(0.25),
        "graph again, only the ratio changed": comparison.run_another_ratio,
    }
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds)]
    times = {name: median(found[name] for found in rounds) for name in runs}
    slowest = times["released code"]
    print(
        f"{args.frames} frames of 64x64, {STEPS} steps, median of {args.rounds} alternating rounds on {device_name()}"
    )
    for name, took in times.items():
        print(f"{name}: {took:.1f} s, {took / slowest:.2f} of the released code's time")


if __name__ == "__main__":
    main()

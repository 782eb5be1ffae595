"""One run of the graph against the released code's way of working, on the same models.

    python -m research.released_way [--frames 8] [--rounds 5]

The released code (MCG-NJU/BIVDiff) makes frames with the image model one at a time, inverts them all at once, and with
both models whatever the mixing ratio; 50 steps, guidance 7.5. The graph makes frames as a batch, inverts with the
branches that the ratio needs, and after a change of the ratio alone blends and smooths again. Prints the medians'
ratios over alternating rounds on the demo models.
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


class Ways(DemoChain):
    """Both ways of working on one clip."""

    def __init__(self, frames: int) -> None:
        super().__init__(start())
        clip = toy_world.generate_clip(CLIP_SEED, frames)
        self.positive = self.encode_text(clip.caption)
        self.outlines = self.outlined(clip.frames, self.positive)
        self.blank = self.nothing(frames)

    def released(self) -> None:
        """The released code's way."""
        frames = self.frames(1)
        image = self.invert_image(frames, self.empty, 1.0, steps=STEPS)
        video = self.invert_video(frames, self.empty, 1.0, steps=STEPS)
        self.finish(image, video, 0.25)

    def graph(self, ratio: float) -> None:
        """A first run of the graph."""
        frames = self.frames(0)
        image = self.invert_image(frames, self.empty, 1.0, steps=STEPS) if ratio > 0 else None
        video = self.invert_video(frames, self.empty, 1.0, steps=STEPS) if ratio < 1 else None
        self.branches = image, video
        self.finish(image, video, ratio)

    def another_ratio(self) -> None:
        """A run after only the ratio changed: the host keeps frames and inversions."""
        self.finish(*self.branches, 0.5)

    def frames(self, at_once: int) -> dict:
        """The frames drawn from their outlines, a LATENT."""
        return self.draw(*self.outlines, self.blank, seed=1, steps=STEPS, frames_per_batch=at_once)

    def finish(self, image: dict | None, video: dict | None, ratio: float) -> None:
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
    ways = Ways(args.frames)
    ways.released()  # weights load, caches fill
    runs = {
        "released code's way": ways.released,
        "graph, mixing ratio 1": lambda: ways.graph(1.0),
        "graph, mixing ratio 0.25": lambda: ways.graph(0.25),
        "graph again, only the ratio changed": ways.another_ratio,
    }
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds)]
    times = {name: median(found[name] for found in rounds) for name in runs}
    slowest = times["released code's way"]
    print(
        f"{args.frames} frames of 64x64, {STEPS} steps, median of {args.rounds} alternating rounds on {device_name()}"
    )
    for name, took in times.items():
        print(f"{name}: {took:.1f} s, {took / slowest:.2f} of the released code's way")


if __name__ == "__main__":
    main()

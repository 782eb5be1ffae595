"""Clips longer than the video model knows: what more frames cost in memory, and whether the windows' seams show.

    python -m research.long_clips [--frames 8 50 200] [--steps 10]

Each length runs the whole chain on the demo models in a process of its own, whose highest resident set is its peak
memory: frames drawn from outlines, both inversions, blend, smoothing, in windows of 8 frames that overlap by 4. Drawing
and decoding take 8 frames at a time too, so that what grows is what the frames themselves need.

The source is a clip of the toy world whose shape goes to and fro, so its motion from any frame to the next is known.
Appearance change is measured along that motion (`research/toy_metrics.py`). A border is a step from one frame to the
next at which a window begins or ends; the seam is the mean change there over the mean change elsewhere. To and fro take
22 frames, no multiple of the 4 from border to border: every pair of places comes both at borders and elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from research import toy_metrics, toy_world
from research.demo_chain import DemoChain, start

ROOT = Path(__file__).resolve().parents[1]

CLIP_SEED = 1_000_003
LENGTH, OVERLAP, RATIO = 8, 4, 0.5
LARGEST_SEAM = 1.2


def decode(chain: DemoChain, latent: dict) -> Tensor:
    """Frames `[F, H, W, 3]`, 8 at a time."""
    return torch.cat([chain.decode({"samples": part}) for part in latent["samples"].split(LENGTH)])


def changes(chain: DemoChain, frames: Tensor, clip) -> list[float]:
    """Mean appearance change along the known motion at each step from a frame to the next, `[F - 1]`."""
    found = []
    for t in range(len(frames) - 1):
        pair = slice(t, t + 2)
        part = replace(clip, times=clip.times[pair], masks=clip.masks[:, pair])
        found.append(torch.cat(toy_metrics.colour_change_along_motion(frames[pair], part)).mean().item())
    return found


def borders(chain: DemoChain, frames: int) -> set[int]:
    """Steps t (from frame t to t + 1) at which a window begins or ends."""
    windows = chain.pack.import_module("bivdiff_core.host.windows").FrameWindows(LENGTH, OVERLAP)
    cut = windows.context_schedule.func(frames, windows, {})
    return {w[0] - 1 for w in cut if w[0] > 0} | {w[-1] for w in cut if w[-1] < frames - 1}


def run(frames: int, steps: int) -> dict:
    """The chain at one length, and what it took."""
    chain = DemoChain(start())
    clip = toy_world.generate_clip(CLIP_SEED, frames)
    positive = chain.encode_text(clip.caption)
    batches = {"steps": steps, "frames_per_batch": LENGTH}
    windows = {"steps": steps, "windows": (LENGTH, OVERLAP)}
    empty = chain.nothing(frames)
    drawn = chain.draw(*chain.outlined(clip.frames, positive), empty, seed=1, **batches)
    image = chain.invert_image(drawn, chain.empty, strength=1.0, **batches)
    video = chain.invert_video(drawn, chain.empty, strength=1.0, **windows)
    smoothed = chain.smooth(chain.blend(image, video, RATIO), positive, **windows)
    out = decode(chain, smoothed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Source, hints, the hints that the control keeps for the prompt and for the negative one, and the result; the
    # latents drawn, inverted twice, mixed and smoothed.
    own = 5 * clip.frames.nbytes + 5 * drawn["samples"].nbytes

    found = {"frames": frames, "peak": peak, "own": own}
    seams = borders(chain, frames)
    for name, video in {"source": clip.frames, "drawn": decode(chain, drawn), "smoothed": out}.items():
        by_step = changes(chain, video, clip)
        at_borders = [change for t, change in enumerate(by_step) if t in seams]
        elsewhere = [change for t, change in enumerate(by_step) if t not in seams]
        found[name] = [sum(part) / len(part) if part else math.nan for part in (at_borders, elsewhere)]
    return found


def main() -> None:
    """Print a table of memory and a table of seams."""
    parser = argparse.ArgumentParser(description="Memory and seams of long clips.")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 50, 200], help="lengths, the shortest first")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(run(args.only, args.steps)))
        return

    command = [sys.executable, __file__, "--steps", str(args.steps), "--only"]
    results = []
    for frames in args.frames:
        done = subprocess.run([*command, str(frames)], check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    first, mib = results[0], 1 << 20
    print(f"Windows of {LENGTH} frames that overlap by {OVERLAP}, {args.steps} steps, mixing ratio {RATIO}.\n")
    print("| frames | peak memory | growth | growth of the frames' own tensors |\n| --- | --- | --- | --- |")
    for r in results:
        grown, own = r["peak"] - first["peak"], r["own"] - first["own"]
        print(f"| {r['frames']} | {r['peak'] / mib:.0f} MiB | {grown / mib:.1f} MiB | {own / mib:.1f} MiB |")
    print(f"\nAppearance change, 0..255, of {results[-1]['frames']} frames:\n")
    print("| video | at borders of windows | elsewhere | ratio |\n| --- | --- | --- | --- |")
    for name in ("source", "drawn", "smoothed"):
        border, elsewhere = results[-1][name]
        print(f"| {name} | {255 * border:.2f} | {255 * elsewhere:.2f} | {border / elsewhere:.2f} |")
    border, elsewhere = results[-1]["smoothed"]
    held = "within" if border <= LARGEST_SEAM * elsewhere else "beyond"
    print(f"\nThe smoothed video's seams are {held} {LARGEST_SEAM} times what changes elsewhere.")


if __name__ == "__main__":
    main()

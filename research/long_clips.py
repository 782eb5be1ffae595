"""Clips longer than the video model's training clips: memory of more frames, and visibility of the window borders.

    python -m research.long_clips [--frames 8 50 200] [--steps 10]

Each length runs the whole chain on the demo models in a new process; the process's highest resident set is the peak
memory. The chain generates frames from outlines, inverts with both models, blends and smooths, in windows of 8 frames
that overlap by 4. Sampling and decoding also process 8 frames at a time, so only the memory of the frames grows.

The source is a toy clip whose shape moves back and forth, with known motion. Appearance change is measured along that
motion (`research/toy_metrics.py`). A border is a pair of adjacent frames at which a window begins or ends; the seam is
the mean change there divided by the mean change elsewhere. The motion has a period of 22 frames, no multiple of the
4 frames between borders, so each position of the shape occurs both at borders and elsewhere.
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
    """Mean appearance change along the known motion between adjacent frames, `[F - 1]`."""
    found = []
    for t in range(len(frames) - 1):
        pair = slice(t, t + 2)
        part = replace(clip, times=clip.times[pair], masks=clip.masks[:, pair])
        found.append(torch.cat(toy_metrics.colour_change_along_motion(frames[pair], part)).mean().item())
    return found


def borders(chain: DemoChain, frames: int) -> set[int]:
    """Indices t of the pairs of frames (t, t + 1) at which a window begins or ends."""
    windows = chain.pack.import_module("bivdiff_core.host.windows").FrameWindows(LENGTH, OVERLAP)
    parts = windows.context_schedule.func(frames, windows, {})
    return {w[0] - 1 for w in parts if w[0] > 0} | {w[-1] for w in parts if w[-1] < frames - 1}


def run(frames: int, steps: int) -> dict:
    """Run the chain at one length; return its memory and seams."""
    chain = DemoChain(start())
    clip = toy_world.generate_clip(CLIP_SEED, frames)
    positive = chain.encode_text(clip.caption)
    batches = {"steps": steps, "frames_per_batch": LENGTH}
    windows = {"steps": steps, "windows": (LENGTH, OVERLAP)}
    empty = chain.empty_latent(frames)
    generated = chain.generate_frames(*chain.apply_outline_control(clip.frames, positive), empty, seed=1, **batches)
    image = chain.invert_image(generated, chain.empty, strength=1.0, **batches)
    video = chain.invert_video(generated, chain.empty, strength=1.0, **windows)
    smoothed = chain.smooth(chain.blend(image, video, RATIO), positive, **windows)
    out = decode(chain, smoothed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Frames: source, hints, the hints that the control keeps for both prompts, and the result.
    # Latents: generated, inverted twice, mixed and smoothed.
    own = 5 * clip.frames.nbytes + 5 * generated["samples"].nbytes

    found = {"frames": frames, "peak": peak, "own": own}
    seams = borders(chain, frames)
    for name, video in {"source": clip.frames, "generated": decode(chain, generated), "smoothed": out}.items():
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
    for name in ("source", "generated", "smoothed"):
        border, elsewhere = results[-1][name]
        print(f"| {name} | {255 * border:.2f} | {255 * elsewhere:.2f} | {border / elsewhere:.2f} |")
    border, elsewhere = results[-1]["smoothed"]
    held = "within" if border <= LARGEST_SEAM * elsewhere else "beyond"
    print(f"\nThe smoothed video's seams are {held} {LARGEST_SEAM} times what changes elsewhere.")


if __name__ == "__main__":
    main()

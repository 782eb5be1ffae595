"""Clips longer than the video model knows: what more frames cost in memory, and whether the windows' seams show.

    python benchmarks/long_clips.py [--frames 8 50 200] [--steps 10]

Each length runs the whole chain on the demo models in a process of its own, whose highest resident set is its peak
memory: frames drawn from outlines, both inversions, blend, smoothing, in windows of 8 frames that overlap by 4. Drawing
and decoding take 8 frames at a time too, so that what grows is what the frames themselves need.

The source is a clip of the toy world played back and forth, so its motion from any frame to the next is known.
Appearance change is measured along that motion (`bivdiff_core.demo.measure`). A border is a step from one frame to the
next at which a window begins or ends; the seam is the mean change there over the mean change elsewhere. In any 28 steps
each pair of the source's frames lies at a border once and elsewhere three times, so long clips compare like with like.
"""

import argparse
import json
import logging
import math
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.host import Pack, use_comfyui  # noqa: E402

CLIP_SEED = 1_000_003
LENGTH, OVERLAP, RATIO = 8, 4, 0.5
LARGEST_SEAM = 1.2


def back_and_forth(count: int, frames: int) -> list[int]:
    """Which of a clip's frames come one after another: 0, 1, ..., count - 1, count - 2, ..., 0, 1, ..."""
    period = 2 * (count - 1)
    return [min(t % period, period - t % period) for t in range(frames)]


class Chain:
    """The nodes of the chain on the demo models, 8 frames at a time."""

    def __init__(self, steps: int):
        use_comfyui(cpu=not torch.accelerator.is_available())
        self.pack = Pack()
        logging.disable(logging.INFO)
        self.image, self.video, self.clip, self.vae, self.control_net = self.pack.run(
            "BIVDiffDemoModels", variant="base"
        )
        self.schedule = {"steps": steps, "scheduler": "ddim_uniform"}
        self.world = self.pack.import_module("bivdiff_core.demo.world")
        self.measure = self.pack.import_module("bivdiff_core.demo.measure")

    def draw(self, source: torch.Tensor, positive: list, negative: list) -> dict:
        """Frames drawn one by one from the source's outlines, a LATENT."""
        positive, negative = self.pack.run(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=negative,
            control_net=self.control_net,
            image=torch.cat([self.world.canny_control(part) for part in source.split(LENGTH)]),
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        return self.pack.run(
            "BIVDiffFrameSampler",
            model=self.image,
            positive=positive,
            negative=negative,
            latent_image={"samples": torch.zeros(len(source), 4, 8, 8)},
            seed=1,
            cfg=3.0,
            sampler_name="ddim",
            denoise=1.0,
            frame_noise="independent",
            frames_per_batch=LENGTH,
            **self.schedule,
        )[0]

    def smooth(self, drawn: dict, positive: list, negative: list) -> dict:
        """The drawn frames inverted by both models, mixed, and denoised by the video model in windows, a LATENT."""
        windows = {"context_length": LENGTH, "context_overlap": OVERLAP}
        given = {"conditioning": negative, "latent": drawn, "solver": "ddim", "strength": 1.0, "grid": "matched"}
        (image,) = self.pack.run(
            "BIVDiffInvertImage", model=self.image, frames_per_batch=LENGTH, **given, **self.schedule
        )
        (video,) = self.pack.run("BIVDiffInvertVideo", model=self.video, **windows, **given, **self.schedule)
        mixed, _ = self.pack.run(
            "BIVDiffMixedInversion",
            image_latent=image,
            video_latent=video,
            task="custom",
            mixing_ratio=RATIO,
            mode="linear",
        )
        return self.pack.run(
            "BIVDiffTemporalSmoother",
            model=self.video,
            positive=positive,
            negative=negative,
            latent=mixed,
            cfg=1.0,
            sampler_name="ddim",
            strength=1.0,
            grid="matched",
            **windows,
            **self.schedule,
        )[0]

    def decode(self, latent: dict) -> torch.Tensor:
        """Frames `[F, H, W, 3]`."""
        parts = latent["samples"].split(LENGTH)
        return torch.cat([self.pack.run("VAEDecode", vae=self.vae, samples={"samples": part})[0] for part in parts])

    def changes(self, frames: torch.Tensor, clip, order: list[int]) -> list[float]:
        """Mean appearance change along the known motion at each step from a frame to the next, `[F - 1]`."""
        found = []
        for pair, places in zip(frames.unfold(0, 2, 1), zip(order, order[1:], strict=False), strict=True):
            pair, start = pair.movedim(-1, 0), min(places)
            if places[0] > places[1]:
                pair = pair.flip(0)
            moving = []
            for shape in clip.shapes:
                x, y, angle = shape.motion.place(start)
                moving.append(replace(shape, motion=replace(shape.motion, centre=(x, y), angle=angle)))
            part = replace(clip, shapes=tuple(moving), masks=clip.masks[:, start : start + 2])
            found.append(torch.cat(self.measure.changes_along_motion(pair, part)).mean().item())
        return found

    def borders(self, frames: int) -> set[int]:
        """Steps t (from frame t to t + 1) at which a window begins or ends."""
        windows = self.pack.import_module("bivdiff_core.host.windows").FrameWindows(LENGTH, OVERLAP)
        cut = windows.context_schedule.func(frames, windows, {})
        return {w[0] - 1 for w in cut if w[0] > 0} | {w[-1] for w in cut if w[-1] < frames - 1}


def run(frames: int, steps: int) -> dict:
    """The chain at one length, and what it took."""
    chain = Chain(steps)
    clip = chain.world.make_clip(CLIP_SEED)
    order = back_and_forth(len(clip.frames), frames)
    source = clip.frames[order]
    (positive,) = chain.pack.run("CLIPTextEncode", clip=chain.clip, text=clip.caption)
    (negative,) = chain.pack.run("CLIPTextEncode", clip=chain.clip, text="")
    drawn = chain.draw(source, positive, negative)
    smoothed = chain.smooth(drawn, positive, negative)
    out = chain.decode(smoothed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Source, hints, the hints that the control keeps for the prompt and for the negative one, and the result; the
    # latents drawn, inverted twice, mixed and smoothed.
    own = 5 * source.nbytes + 5 * drawn["samples"].nbytes

    found = {"frames": frames, "peak": peak, "own": own}
    borders = chain.borders(frames)
    for name, video in {"source": source, "drawn": chain.decode(drawn), "smoothed": out}.items():
        changes = chain.changes(video, clip, order)
        at_borders = [change for t, change in enumerate(changes) if t in borders]
        elsewhere = [change for t, change in enumerate(changes) if t not in borders]
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

"""The overhead of the chain's nodes: each compared with ComfyUI's KSampler making the same model calls.

Both run alternately on the demo models and the same frames; prints the ratio of the medians. Windows are compared with
the model time of their own run, because KSampler has no windows. Run it with `python dev.py bench`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from research.demo_chain import start

ROOT = Path(__file__).resolve().parents[1]

FRAMES, STEPS, ROUNDS = 8, 20, 15
LONG, OVERLAP = 64, 4


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class NetworkTimer:
    """Measures the seconds that a MODEL's network takes, and the frames that go through it."""

    def __init__(self) -> None:
        self.seconds, self.frames = 0.0, 0

    def attach(self, model):
        """A clone of the MODEL that this timer measures."""
        model = model.clone()
        model.set_model_unet_function_wrapper(self)
        return model

    def __call__(self, apply_model, args: dict) -> torch.Tensor:
        start = time.perf_counter()
        out = apply_model(args["input"], args["timestep"], **args["c"])
        self.seconds += time.perf_counter() - start
        self.frames += len(args["input"])
        return out


def main() -> None:
    """Print a ratio for each node."""
    pack = start()
    image, video, clip, _, control_net = pack.run("BIVDiffDemoModels", variant="base")
    (positive,) = pack.run("CLIPTextEncode", clip=clip, text="a red star on a cyan background")
    (negative,) = pack.run("CLIPTextEncode", clip=clip, text="")
    hints = torch.rand(FRAMES, 64, 64, 3).round()
    controlled = pack.run(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=negative,
        control_net=control_net,
        image=hints,
    )
    empty = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    sampled = {"steps": STEPS, "sampler_name": "ddim", "scheduler": "ddim_uniform"}

    def ksampler(model, positive, negative, cfg):
        return pack.run(
            "KSampler",
            model=model,
            seed=1,
            cfg=cfg,
            positive=positive,
            negative=negative,
            latent_image=empty,
            **sampled,
        )

    (frames,) = ksampler(image, *controlled, 3.0)
    invert = {"conditioning": negative, "latent": frames, "solver": "ddim", "steps": STEPS}
    (inverted,) = pack.run("BIVDiffInvertVideo", model=video, **invert)
    chunks = {
        "model": image,
        "positive": controlled[0],
        "negative": controlled[1],
        "latent_image": empty,
        "seed": 1,
        "cfg": 3.0,
        **sampled,
    }
    smooth = {"positive": positive, "negative": negative, "latent": inverted, "cfg": 3.0, **sampled}
    pairs = {
        "Frame-wise Image Sampler, all frames at once": (
            lambda: pack.run("BIVDiffFrameSampler", **chunks),
            lambda: ksampler(image, *controlled, 3.0),
        ),
        "DDIM Inverse (Image), all frames at once": (
            lambda: pack.run("BIVDiffInvertImage", model=image, **invert),
            lambda: ksampler(image, negative, negative, 1.0),
        ),
        "DDIM Inverse (Video)": (
            lambda: pack.run("BIVDiffInvertVideo", model=video, **invert),
            lambda: ksampler(video, negative, negative, 1.0),
        ),
        "Video Temporal Smoother": (
            lambda: pack.run("BIVDiffTemporalSmoother", model=video, **smooth),
            lambda: ksampler(video, positive, negative, 3.0),
        ),
    }
    print(f"{FRAMES} frames of 64x64, {STEPS} steps, median of {ROUNDS} alternating runs")
    for name, (ours, core) in pairs.items():
        ours(), core()  # weights load, caches fill
        times = [(seconds(ours), seconds(core)) for _ in range(ROUNDS)]
        ours_median, core_median = (median(column) for column in zip(*times, strict=True))
        print(f"{name}: {ours_median / core_median:.3f} of KSampler's {core_median * 1000:.0f} ms")

    long = {"samples": frames["samples"].repeat(LONG // FRAMES, 1, 1, 1)}

    def invert_long(length: int) -> tuple[float, NetworkTimer]:
        network = NetworkTimer()
        settings = {**invert, "latent": long, "context_length": length, "context_overlap": OVERLAP}
        took = seconds(lambda: pack.run("BIVDiffInvertVideo", model=network.attach(video), **settings))
        return took, network

    costs, slower = [], []
    for _ in range(ROUNDS):
        took, windowed = invert_long(FRAMES)
        _, at_once = invert_long(0)
        costs.append(took / windowed.seconds)
        slower.append(windowed.seconds / windowed.frames / (at_once.seconds / at_once.frames))
    print(f"DDIM Inverse (Video), {LONG} frames in windows of {FRAMES} that overlap by {OVERLAP}:")
    print(f"  {median(costs):.3f} of its model calls")
    print(f"  {windowed.frames / at_once.frames:.2f} times the frames of the clip as a whole")
    print(f"  {median(slower):.2f} of the model's time for a frame there")


if __name__ == "__main__":
    main()

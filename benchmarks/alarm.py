"""How well does the Inverted Latent Report tell a bad video before it is made?

    python benchmarks/alarm.py [--runs 200]

Every run takes a clip of the toy world through the real nodes and the demo models with controls drawn at random. The
report sees the mixed latent, never the video; whether the video is bad is settled on its decoded frames alone. Writes
docs/alarm.md, the evidence for the bounds in bivdiff_core/statistics.py.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import random
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.host import Pack, use_comfyui  # noqa: E402

CLIPS, FIRST_CLIP = 20, 100  # not those of claims.py
FRAME_STEPS, FRAME_CFG, SMOOTH_CFG = 25, 3.0, 1.0
CONTROLS = {
    "solver": ("ddim", "uni_inv", "fireflow", "fixed_point"),
    "steps": (3, 5, 10, 25, 50),
    "ratio": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    "mode": ("linear", "variance_preserving", "slerp", "frequency"),
    "strength": (0.6, 1.0, 1.0, 1.0),
}
MOST_IOU_LOST, MOST_CAPTION_LOST, SHARPNESS = 0.1, 0.2, (0.8, 1.25)
THRESHOLDS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


class Chain:
    """The chain of the demo workflow on a few clips, whose frames are drawn once."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.image, self.video, self.clip, self.vae, self.control_net = pack.run("BIVDiffDemoModels", variant="base")
        self.world = pack.import_module("bivdiff_core.demo.world")
        self.measure = pack.import_module("bivdiff_core.demo.measure")
        self.statistics = pack.import_module("bivdiff_core.statistics")
        (self.empty,) = pack.run("CLIPTextEncode", clip=self.clip, text="")
        self._made: dict[int, tuple] = {}

    def made(self, number: int) -> tuple:
        """A held-out clip, its caption as CONDITIONING, and its frames drawn one by one: their LATENT and measures."""
        if number not in self._made:
            clip = self.world.make_clip(self.world.HELD_OUT_SEEDS[FIRST_CLIP + number])
            (caption,) = self.pack.run("CLIPTextEncode", clip=self.clip, text=clip.caption)
            positive, negative = self.pack.run(
                "ControlNetApplyAdvanced",
                positive=caption,
                negative=self.empty,
                control_net=self.control_net,
                image=self.world.canny_control(clip.frames),
                strength=1.0,
                start_percent=0.0,
                end_percent=1.0,
            )
            (latent,) = self.pack.run(
                "BIVDiffFrameSampler",
                model=self.image,
                positive=positive,
                negative=negative,
                latent_image={"samples": torch.zeros(len(clip.frames), 4, 8, 8)},
                seed=number,
                steps=FRAME_STEPS,
                cfg=FRAME_CFG,
                sampler_name="ddim",
                scheduler="ddim_uniform",
                denoise=1.0,
                frame_noise="independent",
                frames_per_batch=0,
            )
            self._made[number] = clip, caption, latent, self.figures(latent, clip)
        return self._made[number]

    def figures(self, latent: dict, clip) -> tuple[float, float | None, float]:
        """A video's overlap with the known shapes, share of right colours, and sharpness."""
        (frames,) = self.pack.run("VAEDecode", vae=self.vae, samples=latent)
        of = self.measure
        return of.structure_iou(frames, clip), of.caption_accuracy(frames, clip), of.sharpness(frames)

    def run(self, number: int, controls: dict) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
        """The report's figures of a run's mixed latent, how far off each is, and whether the video is bad."""
        clip, caption, latent, before = self.made(number)
        ratio, strength = controls["ratio"], controls["strength"]
        schedule = {"steps": controls["steps"], "scheduler": "ddim_uniform", "strength": strength, "grid": "matched"}
        whole = {"context_length": 0, "context_overlap": 0}
        inverted = {"conditioning": caption, "latent": latent, "solver": controls["solver"], **schedule}
        image = video = None
        if ratio > 0:
            (image,) = self.pack.run("BIVDiffInvertImage", model=self.image, frames_per_batch=0, **inverted)
        if ratio < 1:
            (video,) = self.pack.run("BIVDiffInvertVideo", model=self.video, **inverted, **whole)
        mixed, _ = self.pack.run(
            "BIVDiffMixedInversion",
            image_latent=image,
            video_latent=video,
            task="custom",
            mixing_ratio=ratio,
            mode=controls["mode"],
        )
        (smoothed,) = self.pack.run(
            "BIVDiffTemporalSmoother",
            model=self.video,
            positive=caption,
            negative=self.empty,
            latent=mixed,
            cfg=SMOOTH_CFG,
            sampler_name="ddim",
            **schedule,
            **whole,
        )
        frames = self.statistics.as_frames(mixed["samples"])
        measured = self.statistics.measure(frames)
        off = self.statistics.excess(measured, self.statistics.limits(tuple(frames.shape)))
        return measured, off, is_bad(self.figures(smoothed, clip), before)


def is_bad(after: tuple[float, float | None, float], before: tuple[float, float | None, float]) -> bool:
    """Whether smoothing lost the shapes, the colours or the sharpness of the frames it was given."""
    (iou, caption, sharpness), (iou_before, caption_before, sharpness_before) = after, before
    low, high = SHARPNESS
    lost_colours = caption is not None and caption < caption_before - MOST_CAPTION_LOST
    return iou < iou_before - MOST_IOU_LOST or lost_colours or not low < sharpness / sharpness_before < high


def area_under_curve(scores: Tensor, bad: Tensor) -> float:
    """Chance that a bad run scores above a good one, ties counting half (Mann and Whitney); NaN without both kinds."""
    above = scores[bad][:, None] - scores[~bad]
    return ((above > 0).float() + (above == 0).float() / 2).mean().item()


def interval(scores: Tensor, bad: Tensor, draws: int = 1000) -> tuple[float, float]:
    """Bounds of the area under the curve in 95 of 100 resamplings of the runs."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(bad), (draws, len(bad)), generator=generator)
    areas = torch.tensor([area_under_curve(scores[pick], bad[pick]) for pick in picks])
    low, high = torch.nanquantile(areas, torch.tensor([0.025, 0.975])).tolist()
    return low, high


def spread(values: Tensor) -> str:
    """Where the middle 90 of 100 values lie."""
    low, high = torch.nanquantile(values, torch.tensor([0.05, 0.95])).tolist() if len(values) else (float("nan"),) * 2
    return f"{low:.2f} to {high:.2f}"


PAGE = """# How well the Inverted Latent Report tells a bad video beforehand

{date}, `python benchmarks/alarm.py --runs {runs}`: tiny models on a toy world, on {device}. {runs} runs over {clips}
held-out clips; every run draws its solver, steps, mixing ratio, blend mode and strength at random:

{controls}

A video is **bad** if, against the frames it was smoothed from, its shapes overlap the known masks by {iou:g} less, a
share {caption:g} more of the named colours is wrong, or its sharpness is not {low:g} to {high:g} times theirs: pixel
rules on the decoded video alone. {bad} of {runs} runs are. The report saw the mixed latent alone.

Area under the ROC curve of the report's severity (1 predicts perfectly, .5 is a coin): **{auc:.2f}**, 95% interval
{auc_low:.2f} to {auc_high:.2f}.

| alarm above a severity of | bad videos stopped | good videos stopped |
| ---: | ---: | ---: |
{roc}

The report uses 1. Each figure by itself, over the runs at full strength ({full}, {full_bad} bad):

| figure | good videos (middle 90%) | bad videos (middle 90%) | bounds in use | area under the curve of its excess |
| --- | ---: | ---: | ---: | ---: |
{figures}
"""


def main() -> None:
    """Run, count and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="how many random settings")
    count = parser.parse_args().runs
    accelerator = torch.accelerator.is_available()
    use_comfyui(cpu=not accelerator)
    pack = Pack()
    logging.disable(logging.INFO)
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    chain = Chain(pack)
    statistics = chain.statistics

    rng = random.Random(0)
    drawn = [{name: rng.choice(choices) for name, choices in CONTROLS.items()} for _ in range(count)]
    results = [chain.run(i % CLIPS, controls) for i, controls in enumerate(tqdm(drawn, desc="runs"))]
    bad = torch.tensor([lost for _, _, lost in results])
    scores = torch.tensor(
        [statistics.severity(off, controls["strength"]) for (_, off, _), controls in zip(results, drawn, strict=True)]
    )
    full = torch.tensor([controls["strength"] == 1 for controls in drawn])

    figures = []
    for name in statistics.ALARMING:
        worst = torch.tensor([values[name].flatten()[off[name].argmax()].item() for values, off, _ in results])
        excess = torch.tensor([off[name].max().item() for _, off, _ in results])
        low, high = statistics.HEALTHY[name]
        area = area_under_curve(excess[full], bad[full])
        cells = [name, spread(worst[full & ~bad]), spread(worst[full & bad]), f"{low:g} to {high:g}", f"{area:.2f}"]
        figures.append(f"| {' | '.join(cells)} |")
    auc_low, auc_high = interval(scores, bad)
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        runs=count,
        clips=min(CLIPS, count),
        device="a GPU" if accelerator else "a CPU",
        controls="\n".join(f"- {name}: {', '.join(map(str, choices))}" for name, choices in CONTROLS.items()),
        iou=MOST_IOU_LOST,
        caption=MOST_CAPTION_LOST,
        low=SHARPNESS[0],
        high=SHARPNESS[1],
        bad=bad.sum().item(),
        auc=area_under_curve(scores, bad),
        auc_low=auc_low,
        auc_high=auc_high,
        roc="\n".join(
            f"| {limit:g} | {(scores[bad] > limit).float().mean():.0%} | {(scores[~bad] > limit).float().mean():.0%} |"
            for limit in THRESHOLDS
        ),
        full=full.sum().item(),
        full_bad=(full & bad).sum().item(),
        figures="\n".join(figures),
    )
    (ROOT / "docs" / "alarm.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()

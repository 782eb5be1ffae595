"""How well does the Inverted Latent Report tell a bad video before it is made?

    python benchmarks/alarm.py [--runs 260]

Every run takes a clip of the toy world through the real nodes and the demo models with controls drawn at random. The
report sees the mixed latent, never the video; whether the video is bad is settled on its decoded frames alone. Writes
docs/alarm.md, the evidence for the levels of `ALARMING` in bivdiff_core/statistics.py.
"""

from __future__ import annotations

import argparse
import datetime
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from _records import Records
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bivdiff_core.demo import world  # noqa: E402
from tools import measure  # noqa: E402
from tools.chain import Chain, device, start, with_jumping_colours  # noqa: E402

CLIPS, FIRST_CLIP = 20, 100  # not those of claims.py
CONTROLS = {
    "footage": ("drawn", "drawn", "clean", "colours that jump", "one black frame", "one frame of static"),
    "inversion prompt": ("caption", "empty"),
    "solver": ("ddim", "uni_inv", "fireflow", "fixed_point"),
    "steps": (2, 3, 5, 10, 25, 50),
    "ratio": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    "mode": ("linear", "variance_preserving", "slerp", "frequency"),
    "strength": (0.6, 1.0, 1.0, 1.0),
}
LEAST_IOU, LEAST_COLOURS, SHARPNESS = 0.6, 0.75, (0.7, 1.4)
BROKEN_FRAME = 3
THRESHOLDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


class Runs(Chain):
    """Random runs on a few clips; what several need is made once."""

    def __init__(self) -> None:
        super().__init__(start())
        self.statistics = self.pack.import_module("bivdiff_core.statistics")
        self.clips = [world.make_clip(seed) for seed in world.HELD_OUT_SEEDS[FIRST_CLIP:][:CLIPS]]
        self.made: dict[tuple[int, str], dict] = {}

    def footage(self, number: int, kind: str) -> dict:
        """A clip's frames as they go into the chain, a LATENT: drawn from outlines, or its own, damaged or not."""
        if (number, kind) not in self.made:
            clip = self.clips[number]
            if kind == "drawn":
                empty = self.nothing(len(clip.frames))
                outlined = self.outlined(clip.frames, self.encode_text(clip.caption))
                made = self.draw(*outlined, empty, seed=number)
            else:
                frames = clip.frames.clone()
                if kind == "colours that jump":
                    frames = with_jumping_colours(frames, number)
                elif kind == "one black frame":
                    frames[BROKEN_FRAME] = 0
                elif kind == "one frame of static":
                    generator = torch.Generator().manual_seed(number)
                    frames[BROKEN_FRAME] = torch.rand(frames.shape[1:], generator=generator)
                made = self.encode(frames)
            self.made[number, kind] = made
        return self.made[number, kind]

    def run(self, number: int, controls: dict) -> dict:
        """The report's figures of a run's mixed latent, and pixel rules on each frame of the video."""
        clip = self.clips[number]
        latent, caption = self.footage(number, controls["footage"]), self.encode_text(clip.caption)
        given = {name: controls[name] for name in ("solver", "steps", "strength")}
        given["conditioning"] = caption if controls["inversion prompt"] == "caption" else self.empty
        image = self.invert_image(latent, **given) if controls["ratio"] > 0 else None
        video = self.invert_video(latent, **given) if controls["ratio"] < 1 else None
        try:
            mixed = self.blend(image, video, controls["ratio"], controls["mode"])
        except ValueError:  # plainly no noise: the nodes stop such a run themselves
            return {"refused": True}
        measured = self.statistics.measure(self.statistics.as_frames(mixed["samples"]))
        return {
            "refused": False,
            "shape": list(mixed["samples"].shape),
            "measured": {name: values.tolist() for name, values in measured.items()},
            "frames": self.rate(self.decode(self.smooth(mixed, caption, controls["steps"])), clip),
        }

    def rate(self, frames: Tensor, clip) -> list[dict]:
        """Each frame's overlap with the known shapes, share of right colours, and sharpness against the clip's own."""
        true = self.decode(self.encode(clip.frames))
        found = []
        for t in range(len(frames)):
            here = slice(t, t + 1)
            only = replace(clip, masks=clip.masks[:, here])
            found.append(
                {
                    "IoU": measure.structure_iou(frames[here], only),
                    "caption": measure.caption_accuracy(frames[here], only),
                    "sharpness": measure.sharpness(frames[here]) / measure.sharpness(true[here]),
                }
            )
        return found


def is_bad(frames: list[dict]) -> bool:
    """Whether a video lost shapes or sharpness in any frame, or colours in many."""
    right = [frame["caption"] for frame in frames if frame["caption"] is not None]
    low, high = SHARPNESS
    return (
        min(frame["IoU"] for frame in frames) < LEAST_IOU
        or bool(right and mean(right) < LEAST_COLOURS)
        or not all(low < frame["sharpness"] < high for frame in frames)
    )


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
held-out clips; every run draws its footage and its controls at random:

{controls}

A video is **bad** if in any frame its shapes overlap the known masks by less than {iou:g} or its sharpness is not
{low:g} to {high:g} times the clip's, or if over all frames less than {colours:.0%} of the colours that the caption
names are right: pixel rules on the decoded video alone. The report saw the mixed latent alone. {refused} runs ended
before: the nodes refuse a latent that is plainly no noise. Of the other {left} videos {bad} are bad.

The levels at which a figure raises the alarm were set on the runs of every second clip, so that 95 in 100 of its good
videos stay below each. What follows is from the **other** clips' {judged} runs, {judged_bad} of them bad.

Area under the ROC curve of the report's severity (1 predicts perfectly, .5 is a coin): **{auc:.2f}**, 95% interval
{auc_low:.2f} to {auc_high:.2f}. On whole footage, without the broken frames: {auc_whole:.2f} ({whole} runs,
{whole_bad} bad).

| alarm above a severity of | bad videos stopped | good videos stopped |
| ---: | ---: | ---: |
{roc}

The report uses 1.

**What this means.** The report finds broken frames: nearly all it stops have one, and the video breaks there. It does
not foresee a bad video from whole footage. The demo models make good videos from latents far from white noise, with a
standard deviation down to .7, and what makes their videos bad, shapes and colours that the image model got wrong or
that the video model lets go, does not show in the noise. Lost variance and leftover structure are therefore told as
notes, and raise the alarm only where few good videos came from. Larger models may be more particular: nothing
here says so.

| footage | runs | bad |
| --- | ---: | ---: |
{footage}

Each figure by itself, how many times as far off as white noise of that size ever is, over all runs at full strength:

| figure | good videos (middle 90%) | bad videos (middle 90%) | area under curve | level from this run | in use |
| --- | ---: | ---: | ---: | ---: | ---: |
{figures}
"""


def main() -> None:
    """Run, count and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=260, help="how many random settings")
    count = parser.parse_args().runs
    runs, records = Runs(), Records(ROOT / "output" / "alarm.jsonl")
    statistics = runs.statistics

    rng = random.Random(1)
    done = []
    for i in tqdm(range(count), desc="runs"):
        controls = {name: rng.choice(choices) for name, choices in CONTROLS.items()}
        found = records.get(f"{i} {controls}", lambda i=i, controls=controls: runs.run(i % CLIPS, controls))
        if not found["refused"]:
            measured = {name: torch.tensor(values) for name, values in found["measured"].items()}
            off = statistics.excess(measured, statistics.limits(tuple(found["shape"])))
            done.append((i % CLIPS, controls, off, is_bad(found["frames"])))

    bad = torch.tensor([lost for *_, lost in done])
    judged = torch.tensor([clip % 2 == 1 for clip, *_ in done])
    full = torch.tensor([controls["strength"] == 1 for _, controls, *_ in done])
    whole = torch.tensor([not controls["footage"].startswith("one") for _, controls, *_ in done])
    scores = torch.tensor([statistics.severity(off, controls["strength"]) for _, controls, off, _ in done])

    figures = []
    for name, level in statistics.ALARMING.items():
        excess = torch.tensor([off[name].max().item() for _, _, off, _ in done])
        counting = torch.ones_like(full) if name.startswith("odd") else full
        from_here = excess[counting & ~judged & ~bad].quantile(0.95).item()
        area = area_under_curve(excess[full], bad[full])
        cells = [name, spread(excess[full & ~bad]), spread(excess[full & bad]), f"{area:.2f}"]
        figures.append(f"| {' | '.join(cells)} | {from_here:.1f} | {level:g} |")
    lines = []
    for kind in dict.fromkeys(CONTROLS["footage"]):
        lost = [bad_now for _, controls, _, bad_now in done if controls["footage"] == kind]
        lines.append(f"| {kind} | {len(lost)} | {sum(lost) / max(len(lost), 1):.0%} |")
    auc_low, auc_high = interval(scores[judged], bad[judged])
    caught, spared = scores[judged & bad], scores[judged & ~bad]
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        runs=count,
        clips=min(CLIPS, count),
        device=device(),
        controls="\n".join(f"- {name}: {', '.join(map(str, choices))}" for name, choices in CONTROLS.items()),
        iou=LEAST_IOU,
        colours=LEAST_COLOURS,
        low=SHARPNESS[0],
        high=SHARPNESS[1],
        refused=count - len(done),
        left=len(done),
        bad=bad.sum().item(),
        judged=judged.sum().item(),
        judged_bad=(judged & bad).sum().item(),
        auc=area_under_curve(scores[judged], bad[judged]),
        auc_low=auc_low,
        auc_high=auc_high,
        auc_whole=area_under_curve(scores[judged & whole], bad[judged & whole]),
        whole=(judged & whole).sum().item(),
        whole_bad=(judged & whole & bad).sum().item(),
        roc="\n".join(
            f"| {limit:g} | {(caught > limit).float().mean():.0%} | {(spared > limit).float().mean():.0%} |"
            for limit in THRESHOLDS
        ),
        footage="\n".join(lines),
        figures="\n".join(figures),
    )
    (ROOT / "docs" / "alarm.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()

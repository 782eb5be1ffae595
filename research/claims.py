"""Does it do what BIVDiff claims? Held-out clips of the toy world through the real nodes, beside every cheap way out.

    python -m research.claims [--clips 24] [--sheet]

Measures the runs that rows/claims.jsonl lacks, and fills the tables of pages/claims.md, which says what the columns
mean; --sheet writes docs/evidence.png. Move the rows away after a change of the models or the nodes.
"""

from __future__ import annotations

import argparse
from itertools import product

import pandas
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import FRAME_CFG, SMOOTH_CFG, add_colour_flicker, average_three_frames, start
from research.frame_counter import CountingChain, PricedResult
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import ROOT, confidence_interval, run_jobs
from research.toy_metrics import measure_figures, sharpness
from tools.contact_sheet import make_contact_sheet

STEPS = 25
LOW_STRENGTH, STEADINESS = 0.5, 0.5
"""A strength below the nodes' 1, and the steadiness tried at it."""
REACHES = (1, 3, 7)
RELEASED_CFG = 7.5
FIRST_CLIP = 24
"""Of the held-out clips; on those before it settings were chosen."""
SEEDS = (0, 1)

FRAMES = ("independent", "shared", "own")
UNSMOOTHED, STRUCTURE_PASS_SUFFIX, RECOLOURED = "frames", " -> structure pass", "frames, another colour"
BIVDIFF_WAYS = (
    "BIVDiff 1",
    f"BIVDiff 1, strength {LOW_STRENGTH:g}",
    f"BIVDiff 1, strength {LOW_STRENGTH:g}, steadiness {STEADINESS:g}",
)
BASELINES = ("average of 3", *(f"along motion {reach}" for reach in REACHES))
FIGURES = ("shape flicker", "background flicker", "IoU", "caption", "sharpness")
COMPARED_WAYS = (
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", UNSMOOTHED),
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", f"{UNSMOOTHED}{STRUCTURE_PASS_SUFFIX}"),
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", "BIVDiff 1"),
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", f"average of 3{STRUCTURE_PASS_SUFFIX}"),
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", f"along motion 1{STRUCTURE_PASS_SUFFIX}"),
    (f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}", f"{BIVDIFF_WAYS[1]}{STRUCTURE_PASS_SUFFIX}"),
    (f"{BIVDIFF_WAYS[2]}{STRUCTURE_PASS_SUFFIX}", f"{BIVDIFF_WAYS[1]}{STRUCTURE_PASS_SUFFIX}"),
)
"""Ways whose differences clip by clip the page shows, for each kind of clips and frames."""
OTHER_NOISE = {"independent": ("shared", "the source's noise"), "shared": ("the source's noise",), "own": ()}
"""From what noise an artist can draw other frames instead of steadying these; frames of one's own are what they are."""
MIN_SHARPNESS_KEPT, MAX_POINTS_LOST = 0.9, 0.01
SHEET_CLIPS = 2
SHEET_WAYS = (
    ("source", "source"),
    ("independent", UNSMOOTHED),
    ("shared", UNSMOOTHED),
    ("independent", "along motion 1"),
    ("independent", "BIVDiff 1"),
    ("independent", f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}"),
    ("shared", f"BIVDiff 1{STRUCTURE_PASS_SUFFIX}"),
)

Ways = dict[tuple[str, str], PricedResult]
"""Videos `[F, H, W, 3]` with their prices, by the frames that they are made of and the way."""


class ClaimsChain(CountingChain):
    """Every way for one clip and seed."""

    def ways(self, clip: toy_world.ToyClip, seed: int) -> Ways:
        """What every way makes of a clip."""
        self.source, self.text = clip.frames, self.encode_text(clip.caption)
        self.controlled = self.outlined(clip.frames, self.text)
        empty = self.nothing(len(clip.frames))
        encoded = self.step(lambda: self.encode(clip.frames))
        made: Ways = {("source", "source"): self.step(self.decode, encoded)}
        for noise in ("independent", "shared"):
            drawn = self.step(lambda noise=noise: self.draw(*self.controlled, empty, seed, noise, STEPS))
            made |= self.steadied(noise, drawn, self.step(self.decode, drawn))
            if noise == "independent":
                made |= self.as_published(drawn)
        own = self.step(lambda: add_colour_flicker(clip.frames, seed))
        made |= self.steadied("own", self.step(self.encode, own), own)
        self.remembered = self.step(lambda latent: self.invert_image(latent, self.text, 1.0, steps=STEPS), encoded)
        made["the source's noise", UNSMOOTHED] = self.drawn_from(self.remembered, self.controlled)
        alone = self.step(lambda: self.sample(self.video, self.text, empty, seed, steps=STEPS))
        made["none", "video model alone"] = self.step(self.decode, alone)
        return made

    def edits(self, clip: toy_world.ToyClip, goal: toy_world.ToyClip, seed: int) -> Ways:
        """The clip of `ways` in the goal's colours, from its own noise and from independent noise, not smoothed."""
        controlled = self.outlined(clip.frames, self.encode_text(goal.caption))
        drawn = self.step(lambda: self.draw(*controlled, self.nothing(len(clip.frames)), seed, steps=STEPS))
        return {
            ("the source's noise", RECOLOURED): self.drawn_from(self.remembered, controlled),
            ("independent", RECOLOURED): self.step(self.decode, drawn),
        }

    def drawn_from(self, inverted: PricedResult, controlled: tuple[list, list]) -> PricedResult:
        """Frames drawn from the noise that others were inverted to, as a video."""
        drawn = self.step(lambda latent: self.redraw(latent, *controlled, STEPS, FRAME_CFG), inverted)
        return self.step(self.decode, drawn)

    def steadied(self, frames: str, latent: PricedResult, pictures: PricedResult) -> Ways:
        """Frames, and every way to steady them."""
        made: Ways = {
            (frames, UNSMOOTHED): pictures,
            (frames, f"{UNSMOOTHED}{STRUCTURE_PASS_SUFFIX}"): self.passed(latent),
        }
        for way in BASELINES:
            made[frames, way] = averaged = self.step(lambda images, way=way: self.averaged(images, way), pictures)
            made[frames, f"{way}{STRUCTURE_PASS_SUFFIX}"] = self.passed(self.step(self.encode, averaged))
        pure, image, video = (
            self.step(lambda latent, of=of, to=to: of(latent, self.text, to, steps=STEPS), latent)
            for of, to in (
                (self.invert_image, 1.0),
                (self.invert_image, LOW_STRENGTH),
                (self.invert_video, LOW_STRENGTH),
            )
        )
        mixed = {
            f"BIVDiff 0.5, strength {LOW_STRENGTH:g}": self.step(lambda *both: self.blend(*both, 0.5), image, video),
            BIVDIFF_WAYS[0]: self.step(lambda image: self.blend(image, None, 1.0), pure),
            BIVDIFF_WAYS[1]: self.step(lambda image: self.blend(image, None, 1.0), image),
            BIVDIFF_WAYS[2]: self.step(lambda image: self.blend(image, None, 1.0, steadiness=STEADINESS), image),
        }
        for way, blended in mixed.items():
            made |= self.smoothed(frames, way, blended)
        return made

    def averaged(self, images: torch.Tensor, way: str) -> torch.Tensor:
        """Frames `[F, H, W, 3]` averaged in one of the `BASELINES` ways."""
        if way == BASELINES[0]:
            return average_three_frames(images)
        return average_along_flow(images, self.source, int(way.split()[-1]))[0]

    def as_published(self, latent: PricedResult) -> Ways:
        """Independent frames inverted without a caption, and as the released code does it."""
        image = self.step(lambda latent: self.invert_image(latent, self.empty, 1.0, steps=STEPS), latent)
        made = self.smoothed("independent", "BIVDiff 1, no caption", image)
        grid = {"steps": STEPS, "grid": "reference"}
        released = self.step(lambda latent: self.invert_image(latent, self.empty, 1.0, **grid), latent)
        for cfg in (SMOOTH_CFG, RELEASED_CFG):
            video = self.step(lambda latent, cfg=cfg: self.smooth(latent, self.text, cfg=cfg, **grid), released)
            made["independent", f"BIVDiff 1, as released, guidance {cfg:g}"] = self.step(self.decode, video)
        image = self.step(lambda latent: self.invert_image(latent, self.text, LOW_STRENGTH, steps=STEPS), latent)
        again = self.step(lambda latent: self.redraw(latent, self.text, self.empty, STEPS), image)
        made["independent", "image model for the video model"] = self.step(self.decode, again)
        return made

    def smoothed(self, frames: str, way: str, mixed: PricedResult) -> Ways:
        """An inverted LATENT smoothed, and the structure pass after it."""
        video = self.step(lambda latent: self.smooth(latent, self.text, STEPS), mixed)
        return {
            (frames, way): self.step(self.decode, video),
            (frames, f"{way}{STRUCTURE_PASS_SUFFIX}"): self.passed(video),
        }

    def passed(self, latent: PricedResult) -> PricedResult:
        """A LATENT after the structure pass, as a video."""
        again = self.step(lambda latent: self.structure_pass(latent, self.text, self.controlled, STEPS), latent)
        return self.step(self.decode, again)


def init_worker() -> None:
    """Load the chain into this process."""
    global chain
    chain = ClaimsChain(start())


def run_job(job: dict) -> dict:
    """A row: figures of every way on a job's clip."""
    clip = toy_world.held_out_clip(job["kind"], job["clip"])
    goal = toy_world.recolour(clip, clip.seed)
    made = chain.ways(clip, job["seed"])
    reference = sharpness(made["source", "source"].result)
    made |= chain.edits(clip, goal, job["seed"])
    ways: dict[str, dict] = {}
    for (frames, way), video in made.items():
        figures = measure_figures(video.result, goal if way == RECOLOURED else clip)
        figures["sharpness"] /= reference
        rounded = {name: value if value is None else round(value, 5) for name, value in figures.items()}
        ways.setdefault(frames, {})[way] = rounded | {"calls": video.calls}
    said = toy_world.parse_caption(clip.caption)
    return {"colourless": said.background is None or said.shapes[0][0] is None, "ways": ways}


def results_table(rows: list[dict]) -> pandas.DataFrame:
    """One line for each way, the mean over the seeds of a clip: indexed by kind, frames, way and clip."""
    lines = [
        {"kind": row["kind"], "frames": frames, "way": way, "clip": row["clip"], "colourless": row["colourless"]}
        | figures
        for row in rows
        for frames, ways in row["ways"].items()
        for way, figures in ways.items()
    ]
    table = pandas.DataFrame(lines).astype(dict.fromkeys(FIGURES, float))
    return table.groupby(["kind", "frames", "way", "clip"], sort=False).mean()


def means_table(table: pandas.DataFrame) -> str:
    """The figures of each way, means over clips, as Markdown."""
    found = table.groupby(["frames", "way"], sort=False)[[*FIGURES, "calls"]].mean().reset_index()
    digits = ["", "", ".3f", ".3f", ".2f", ".2f", ".2f", ".0f"]
    return found.to_markdown(index=False, floatfmt=digits, missingval="")


Comparison = tuple[str, str, tuple[str, str], str]
"""Frames, a way of BIVDiff's, the frames and the way that it is compared with, and their name."""


def comparisons() -> list[Comparison]:
    """Every comparison of the page: `COMPARED_WAYS` for each kind of frames, and other frames from `OTHER_NOISE`."""
    found = [(frames, ours, (frames, theirs), theirs) for frames, (ours, theirs) in product(FRAMES, COMPARED_WAYS)]
    for frames, others in OTHER_NOISE.items():
        found += [(frames, COMPARED_WAYS[0][0], (other, UNSMOOTHED), f"{UNSMOOTHED}, {other}") for other in others]
    return found


def differences_table(table: pandas.DataFrame, compared: list[Comparison]) -> list[dict]:
    """Lines of mean differences clip by clip, between the bounds of 95% of resampled means."""
    table, lines = table.sort_index(), []
    for frames, ours, against, name in compared:
        gains = table.loc[frames, ours][[*FIGURES]] - table.loc[against][[*FIGURES]]
        line = {"frames": frames, "way": ours, "against": name}
        for figure in FIGURES:
            low, high = confidence_interval(gains[figure])
            line[figure] = f"{gains[figure].mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(line)
    return lines


def goals_table(table: pandas.DataFrame) -> str:
    """The aims for each kind of frames beside what the ways of BIVDiff's with the structure pass measured."""
    found = table.groupby(["frames", "way"], sort=False)[[*FIGURES]].mean()
    lines = []
    for way, frames in product(BIVDIFF_WAYS, FRAMES):
        plain, ours = found.loc[frames, UNSMOOTHED], found.loc[frames, f"{way}{STRUCTURE_PASS_SUFFIX}"]
        cheap = found.loc[frames].loc[
            [
                f"{UNSMOOTHED}{STRUCTURE_PASS_SUFFIX}",
                *BASELINES,
                *(f"{name}{STRUCTURE_PASS_SUFFIX}" for name in BASELINES),
            ]
        ]
        cheap = cheap[cheap["sharpness"] >= MIN_SHARPNESS_KEPT * plain["sharpness"]]
        line = {"way": f"{way}{STRUCTURE_PASS_SUFFIX}", "frames": frames}
        kept = ours["sharpness"] / plain["sharpness"]
        for figure in FIGURES[:2]:
            best = cheap[figure].idxmin()
            met = "" if ours[figure] < cheap[figure][best] else "MISSED: "
            line[figure] = f"{met}{ours[figure]:.3f}, {best} {cheap[figure][best]:.3f}"
        anew = found.loc[[(noise, UNSMOOTHED) for noise in OTHER_NOISE[frames]]]
        beaten = (anew[[*FIGURES[:2]]] > ours[[*FIGURES[:2]]]).to_numpy().all()
        line["frames drawn anew"] = ("" if beaten else "MISSED: ") + "; ".join(
            f"{noise} {figures.iloc[0]:.3f} / {figures.iloc[1]:.3f}" for (noise, _), figures in anew.iterrows()
        )
        for figure in FIGURES[2:4]:
            points = ours[figure] - plain[figure]
            line[figure] = ("" if points >= -MAX_POINTS_LOST else "MISSED: ") + f"{100 * points:+.1f} points"
        line["sharpness kept"] = ("" if kept >= MIN_SHARPNESS_KEPT else "MISSED: ") + f"{kept:.0%}"
        lines.append(line)
    return markdown_table(lines)


def render_tables(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    table = results_table(rows)
    clips, seeds = ({row[name] for row in rows} for name in ("clip", "seed"))
    made = {"run": describe_run(rows, f"{len(clips)} clips of each kind, {len(seeds)} seeds.")}
    for kind in toy_world.CLIP_KINDS:
        of_kind = table.loc[kind]
        silent = of_kind[of_kind["colourless"] > 0]
        shown = silent[silent.index.isin([(*way, clip) for way in SHEET_WAYS for clip in silent.index.levels[2]])]
        made |= {
            f"aims, {kind}": goals_table(of_kind),
            f"means, {kind}": means_table(of_kind),
            f"differences, {kind}": markdown_table(differences_table(of_kind, comparisons())),
            f"colourless, {kind}": means_table(shown),
        }
    return made


def make_sheet() -> Image.Image:
    """A block for each clip, easy ones left and hard ones right: a line of frames for each of `SHEET_WAYS`."""
    init_worker()
    blocks = []
    for number, kind in product(range(SHEET_CLIPS), toy_world.CLIP_KINDS):
        clip = toy_world.held_out_clip(kind, FIRST_CLIP + number)
        made = chain.ways(clip, SEEDS[0])
        shown = {way if of == "source" else f"{of}: {way}": made[of, way].result for of, way in SHEET_WAYS}
        blocks.append(pil_to_tensor(make_contact_sheet(shown, tile=68, label=290, title=f"{kind}: {clip.caption}")))
    return to_pil_image(make_grid(torch.stack(blocks), nrow=len(toy_world.CLIP_KINDS), padding=0))


def main() -> None:
    """Measure what is missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24, help="how many held-out clips of each kind")
    parser.add_argument("--sheet", action="store_true", help="write the contact sheet docs/evidence.png")
    given = parser.parse_args()
    clips = range(FIRST_CLIP, FIRST_CLIP + given.clips)
    jobs = [
        {"clip": clip, "kind": kind, "seed": seed} for clip, kind, seed in product(clips, toy_world.CLIP_KINDS, SEEDS)
    ]
    write_page("research/pages/claims.md", render_tables(run_jobs("claims", jobs, run_job, init_worker)))
    if given.sheet:
        make_sheet().quantize(256).save(ROOT / "docs" / "evidence.png", optimize=True)


if __name__ == "__main__":
    main()

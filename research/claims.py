"""Does the pack do what BIVDiff claims? Held-out toy clips with the real nodes, compared with every cheap alternative.

    python -m research.claims [--clips 24]
    python -m research.claims --sheet

Measures the runs that are missing in rows/claims.jsonl, and fills the tables of pages/claims.md, which explains the
columns; --sheet only writes docs/evidence.png. Delete the rows after a change of the models or the nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

import pandas
import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import FRAME_CFG, SMOOTH_CFG, add_colour_flicker, average_three_frames
from research.frame_counter import CountingChain, PricedResult
from research.page_tables import describe_run, format_change, markdown_table
from research.rows_and_jobs import ROOT, run_study
from research.toy_metrics import FIGURES, measure_figures, sharpness
from tools.contact_sheet import make_contact_sheet

STEPS = 25
LOW_STRENGTH, STEADINESS = 0.5, 0.5
"""A strength below the nodes' default of 1, and the steadiness tested with it."""
REACHES = (1, 3, 7)
RELEASED_CFG = 7.5
FIRST_CLIP = 24
"""First held-out clip; settings were chosen on the clips before it."""
SEEDS = (0, 1)

FRAMES = ("independent", "shared", "own")
UNSMOOTHED, STRUCTURE_PASS_SUFFIX, RECOLOURED = "frames", " -> structure pass", "frames, another colour"
BIVDIFF_METHODS = (
    "BIVDiff 1",
    f"BIVDiff 1, strength {LOW_STRENGTH:g}",
    f"BIVDiff 1, strength {LOW_STRENGTH:g}, steadiness {STEADINESS:g}",
)
BASELINES = ("average of 3", *(f"along motion {reach}" for reach in REACHES))
WITH_PASS, WITH_PASS_LOW_STRENGTH = (f"{method}{STRUCTURE_PASS_SUFFIX}" for method in BIVDIFF_METHODS[:2])
COMPARED_METHODS = (
    (WITH_PASS, UNSMOOTHED),
    (WITH_PASS, f"{UNSMOOTHED}{STRUCTURE_PASS_SUFFIX}"),
    (WITH_PASS, "BIVDiff 1"),
    (WITH_PASS, f"average of 3{STRUCTURE_PASS_SUFFIX}"),
    (WITH_PASS, f"along motion 1{STRUCTURE_PASS_SUFFIX}"),
    (WITH_PASS, WITH_PASS_LOW_STRENGTH),
    (f"{BIVDIFF_METHODS[2]}{STRUCTURE_PASS_SUFFIX}", WITH_PASS_LOW_STRENGTH),
)
"""Pairs of methods that the page compares on the same clips, for each kind of clips and frames."""
OTHER_NOISE = {"independent": ("shared", "the source's noise"), "shared": ("the source's noise",), "own": ()}
"""Other noise from which an artist can generate frames instead of smoothing these; own frames have no alternative."""
MIN_SHARPNESS_KEPT, MAX_POINTS_LOST = 0.9, 0.01
SHEET_CLIPS = 2
SHEET_METHODS = (
    ("source", "source"),
    ("independent", UNSMOOTHED),
    ("shared", UNSMOOTHED),
    ("independent", "along motion 1"),
    ("independent", "BIVDiff 1"),
    ("independent", WITH_PASS),
    ("shared", WITH_PASS),
)

Videos = dict[tuple[str, str], PricedResult]
"""Videos `[F, H, W, 3]` with their costs, by (frames that they are made from, method)."""


class ClaimsChain(CountingChain):
    """Every method on one clip and seed."""

    def make_videos(self, clip: toy_world.ToyClip, seed: int) -> Videos:
        """The videos of every method for a clip."""
        self.source, self.text = clip.frames, self.encode_text(clip.caption)
        self.controlled = self.apply_outline_control(clip.frames, self.text)
        empty = self.empty_latent(len(clip.frames))
        encoded = self.run_step(self.encode, clip.frames)
        made: Videos = {("source", "source"): self.run_step(self.decode, encoded)}
        for noise in ("independent", "shared"):
            latent = self.run_step(self.generate_frames, *self.controlled, empty, seed, noise, STEPS)
            made |= self.smooth_by_every_method(noise, latent, self.run_step(self.decode, latent))
            if noise == "independent":
                made |= self.make_released_videos(latent)
        own = self.run_step(add_colour_flicker, clip.frames, seed)
        made |= self.smooth_by_every_method("own", self.run_step(self.encode, own), own)
        self.inverted_source = self.run_step(self.invert_image, encoded, self.text, 1.0, steps=STEPS)
        made["the source's noise", UNSMOOTHED] = self.generate_from_inversion(self.inverted_source, self.controlled)
        alone = self.run_step(self.run_ksampler, self.video, self.text, empty, seed, steps=STEPS)
        made["none", "video model alone"] = self.run_step(self.decode, alone)
        return made

    def make_edits(self, clip: toy_world.ToyClip, goal: toy_world.ToyClip, seed: int) -> Videos:
        """The clip of `make_videos` in the goal's colours, unsmoothed: from its inverted and from independent noise."""
        controlled = self.apply_outline_control(clip.frames, self.encode_text(goal.caption))
        empty = self.empty_latent(len(clip.frames))
        latent = self.run_step(self.generate_frames, *controlled, empty, seed, steps=STEPS)
        return {
            ("the source's noise", RECOLOURED): self.generate_from_inversion(self.inverted_source, controlled),
            ("independent", RECOLOURED): self.run_step(self.decode, latent),
        }

    def generate_from_inversion(self, inverted: PricedResult, controlled: tuple[list, list]) -> PricedResult:
        """A video generated from an inverted LATENT."""
        latent = self.run_step(self.denoise_by_frame, inverted, *controlled, STEPS, FRAME_CFG)
        return self.run_step(self.decode, latent)

    def smooth_by_every_method(self, frames: str, latent: PricedResult, pictures: PricedResult) -> Videos:
        """Frames, and the video of every method that smooths them."""
        made: Videos = {
            (frames, UNSMOOTHED): pictures,
            (frames, f"{UNSMOOTHED}{STRUCTURE_PASS_SUFFIX}"): self.run_structure_pass(latent),
        }
        for method in BASELINES:
            made[frames, method] = averaged = self.run_step(self.average, pictures, method)
            encoded = self.run_step(self.encode, averaged)
            made[frames, f"{method}{STRUCTURE_PASS_SUFFIX}"] = self.run_structure_pass(encoded)

        def invert(function: Callable, strength: float) -> PricedResult:
            return self.run_step(function, latent, self.text, strength, steps=STEPS)

        full, image, video = (
            invert(self.invert_image, 1.0),
            invert(self.invert_image, LOW_STRENGTH),
            invert(self.invert_video, LOW_STRENGTH),
        )
        mixed = {
            f"BIVDiff 0.5, strength {LOW_STRENGTH:g}": self.run_step(self.blend, image, video, 0.5),
            BIVDIFF_METHODS[0]: self.run_step(self.blend, full, None, 1.0),
            BIVDIFF_METHODS[1]: self.run_step(self.blend, image, None, 1.0),
            BIVDIFF_METHODS[2]: self.run_step(self.blend, image, None, 1.0, steadiness=STEADINESS),
        }
        for method, blended in mixed.items():
            made |= self.smooth_with_and_without_pass(frames, method, blended)
        return made

    def average(self, images: Tensor, method: str) -> Tensor:
        """Average frames `[F, H, W, 3]` by one of the `BASELINES`."""
        if method == BASELINES[0]:
            return average_three_frames(images)
        return average_along_flow(images, self.source, int(method.split()[-1]))[0]

    def make_released_videos(self, latent: PricedResult) -> Videos:
        """Videos of independent frames: no caption in the inversion, released settings, image model in both stages."""
        image = self.run_step(self.invert_image, latent, self.empty, 1.0, steps=STEPS)
        made = self.smooth_with_and_without_pass("independent", "BIVDiff 1, no caption", image)
        grid = {"steps": STEPS, "grid": "reference"}
        released = self.run_step(self.invert_image, latent, self.empty, 1.0, **grid)
        for cfg in (SMOOTH_CFG, RELEASED_CFG):
            video = self.run_step(self.smooth, released, self.text, cfg=cfg, **grid)
            made["independent", f"BIVDiff 1, as released, guidance {cfg:g}"] = self.run_step(self.decode, video)
        image = self.run_step(self.invert_image, latent, self.text, LOW_STRENGTH, steps=STEPS)
        denoised = self.run_step(self.denoise_by_frame, image, self.text, self.empty, STEPS)
        made["independent", "image model for the video model"] = self.run_step(self.decode, denoised)
        return made

    def smooth_with_and_without_pass(self, frames: str, method: str, mixed: PricedResult) -> Videos:
        """Smooth an inverted LATENT: the video without and with the structure pass."""
        video = self.run_step(self.smooth, mixed, self.text, STEPS)
        return {
            (frames, method): self.run_step(self.decode, video),
            (frames, f"{method}{STRUCTURE_PASS_SUFFIX}"): self.run_structure_pass(video),
        }

    def run_structure_pass(self, latent: PricedResult) -> PricedResult:
        """The video of a LATENT after the structure pass."""
        restored = self.run_step(self.structure_pass, latent, self.text, self.controlled, STEPS)
        return self.run_step(self.decode, restored)


def make_jobs(clips: int) -> list[dict]:
    """The held-out clips from `FIRST_CLIP`, of each kind and with each seed."""
    settings = product(range(FIRST_CLIP, FIRST_CLIP + clips), toy_world.CLIP_KINDS, SEEDS)
    return [{"clip": clip, "kind": kind, "seed": seed} for clip, kind, seed in settings]


def measure(chain: ClaimsChain, job: dict) -> dict:
    """A row: the figures of every method on a clip."""
    clip = toy_world.held_out_clip(job["kind"], job["clip"])
    goal = toy_world.recolour(clip, clip.seed)
    made = chain.make_videos(clip, job["seed"])
    reference = sharpness(made["source", "source"].result)
    made |= chain.make_edits(clip, goal, job["seed"])
    ways: dict[str, dict] = {}
    for (frames, method), video in made.items():
        figures = measure_figures(video.result, goal if method == RECOLOURED else clip)
        figures |= {"sharpness": figures["sharpness"] / reference, "calls": video.calls}
        ways.setdefault(frames, {})[method] = figures
    caption = toy_world.parse_caption(clip.caption)
    return {"colourless": caption.background is None or caption.shapes[0][0] is None, "ways": ways}


def results_table(rows: list[dict]) -> pandas.DataFrame:
    """One line for each method, the mean over the seeds of a clip; indexed by kind, frames, method and clip."""
    lines = [
        {"kind": row["kind"], "frames": frames, "way": method, "clip": row["clip"], "colourless": row["colourless"]}
        | figures
        for row in rows
        for frames, ways in row["ways"].items()
        for method, figures in ways.items()
    ]
    table = pandas.DataFrame(lines).astype(dict.fromkeys(FIGURES, float))
    return table.groupby(["kind", "frames", "way", "clip"], sort=False).mean()


def means_table(table: pandas.DataFrame) -> str:
    """The mean figures of each method over the clips, as Markdown."""
    found = table.groupby(["frames", "way"], sort=False)[[*FIGURES, "calls"]].mean().reset_index()
    digits = ["", "", ".3f", ".3f", ".2f", ".2f", ".2f", ".0f"]
    return found.to_markdown(index=False, floatfmt=digits, missingval="")


Comparison = tuple[str, str, tuple[str, str], str]
"""Frames, a method of BIVDiff, the (frames, method) that it is compared with, and the name of the latter."""


def comparisons() -> list[Comparison]:
    """All comparisons of the page: `COMPARED_METHODS` for each kind of frames, and frames from `OTHER_NOISE`."""
    found = [(frames, ours, (frames, theirs), theirs) for frames, (ours, theirs) in product(FRAMES, COMPARED_METHODS)]
    for frames, others in OTHER_NOISE.items():
        found += [(frames, COMPARED_METHODS[0][0], (other, UNSMOOTHED), f"{UNSMOOTHED}, {other}") for other in others]
    return found


def differences_table(table: pandas.DataFrame, compared: list[Comparison]) -> list[dict]:
    """A line for each comparison: mean differences on the same clips, with their 95% bootstrap intervals."""
    table, lines = table.sort_index(), []
    for frames, ours, against, name in compared:
        gains = table.loc[frames, ours][[*FIGURES]] - table.loc[against][[*FIGURES]]
        line = {"frames": frames, "way": ours, "against": name}
        lines.append(line | {figure: format_change(gains[figure]) for figure in FIGURES})
    return lines


def goals_table(table: pandas.DataFrame) -> str:
    """The goals for each kind of frames, and the figures of the BIVDiff methods with the structure pass."""

    def mark(met: bool, text: str) -> str:
        return text if met else f"MISSED: {text}"

    found = table.groupby(["frames", "way"], sort=False)[[*FIGURES]].mean()
    with_pass = [f"{method}{STRUCTURE_PASS_SUFFIX}" for method in (UNSMOOTHED, *BASELINES)]
    lines = []
    for method, frames in product(BIVDIFF_METHODS, FRAMES):
        plain, ours = found.loc[frames, UNSMOOTHED], found.loc[frames, f"{method}{STRUCTURE_PASS_SUFFIX}"]
        cheap = found.loc[frames].loc[[with_pass[0], *BASELINES, *with_pass[1:]]]
        cheap = cheap[cheap["sharpness"] >= MIN_SHARPNESS_KEPT * plain["sharpness"]]
        line = {"way": f"{method}{STRUCTURE_PASS_SUFFIX}", "frames": frames}
        for figure in FIGURES[:2]:
            best = cheap[figure].idxmin()
            text = f"{ours[figure]:.3f}, {best} {cheap[figure][best]:.3f}"
            line[figure] = mark(ours[figure] < cheap[figure][best], text)
        others = found.loc[[(noise, UNSMOOTHED) for noise in OTHER_NOISE[frames]], [*FIGURES[:2]]]
        text = "; ".join(f"{noise} {shape:.3f} / {ground:.3f}" for (noise, _), shape, ground in others.itertuples())
        line["frames drawn anew"] = mark((others > ours[[*FIGURES[:2]]]).to_numpy().all(), text)
        for figure in FIGURES[2:4]:
            points = ours[figure] - plain[figure]
            line[figure] = mark(points >= -MAX_POINTS_LOST, f"{100 * points:+.1f} points")
        kept = ours["sharpness"] / plain["sharpness"]
        line["sharpness kept"] = mark(kept >= MIN_SHARPNESS_KEPT, f"{kept:.0%}")
        lines.append(line)
    return markdown_table(lines)


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = results_table(rows)
    clips, seeds = ({row[name] for row in rows} for name in ("clip", "seed"))
    blocks = {"run": describe_run(rows, f"{len(clips)} clips of each kind, {len(seeds)} seeds.")}
    for kind in toy_world.CLIP_KINDS:
        of_kind = table.loc[kind]
        colourless = of_kind[of_kind["colourless"] > 0]
        index = [(*method, clip) for method in SHEET_METHODS for clip in colourless.index.levels[2]]
        shown = colourless[colourless.index.isin(index)]
        blocks |= {
            f"aims, {kind}": goals_table(of_kind),
            f"means, {kind}": means_table(of_kind),
            f"differences, {kind}": markdown_table(differences_table(of_kind, comparisons())),
            f"colourless, {kind}": means_table(shown),
        }
    return blocks


def save_sheet() -> None:
    """Save the contact sheet: a block for each clip, easy clips left, hard clips right; rows are `SHEET_METHODS`."""
    chain, blocks = ClaimsChain(), []
    for number, kind in product(range(SHEET_CLIPS), toy_world.CLIP_KINDS):
        clip = toy_world.held_out_clip(kind, FIRST_CLIP + number)
        made = chain.make_videos(clip, SEEDS[0])
        shown = {
            method if of == "source" else f"{of}: {method}": made[of, method].result for of, method in SHEET_METHODS
        }
        blocks.append(pil_to_tensor(make_contact_sheet(shown, tile=68, label=290, title=f"{kind}: {clip.caption}")))
    sheet = to_pil_image(make_grid(torch.stack(blocks), nrow=len(toy_world.CLIP_KINDS), padding=0))
    sheet.quantize(256).save(ROOT / "docs" / "evidence.png", optimize=True)


if __name__ == "__main__":
    if "--sheet" in sys.argv:
        save_sheet()
    else:
        run_study("claims", make_jobs, ClaimsChain, measure, render_tables, clips=24)

"""What smoothing does and what it costs: every method on the same held-out toy clips, with the real nodes.

    python -m research.evidence [--clips 24]
    python -m research.evidence --sheet

Measures the runs that are missing in rows/evidence.jsonl, and fills the tables of docs/evidence.md, which explains the
columns; --sheet only writes docs/evidence.png. Delete the rows after a change of the models or the nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import pandas
import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from bivdiff_core.blend import correlation
from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import FRAME_CFG, SMOOTH_CFG, DemoChain, add_colour_flicker, average_three_frames
from research.frame_counter import FrameCounter, PricedResult, once
from research.page_tables import describe_run, format_change, markdown_table
from research.rows_and_jobs import ROOT, run_study
from research.toy_metrics import FIGURES, erode_mask, measure_figures, sharpness
from tools.contact_sheet import make_contact_sheet

STEPS, FEW_STEPS, MANY_STEPS = 25, 12, 50
SEEDS = (0, 1)
CHOOSING_CLIPS, FIRST_CLIP = range(6), 24
"""Held-out clips on which `CHOICES` are compared, and the first of the clips that judge."""
EDITS = ("recoloured", "recoloured from the source's noise", "InstructPix2Pix", "Prompt2Prompt")
"""Frames that show the clip in another colour; the others show the clip itself."""
TEXTURE_MARGIN = 4
"""Distance from the things, in pixels, within which background is ignored in *texture*."""
BORROWED_WEIGHT, BORROWED_START = 3.0, 0.5
"""Weight of a borrowed control, and where it begins when frames are smoothed; chosen in `CHOICES`."""
SHEET_CLIPS = 2


@dataclass(frozen=True)
class Method:
    """A way to make a video; the fields that are set say what is done, in this order.

    frames: where the frames come from, see `EvidenceChain.make_frames`; "none" if a video is generated from noise.
    average: number of adjacent frames on either side; along the motion unless ``in_place``.
    ratio: the mixing ratio; None for no smoothing.
    caption: whether frames are inverted with their caption. cfg: the smoother's. released: the authors' schedule.
    denoiser: model that denoises the inverted frames.
    bridge: strategy of Bridge Guider, with the ratio as the image model's share.
    borrowed, start: weight of a borrowed control, and where it begins.
    """

    frames: str = "independent"
    average: int = 0
    in_place: bool = False
    ratio: float | None = None
    strength: float = 1.0
    mode: str = "linear"
    steadiness: float = 0.0
    solver: str = "ddim"
    steps: int = STEPS
    caption: bool = False
    cfg: float = SMOOTH_CFG
    released: bool = False
    denoiser: str = "video"
    bridge: str = ""
    borrowed: float = 0.0
    start: float = 0.0
    structure_pass: bool = False

    def __str__(self) -> str:
        if self.frames == "none":
            name = "from noise" if self.borrowed else "video model alone"
        elif self.average:
            name = f"average of {2 * self.average + 1}" if self.in_place else f"along motion {self.average}"
        elif self.bridge:
            name = f"Bridge Guider, {self.bridge} {self.ratio:g}"
        else:
            name = "not smoothed" if self.ratio is None else f"BIVDiff {self.ratio:g}"
        default = Method()
        for field, text in {
            "strength": f"strength {self.strength:g}",
            "mode": self.mode,
            "steadiness": f"steadiness {self.steadiness:g}",
            "solver": self.solver,
            "steps": f"{self.steps} steps",
            "caption": "inverted with the caption",
            "cfg": f"cfg {self.cfg:g}",
            "released": "as released",
            "denoiser": f"{self.denoiser} model in both stages",
            "borrowed": f"borrowed control {self.borrowed:g}",
            "start": f"from {self.start:g}",
        }.items():
            if getattr(self, field) != getattr(default, field):
                name += f", {text}"
        return f"{name} -> structure pass" if self.structure_pass else name


FRAMES = Method()
SHARED, OWN, SOURCE_NOISE, FROM_NOISE = (
    Method(frames=name) for name in ("shared", "own", "the source's noise", "none")
)
BIVDIFF = Method(ratio=1.0)
HALF_STRENGTH = replace(BIVDIFF, strength=0.5)


def with_pass(method: Method, **changes: object) -> Method:
    """The method with the structure pass, and with other changes."""
    return replace(method, structure_pass=True, **changes)


def borrowing(method: Method, **changes: object) -> Method:
    """The method with a borrowed control, and with other changes."""
    start = 0.0 if method.frames == "none" else BORROWED_START
    return replace(method, **{"borrowed": BORROWED_WEIGHT, "start": start} | changes)


RECOMMENDED = borrowing(BIVDIFF)
"""The chain of the templates with a control."""
BASELINES = (Method(average=1, in_place=True), *(Method(average=reach) for reach in (1, 3, 7)))
MAIN = (
    FRAMES,
    *BASELINES,
    with_pass(BASELINES[1]),
    BIVDIFF,
    RECOMMENDED,
    with_pass(BIVDIFF),
    with_pass(HALF_STRENGTH),
    with_pass(HALF_STRENGTH, steadiness=0.5),
    with_pass(BIVDIFF, cfg=1.0),
    with_pass(BIVDIFF, caption=True),
    replace(BIVDIFF, released=True),
    replace(BIVDIFF, released=True, cfg=7.5),
    replace(BIVDIFF, denoiser="image"),
    SHARED,
    with_pass(BIVDIFF, frames="shared"),
    OWN,
    Method(frames="own", average=3),
    with_pass(HALF_STRENGTH, frames="own"),
    SOURCE_NOISE,
)
"""Methods of the table of hard clips."""
EASY = (
    FRAMES,
    *BASELINES[1:3],
    BIVDIFF,
    RECOMMENDED,
    with_pass(BIVDIFF),
    SHARED,
    SOURCE_NOISE,
    OWN,
    with_pass(HALF_STRENGTH, frames="own"),
    FROM_NOISE,
    borrowing(FROM_NOISE),
)
"""Methods of the table of easy clips."""
BORROWED = (
    RECOMMENDED,
    with_pass(BIVDIFF),
    with_pass(RECOMMENDED),
    borrowing(BIVDIFF, steps=FEW_STEPS),
    with_pass(BIVDIFF, steps=FEW_STEPS),
    with_pass(borrowing(BIVDIFF, steps=FEW_STEPS)),
    with_pass(BIVDIFF, frames="own"),
    borrowing(BIVDIFF, frames="own"),
    borrowing(HALF_STRENGTH, frames="own"),
    SHARED,
    borrowing(BIVDIFF, frames="shared"),
    FROM_NOISE,
    borrowing(FROM_NOISE),
    borrowing(FROM_NOISE, steps=FEW_STEPS),
)
"""Methods of the table of borrowed controls."""
CHOICES = tuple(
    replace(method, borrowed=weight, start=start)
    for method, starts in ((BIVDIFF, (0.0, 0.3, 0.5)), (FROM_NOISE, (0.0,)))
    for weight, start in product((2.0, 3.0, 4.0), starts)
)
"""Weights and ranges of a borrowed control, compared on `CHOOSING_CLIPS`."""
PLANS = (
    RECOMMENDED,
    replace(RECOMMENDED, steps=FEW_STEPS),
    *(with_pass(BIVDIFF, steps=steps) for steps in (MANY_STEPS, STEPS, FEW_STEPS)),
    with_pass(BIVDIFF, steps=FEW_STEPS, solver="uni_inv"),
)
"""Numbers of steps."""
MIX = Method(ratio=0.75, strength=0.75)
CONTROLS = (
    (replace(MIX, ratio=0.0), replace(MIX, ratio=1.0)),
    (HALF_STRENGTH, BIVDIFF),
    (replace(MIX, ratio=0.5), replace(MIX, ratio=0.5, mode="variance_preserving")),
    (MIX, replace(MIX, solver="uni_inv")),
    (MIX, replace(MIX, solver="fireflow")),
    (FRAMES, SHARED),
    (SHARED, Method(frames="shared", ratio=0.5, strength=0.5)),
    (MIX, replace(MIX, strength=1.0, bridge="alternating", ratio=0.5)),
    *((Method(frames=edit), replace(MIX, frames=edit, ratio=0.25)) for edit in EDITS[2:]),
    (OWN, replace(MIX, frames="own", ratio=0.25)),
)
"""Pairs of methods that differ in one control."""
COMPARED = (
    FRAMES,
    with_pass(BASELINES[1]),
    BIVDIFF,
    with_pass(BIVDIFF),
    with_pass(BIVDIFF, steps=FEW_STEPS),
    with_pass(HALF_STRENGTH),
    SHARED,
    SOURCE_NOISE,
    borrowing(FROM_NOISE),
    borrowing(BIVDIFF, steps=FEW_STEPS),
)
"""The methods that the recommended one is compared with, clip by clip."""
EDITED = tuple(Method(frames=edit) for edit in EDITS[:2])
SHEET = (FRAMES, SHARED, BASELINES[1], BIVDIFF, with_pass(BIVDIFF), RECOMMENDED, borrowing(FROM_NOISE))


class EvidenceChain(FrameCounter, DemoChain):
    """Every method on one clip and seed; what several methods share is run once."""

    def __init__(self) -> None:
        super().__init__()
        self.editor = self.pack.run("BIVDiffDemoModels", variant="instruct_pix2pix")[0]
        for model in (self.image, self.video, self.editor):
            self.count(model)

    def start(self, clip: toy_world.ToyClip, seed: int) -> None:
        """Continue with another clip."""
        edits = (toy_world.recolour(clip, number) for number in range(100))
        edit = next(edit for edit in edits if edit.background == clip.background)
        self.original, self.seed, self.done = clip, seed, {}
        self.edited, self.instruction = replace(edit, caption=edit.full_caption), edit.caption

    def goal(self, frames: str) -> toy_world.ToyClip:
        """The clip that a video of these frames should show."""
        return self.edited if frames in EDITS else self.original

    @once
    def text(self, caption: str) -> list:
        """CONDITIONING of a caption."""
        return self.encode_text(caption)

    @once
    def controlled(self, frames: str) -> tuple[list, list]:
        """The prompts with the clip's outlines."""
        return self.apply_outline_control(self.original.frames, self.text(self.goal(frames).caption))

    @once
    def make_frames(self, frames: str, steps: int) -> PricedResult:
        """Frames to smooth: a LATENT."""
        empty = self.empty_latent(len(self.original.frames))
        if frames == "own":
            return self.run_step(self.encode, add_colour_flicker(self.original.frames, self.seed))
        if frames == "InstructPix2Pix":
            return self.run_step(self.edit_by_instruction)
        if frames == "Prompt2Prompt":
            captions = self.original.full_caption, self.edited.caption
            return self.run_step(lambda: self.edit_prompt(self.original.frames, *captions)[0])
        if frames.endswith("the source's noise"):
            inverted = self.invert_source(steps)
            return self.run_step(self.denoise_by_frame, inverted, *self.controlled(frames), steps, FRAME_CFG)
        noise = "independent" if frames == "recoloured" else frames
        return self.run_step(self.generate_frames, *self.controlled(frames), empty, self.seed, noise, steps)

    @once
    def invert_source(self, steps: int) -> PricedResult:
        """The clip's noise by the image model."""
        encoded, text = self.run_step(self.encode, self.original.frames), self.text(self.original.caption)
        return self.run_step(self.invert_image, encoded, text, 1.0, steps=steps)

    def edit_by_instruction(self) -> dict:
        """Frames edited independently with InstructPix2Pix: a LATENT."""
        positive, negative, latent = self.pack.run(
            "InstructPixToPixConditioning",
            positive=self.text(self.instruction),
            negative=self.empty,
            vae=self.vae,
            pixels=self.original.frames,
        )
        (guider,) = self.pack.run(
            "DualCFGGuider",
            model=self.editor,
            cond1=positive,
            cond2=negative,
            negative=self.empty,
            cfg_conds=FRAME_CFG,
            cfg_cond2_negative=1.5,
            style="regular",
        )
        return self.run_custom_sampler(guider, self.frame_noise(self.seed, "independent"), latent, model=self.editor)

    @once
    def invert(
        self, branch: str, frames: str, strength: float, solver: str, steps: int, caption: str, grid: str
    ) -> PricedResult:
        """The inverted frames of a branch: a LATENT."""
        function = self.invert_image if branch == "image" else self.invert_video
        settings = {"solver": solver, "steps": steps} | ({"grid": grid} if grid else {})
        return self.run_step(function, self.make_frames(frames, steps), self.text(caption), strength, **settings)

    @once
    def smoothed(self, method: Method) -> PricedResult:
        """The LATENT of a method without its structure pass."""
        text = self.text(self.goal(method.frames).caption)
        if method.frames == "none":
            inputs = text, self.empty_latent(len(self.original.frames)), self.seed
            settings = {"steps": method.steps, "cfg": SMOOTH_CFG if method.borrowed else FRAME_CFG}
            return self.run_step(self.run_ksampler, self.video_model(method), *inputs, **settings)
        if method.bridge:
            return self.run_step(self.run_bridge, method, text)
        frames = self.make_frames(method.frames, method.steps)
        if method.average:
            return self.run_step(self.encode, self.averaged(method))
        if method.ratio is None:
            return frames
        grid = "reference" if method.released else ""
        caption = self.goal(method.frames).caption if method.caption else ""
        inputs = method.frames, method.strength, method.solver, method.steps, caption, grid
        image = self.invert("image", *inputs) if method.ratio > 0 else None
        video = self.invert("video", *inputs) if method.ratio < 1 else None
        blended = self.run_step(self.blend, image, video, method.ratio, method.mode, method.steadiness)
        if method.denoiser == "image":
            return self.run_step(self.denoise_by_frame, blended, text, self.empty, method.steps)
        settings = {"cfg": method.cfg} | ({"grid": grid} if grid else {})
        return self.run_step(self.smooth, blended, text, method.steps, model=self.video_model(method), **settings)

    def averaged(self, method: Method) -> PricedResult:
        """The averaged pictures of a method."""
        pictures = self.run_step(self.decode, self.make_frames(method.frames, method.steps))
        if method.in_place:
            return self.run_step(average_three_frames, pictures)
        return self.run_step(
            lambda images: average_along_flow(images, self.original.frames, method.average)[0], pictures
        )

    def video_model(self, method: Method):
        """The video MODEL, with a borrowed control if the method has one."""
        if not method.borrowed:
            return self.video
        controlled, text = self.controlled(method.frames)[0], self.text(self.goal(method.frames).caption)
        return self.borrow_control(controlled, text, method.borrowed, method.start)

    def run_bridge(self, method: Method, text: list) -> dict:
        """Both models in one sampling run from white noise: a LATENT."""
        guider = self.make_bridge_guider(self.controlled(method.frames), text, SMOOTH_CFG, method.bridge, method.ratio)
        noise, empty = self.frame_noise(self.seed, method.frames), self.empty_latent(len(self.original.frames))
        return self.run_custom_sampler(guider, noise, empty, method.steps)

    def make_video(self, method: Method) -> PricedResult:
        """The video of a method, `[F, H, W, 3]`."""
        if method.average and not method.structure_pass:
            return self.averaged(method)
        latent = self.smoothed(replace(method, structure_pass=False))
        if method.structure_pass:
            text = self.text(self.goal(method.frames).caption)
            latent = self.run_step(self.structure_pass, latent, text, self.controlled(method.frames), method.steps)
        return self.run_step(self.decode, latent)

    def decode_source(self) -> Tensor:
        """The clip through the autoencoder: the best that a method can give."""
        return self.decode(self.encode(self.original.frames))


def edge_strength(frames: Tensor) -> Tensor:
    """Difference of each pixel of `[F, H, W, 3]` from the pixels to the right and below, `[F, H-1, W-1]`."""
    down, across = frames.diff(dim=1)[:, :, :-1], frames.diff(dim=2)[:, :-1]
    return (down.square() + across.square()).sum(dim=-1).sqrt()


def texture_kept(frames: Tensor, clip: toy_world.ToyClip) -> float:
    """Correlation of the edge strength in the background with that of the clip, mean over frames; 0 is unrelated.

    Uses edges because an edit may change the colours on either side of them.
    """
    inside = erode_mask(clip.ground, TEXTURE_MARGIN)[:, :-1, :-1]
    pairs = zip(edge_strength(frames), edge_strength(clip.frames), inside, strict=True)
    return torch.stack([correlation(made[where], real[where]) for made, real, where in pairs]).mean().item()


def judged_methods() -> list[Method]:
    """Every method that a table of the page shows, once."""
    return list(
        dict.fromkeys((*MAIN, *EASY, *BORROWED, *PLANS, *EDITED, *COMPARED, *(m for pair in CONTROLS for m in pair)))
    )


def make_jobs(clips: int) -> list[dict]:
    """The clips on which settings are chosen, and those that judge, of each kind and with each seed."""
    choosing = [(clip, kind, 0) for clip, kind in product(CHOOSING_CLIPS, toy_world.CLIP_KINDS)]
    judging = product(range(FIRST_CLIP, FIRST_CLIP + clips), toy_world.CLIP_KINDS, SEEDS)
    return [dict(zip(("clip", "kind", "seed"), job, strict=True)) for job in (*choosing, *judging)]


def measure(chain: EvidenceChain, job: dict) -> dict:
    """A row: the figures of every method on a clip."""
    chain.start(toy_world.held_out_clip(job["kind"], job["clip"]), job["seed"])
    source = chain.decode_source()
    reference, found = sharpness(source), {"source": {"source": measure_figures(source, chain.original) | {"calls": 0}}}
    for method in CHOICES if job["clip"] in CHOOSING_CLIPS else judged_methods():
        video = chain.make_video(method)
        figures = measure_figures(video.result, chain.goal(method.frames)) | {"calls": video.calls}
        figures["texture"] = texture_kept(video.result, chain.original)
        found.setdefault(method.frames, {})[str(method)] = figures
    for ways in found.values():
        for figures in ways.values():
            figures["sharpness"] /= reference
    return {"ways": found}


def select_judging_rows(rows: Iterable[dict]) -> list[dict]:
    """The rows of the clips that judge."""
    return [row for row in rows if row["clip"] >= FIRST_CLIP]


def results_table(rows: Iterable[dict]) -> pandas.DataFrame:
    """One line for each method, the mean over the seeds of a clip; indexed by kind, frames, method and clip."""
    lines = [
        {"kind": row["kind"], "frames": frames, "method": method, "clip": row["clip"]} | figures
        for row in rows
        for frames, ways in row["ways"].items()
        for method, figures in ways.items()
    ]
    table = pandas.DataFrame(lines).astype(dict.fromkeys(FIGURES, float))
    return table.groupby(["kind", "frames", "method", "clip"], sort=False).mean()


def means_table(table: pandas.DataFrame, methods: Iterable[Method], *more: str) -> str:
    """The mean figures of methods over the clips, and of the source, as Markdown. more: further figures."""
    found = table.groupby(["frames", "method"], sort=False).mean()
    keys = [("source", "source"), *((method.frames, str(method)) for method in methods)]
    shown = found.loc[keys, [*FIGURES, *more, "calls"]].reset_index()
    digits = ["", "", ".3f", ".3f", ".2f", ".2f", ".2f", *[".2f"] * len(more), ".0f"]
    return shown.to_markdown(index=False, floatfmt=digits, missingval="")


def differences_table(table: pandas.DataFrame) -> str:
    """`RECOMMENDED` minus each of `COMPARED` on the same clips, with 95% bootstrap intervals."""
    ours, lines = table.loc["independent", str(RECOMMENDED)], []
    for method in COMPARED:
        gains = ours[[*FIGURES]] - table.loc[method.frames, str(method)][[*FIGURES]]
        name = str(method) if method.frames == "independent" else f"{method}, {method.frames}"
        compared = (figure for figure in FIGURES if figure != "caption")
        lines.append({"against": name} | {figure: format_change(gains[figure]) for figure in compared})
    return markdown_table(lines)


def controls_table(table: pandas.DataFrame) -> str:
    """Flicker of the whole picture and overlap, before and after each change of `CONTROLS`, by kind of clip."""
    found = table.groupby(["kind", "frames", "method"], sort=False).mean()

    def describe(kind: str, method: Method) -> str:
        figures = found.loc[kind, method.frames, str(method)]
        return f"{figures[[*FIGURES[:2]]].mean():.3f} / {figures['IoU']:.3f}"

    lines = []
    for before, after in CONTROLS:
        names = [str(m) if m.frames == "independent" else f"{m.frames}: {m}" for m in (before, after)]
        line = {"change": " -> ".join(names)}
        for kind in ("hard", "easy"):
            line[f"{kind} clips"] = f"{describe(kind, before)} -> {describe(kind, after)}"
        lines.append(line)
    return markdown_table(lines)


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    judging = select_judging_rows(rows)
    table = results_table(judging).sort_index()
    clips, seeds = ({row[name] for row in judging} for name in ("clip", "seed"))
    hard, easy = table.loc["hard"], table.loc["easy"]
    return {
        "run": describe_run(rows, f"{len(clips)} clips of each kind, {len(seeds)} seeds."),
        "hard": means_table(hard, MAIN),
        "easy": means_table(easy, EASY),
        "differences": differences_table(hard),
        "steps": means_table(hard, PLANS),
        "borrowed": means_table(hard, BORROWED),
        "controls": controls_table(table),
        "edits": means_table(hard, EDITED, "texture"),
    }


def save_sheet() -> None:
    """Save the contact sheet: a block for each clip, easy clips left, hard clips right; rows are `SHEET`."""
    chain, blocks = EvidenceChain(), []
    for number, kind in product(range(SHEET_CLIPS), toy_world.CLIP_KINDS):
        chain.start(toy_world.held_out_clip(kind, FIRST_CLIP + number), SEEDS[0])
        shown = {"source": chain.decode_source()}
        for method in SHEET:
            shown[f"{method.frames}: {method}"] = chain.make_video(method).result
        title = f"{kind}: {chain.original.caption}"
        blocks.append(pil_to_tensor(make_contact_sheet(shown, tile=68, label=330, title=title)))
    sheet = to_pil_image(make_grid(torch.stack(blocks), nrow=len(toy_world.CLIP_KINDS), padding=0))
    sheet.quantize(256).save(ROOT / "docs" / "evidence.png", optimize=True)


if __name__ == "__main__":
    if "--sheet" in sys.argv:
        save_sheet()
    else:
        run_study("evidence", make_jobs, EvidenceChain, measure, render_tables, clips=24)

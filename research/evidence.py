"""The tables of docs/evidence.md, from the rows of claims, calls, study and leak.

python -m research.write_pages
"""

from __future__ import annotations

import re
from dataclasses import replace

import pandas

from research import calls, claims, leak, toy_world
from research.page_tables import describe_run, markdown_table
from research.study import Results
from research.study_cases import (
    DEFAULT_CASE,
    FRAME_WISE,
    MOTIONS,
    SHARED_FRAMES,
    SHARED_NOISE_CASE,
    WITH_STRUCTURE_PASS,
    StudyCase,
    no_video_case,
)

HARD_METHODS = {
    "source": ("source",),
    "independent": (
        claims.UNSMOOTHED,
        *claims.BASELINES,
        "BIVDiff 1",
        claims.WITH_PASS,
        claims.WITH_PASS_LOW_STRENGTH,
        "BIVDiff 1, no caption",
        "BIVDiff 1, as released, guidance 1",
        "BIVDiff 1, as released, guidance 7.5",
        "image model for the video model",
    ),
    "shared": (claims.UNSMOOTHED, claims.WITH_PASS),
    "own": (
        claims.UNSMOOTHED,
        "along motion 3",
        claims.WITH_PASS,
        "BIVDiff 1, strength 0.5",
        claims.WITH_PASS_LOW_STRENGTH,
    ),
    "the source's noise": (claims.UNSMOOTHED,),
}
EASY_METHODS = {
    "source": ("source",),
    "independent": (
        claims.UNSMOOTHED,
        "along motion 1",
        "along motion 3",
        f"along motion 7{claims.STRUCTURE_PASS_SUFFIX}",
        claims.WITH_PASS,
    ),
    "shared": (claims.UNSMOOTHED,),
}
"""The methods that the tables show, by the frames that they start from."""
COMPARED_METHODS = (
    claims.UNSMOOTHED,
    f"along motion 1{claims.STRUCTURE_PASS_SUFFIX}",
    "BIVDiff 1",
    claims.WITH_PASS_LOW_STRENGTH,
    f"{claims.UNSMOOTHED}, shared",
    f"{claims.UNSMOOTHED}, the source's noise",
)
"""The methods that `claims.WITH_PASS` is compared with, on independent frames."""
COLUMNS = ("against", "shape flicker", "background flicker", "IoU", "sharpness")


def tuned(case: StudyCase) -> StudyCase:
    """The case with a model trained on each clip instead, as in Tune-A-Video."""
    return replace(case, method="tuned per clip", strength=1.0)


FULL = replace(DEFAULT_CASE, ratio=1.0, strength=1.0)
HALF = replace(DEFAULT_CASE, ratio=0.5)
RECOLOURED, REWORDED, INPAINTED, OWN = (
    replace(DEFAULT_CASE, task=task) for task in ("instruct_pix2pix", "prompt2prompt", "inpainting", "own_frames")
)
CONTROLS: tuple[tuple[str, StudyCase, StudyCase], ...] = (
    ("mixing ratio 0 -> 1, strength 0.75", replace(DEFAULT_CASE, ratio=0.0), replace(DEFAULT_CASE, ratio=1.0)),
    ("strength 0.5 -> 1, ratio 1", replace(FULL, strength=0.5), FULL),
    (
        "strength 0.5 -> 1, structure pass",
        replace(FULL, method=WITH_STRUCTURE_PASS, strength=0.5),
        replace(FULL, method=WITH_STRUCTURE_PASS),
    ),
    ("mode linear -> variance_preserving, ratio 0.5", HALF, replace(HALF, mode="variance_preserving")),
    ("solver ddim -> fireflow", DEFAULT_CASE, replace(DEFAULT_CASE, solver="fireflow")),
    ("solver ddim -> uni_inv", DEFAULT_CASE, replace(DEFAULT_CASE, solver="uni_inv")),
    ("AnimateDiff's noise schedule, ratio 1, strength 1", FULL, replace(FULL, pair="other schedule")),
    ("frames from independent -> shared noise", FRAME_WISE, SHARED_FRAMES),
    ("frames from shared noise -> BIVDiff 0.5, strength 0.5", SHARED_FRAMES, SHARED_NOISE_CASE),
    (
        "InstructPix2Pix frames -> BIVDiff 0.25",
        no_video_case(RECOLOURED.task, "frame-wise"),
        replace(RECOLOURED, ratio=0.25),
    ),
    ("InstructPix2Pix, ratio 0.25 -> 1", replace(RECOLOURED, ratio=0.25), replace(RECOLOURED, ratio=1.0)),
    ("Prompt2Prompt frames -> BIVDiff 0.25", no_video_case(REWORDED.task, "frame-wise"), replace(REWORDED, ratio=0.25)),
    ("inpainted frames -> BIVDiff 0.1", no_video_case(INPAINTED.task, "frame-wise"), replace(INPAINTED, ratio=0.1)),
    ("own frames -> BIVDiff 0.25", no_video_case(OWN.task, "frame-wise"), replace(OWN, ratio=0.25)),
    ("BIVDiff 0.75 -> Bridge Guider, alternating 0.5", DEFAULT_CASE, replace(FULL, method="alternating", ratio=0.5)),
    (
        "BIVDiff 0.75 -> video to video, denoise 0.5",
        DEFAULT_CASE,
        replace(DEFAULT_CASE, method="video to video", strength=0.5),
    ),
    ("InstructPix2Pix, BIVDiff 0.25 -> tuned per clip", replace(RECOLOURED, ratio=0.25), tuned(RECOLOURED)),
    ("Prompt2Prompt, BIVDiff 0.25 -> tuned per clip", replace(REWORDED, ratio=0.25), tuned(REWORDED)),
)
"""Pairs of cases of the study; strength and mixing ratio are 0.75 unless named."""
NOISES = ("the source itself", "independent", "shared", "the source's, ddim")


LABELS = {
    claims.UNSMOOTHED: "not smoothed",
    f"{claims.UNSMOOTHED}, shared": "not smoothed, shared noise",
    f"{claims.UNSMOOTHED}, the source's noise": "not smoothed, the source's noise",
    "image model for the video model": "image model instead of video model",
    "BIVDiff 1, no caption": "BIVDiff 1, inverted without caption",
}
"""Labels of the page, by those of the rows."""
HEADINGS = {"way": "method", "look": "texture kept"}
"""Column headings of the page, by those of the other pages."""


def replace_cells(text: str, names: dict[str, str]) -> str:
    """Lines of a Markdown table with other names in the cells."""
    return re.sub(r"(?<=\| )[^|\n]+(?= \|)", lambda cell: names.get(cell[0].strip(), cell[0]), text)


def relabel(table: str) -> str:
    """A Markdown table with the names of `HEADINGS` in its first line and of `LABELS` below."""
    headings, body = table.split("\n", 1)
    return f"{replace_cells(headings, HEADINGS)}\n{replace_cells(body, LABELS)}"


def means_table(table: pandas.DataFrame, methods: dict[str, tuple[str, ...]]) -> str:
    """The mean figures of these methods."""
    return claims.means_table(table[[method in methods.get(frames, ()) for frames, method, _ in table.index]])


def controls_table(results: dict[str, Results]) -> str:
    """Flicker and overlap of each of `CONTROLS`, before and after, by kind of clip."""
    return markdown_table(
        [
            {"change": name}
            | {f"{kind} clips": f"{found.both(before)} -> {found.both(after)}" for kind, found in results.items()}
            for name, before, after in CONTROLS
        ]
    )


def motions_table(results: dict[str, Results]) -> str:
    """Flicker and overlap of frames from shared noise, by motion and kind of clip."""
    return markdown_table(
        [
            {"": f"{kind} clips"} | {motion: found.both(SHARED_FRAMES, motion) for motion in MOTIONS}
            for kind, found in results.items()
        ]
    )


def render_tables(
    claims_rows: list[dict], calls_rows: list[dict], study_rows: list[dict], leak_rows: list[dict]
) -> dict[str, str]:
    """The generated blocks of the page."""
    table = claims.results_table(claims_rows)
    hard, easy = (table.loc[kind] for kind in ("hard", "easy"))
    compared = [
        comparison
        for comparison in claims.comparisons()
        if comparison[:2] == ("independent", claims.WITH_PASS) and comparison[-1] in COMPARED_METHODS
    ]
    results = {kind: Results([row for row in study_rows if row["kind"] == kind]) for kind in ("hard", "easy")}
    shown = [row | {"ways": {noise: row["ways"][noise] for noise in NOISES}} for row in leak_rows]
    clips, seeds = ({row[name] for row in claims_rows} for name in ("clip", "seed"))
    held_out = {row["clip"] for row in calls_rows} & set(calls.HELD_OUT_CLIPS)
    runs = (
        describe_run(claims_rows, f"{len(clips)} clips of each kind, {len(seeds)} seeds."),
        describe_run(calls_rows, f"{len(held_out)} held-out hard clips."),
        describe_run(study_rows, f"{len(study_rows) // len(toy_world.CLIP_KINDS)} clips of each kind."),
        describe_run(leak_rows, f"{len(leak_rows)} hard clips."),
    )
    tables = {
        "hard": means_table(hard, HARD_METHODS),
        "easy": means_table(easy, EASY_METHODS),
        "differences": markdown_table(
            [{name: line[name] for name in COLUMNS} for line in claims.differences_table(hard, compared)]
        ),
        "steps": calls.render_tables(calls_rows)["hard, judged"],
        "controls": controls_table(results),
        "motions": motions_table(results),
        "leak": leak.render_tables(shown)["edits"],
    }
    return {"runs": "\n".join(f"- {line}" for line in runs)} | {name: relabel(text) for name, text in tables.items()}

"""What smooths flickering frames with models of today: every way on the same held-out clips, with the modern pair.

    python -m research.flow_models [--clips 24]
    python -m research.flow_models --sheet

Measures the runs that are missing in rows/flow_models.jsonl, and fills the tables of docs/flow_models.md, which
explains the columns; --sheet only writes docs/flow_models.png. Delete the rows after a change of the models or the
nodes. `flow_choices` compares settings on other clips.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pandas

from research import modern_clips, toy_world
from research.flow_chain import DEFAULT, FlowChain, Method, measure_methods
from research.page_tables import describe_run, format_change, markdown_table
from research.rows_and_jobs import ROOT, run_study
from tools.contact_sheet import make_contact_sheet

FIRST_CLIP, SEEDS = 24, (0, 1)
"""The first of the held-out clips, after those of `flow_choices`; and the seeds."""
FRAMES = (*modern_clips.FLICKERS, "Qwen, independent", "Qwen, shared")
CHEAP_WAYS = (
    Method(way="as drawn"),
    Method(way="decoded"),
    *(Method(way="clean", steadiness=share) for share in (0.25, 0.5, 0.75, 1.0)),
    Method(way="along motion"),
    *(Method(way="noised", strength=strength) for strength in (0.3, 0.5, 0.7)),
    *(Method(way="FlowEdit", strength=strength) for strength in (0.5, 0.7, 0.85)),
)
JUDGED = (*CHEAP_WAYS, replace(DEFAULT, steadiness=0.0), DEFAULT)
"""Methods that are compared on every kind of frames."""
SHEET_CLIPS = 3
FIGURES = ("shape flicker", "background flicker", "border", "following", "IoU", "caption", "sharpness", "calls")
"""Names of the figures in rows and pages; calls are those for a latent."""


def make_jobs(clips: int) -> list[dict]:
    """Held-out clips of each kind, with each seed."""
    jobs = product(range(FIRST_CLIP, FIRST_CLIP + clips), toy_world.CLIP_KINDS, SEEDS)
    return [dict(zip(("clip", "kind", "seed"), job, strict=True)) for job in jobs]


def measure(chain: FlowChain, job: dict) -> dict:
    """A row: the figures of every method on every kind of frames of a clip."""
    return measure_methods(chain, job, [replace(method, frames=frames) for frames, method in product(FRAMES, JUDGED)])


def results_table(rows: Iterable[dict]) -> pandas.DataFrame:
    """One line for each method, the mean over the seeds of a clip; indexed by kind, drift, frames, method and clip."""
    lines = [
        {"kind": row["kind"], "drift": row["drift"], "frames": frames, "method": method, "clip": row["clip"]} | figures
        for row in rows
        for frames, ways in row["ways"].items()
        for method, figures in ways.items()
    ]
    table = pandas.DataFrame(lines).astype(dict.fromkeys(FIGURES, float))
    return table.groupby(["kind", "drift", "frames", "method", "clip"], sort=False).mean()


def means_table(table: pandas.DataFrame, methods: Iterable[Method]) -> str:
    """The mean figures of methods over the clips, as Markdown."""
    found = table.groupby(["frames", "method"], sort=False).mean()
    keys = [("goal", "decoded"), *((method.frames, str(method)) for method in methods)]
    shown = found.loc[keys, [*FIGURES]].reset_index("method")
    digits = ["", ".3f", ".3f", ".3f", ".2f", ".2f", ".2f", ".2f", ".0f"]
    return shown.to_markdown(index=False, floatfmt=digits, missingval="")


def differences_table(table: pandas.DataFrame, frames: str) -> str:
    """`DEFAULT` minus every other method on the same clips, with 95% bootstrap intervals."""
    ours, lines = table.xs((frames, str(DEFAULT)), level=("frames", "method")), []
    for method in JUDGED[:-1]:
        gains = ours[[*FIGURES]] - table.xs((frames, str(method)), level=("frames", "method"))[[*FIGURES]]
        compared = ("border", "IoU", "sharpness")
        lines.append({"against": str(method)} | {figure: format_change(gains[figure]) for figure in compared})
    return markdown_table(lines)


def speeds_table(table: pandas.DataFrame) -> str:
    """`DEFAULT` and averages of clean latents, at each speed of the camera."""
    found = table.groupby(["drift", "frames", "method"], sort=False).mean()
    lines = []
    for drift, method in product(
        modern_clips.DRIFTS, (Method(way="as drawn"), Method(way="clean", steadiness=0.5), DEFAULT)
    ):
        figures = found.loc[drift, FRAMES[0], str(method)]
        shown = {figure: f"{figures[figure]:.3f}" for figure in ("border", "IoU", "sharpness")}
        lines.append({"pixels a frame": drift, "method": str(method)} | shown)
    return markdown_table(lines)


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = results_table(rows).sort_index()
    clips, seeds = ({row[name] for row in rows} for name in ("clip", "seed"))
    return {
        "run": describe_run(rows, f"{len(clips)} clips of each kind, {len(seeds)} seeds."),
        **{frames: means_table(table, [replace(method, frames=frames) for method in JUDGED]) for frames in FRAMES},
        "differences": differences_table(table, FRAMES[0]),
        "speeds": speeds_table(table),
    }


def save_sheet() -> None:
    """Save the contact sheet: a block of rows for each clip."""
    chain = FlowChain()
    shown = {}
    for number in range(SHEET_CLIPS):
        chain.start(modern_clips.held_out_clip("hard", FIRST_CLIP + number), SEEDS[0])
        shown[f"{number}: source"] = chain.source.frames
        for method in (
            CHEAP_WAYS[0],
            CHEAP_WAYS[1],
            CHEAP_WAYS[3],
            DEFAULT,
            replace(DEFAULT, frames="Qwen, independent"),
        ):
            shown[f"{number}: {method}"] = chain.make_video(method).result
    make_contact_sheet(shown, tile=68, label=330).quantize(256).save(ROOT / "docs" / "flow_models.png", optimize=True)


if __name__ == "__main__":
    if "--sheet" in sys.argv:
        save_sheet()
    else:
        run_study("flow_models", make_jobs, FlowChain, measure, render_tables, clips=24)

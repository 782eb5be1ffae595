"""Do independently generated frames disagree in the toy world as they do on real footage?

    python -m research.disagreement [--clips 8]
    python -m research.disagreement --sheet

Measures on held-out clips, easy and hard, how much of its sharpness a video keeps when each frame is averaged with the
adjacent frames. The loss of the clips is due to the averaging; the further loss of frame-wise results is disagreement.
Measures the runs that are missing in rows/disagreement.jsonl, and fills the tables of pages/disagreement.md; --sheet
only writes pages/disagreement.png. Delete the rows after a change of the models or the nodes.
"""

from __future__ import annotations

import sys
from itertools import product

import pandas
import torch
from torch import Tensor

from bivdiff_core.measure.optical_flow import average_along_flow
from research import toy_world
from research.demo_chain import DemoChain, average_three_frames
from research.page_tables import describe_run, format_mean, markdown_table
from research.rows_and_jobs import ROOT, run_study
from research.toy_metrics import caption_accuracy, shape_iou, sharpness
from tools.contact_sheet import make_contact_sheet

REACH, STRENGTH, SEED = 3, 0.5, 0
AIMS = {
    "source, three": 0.9,
    "source, along": 0.9,
    "frames, three": -0.7,
    "frames, along": -0.6,
    "frames' overlap": 0.9,
    "frames' caption": 0.93,
    "video model": 0.9,
}
"""Goals for hard clips: a minimum, or if negative a maximum."""
SHEET_CLIPS, SHEET_FRAMES = 8, (0, 3, 4)
SHOWN = ("source", "frames", "frames, three", "frames, along", "again")


def make_videos(chain: DemoChain, clip: toy_world.ToyClip) -> dict[str, Tensor]:
    """A clip, frames generated from its outlines, averages of both, and the video model's reconstruction."""
    source, positive = clip.frames, chain.encode_text(clip.caption)
    controlled = chain.apply_outline_control(source, positive)
    latent = chain.generate_frames(*controlled, chain.empty_latent(len(source)), SEED)
    made = {"source": source, "frames": chain.decode(latent)}
    for name in ("source", "frames"):
        made[f"{name}, three"] = average_three_frames(made[name])
        made[f"{name}, along"] = average_along_flow(made[name], source, REACH)[0]
    latent = chain.encode(source)
    inverted = chain.invert_video(latent, positive, STRENGTH)
    return made | {"decoded": chain.decode(latent), "again": chain.decode(chain.smooth(inverted, positive))}


def make_jobs(clips: int) -> list[dict]:
    """The first held-out clips of each kind."""
    return [{"clip": clip, "kind": kind} for clip, kind in product(range(clips), toy_world.CLIP_KINDS)]


def measure(chain: DemoChain, job: dict) -> dict:
    """A row: the figures of `AIMS` on a clip."""
    clip = toy_world.held_out_clip(job["kind"], job["clip"])
    made = make_videos(chain, clip)
    sharp = {name: sharpness(video) for name, video in made.items()}
    kept = {name: sharp[name] / sharp[name.partition(",")[0]] for name in AIMS if "," in name}
    return kept | {
        "frames' overlap": shape_iou(made["frames"], clip),
        "frames' caption": caption_accuracy(made["frames"], clip),
        "video model": sharp["again"] / sharp["decoded"],
    }


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = pandas.DataFrame(rows).astype(dict.fromkeys(AIMS, float))
    lines = []
    for name, aim in AIMS.items():
        values = {kind: table[name][table["kind"] == kind] for kind in toy_world.CLIP_KINDS}
        line = {"": name} | {kind: format_mean(values[kind], 2) for kind in values}
        mean = values["hard"].mean()
        missed = mean < aim if aim > 0 else mean > -aim
        line["aim on hard clips"] = f"at {'least' if aim > 0 else 'most'} {abs(aim):g}{': MISSED' if missed else ''}"
        lines.append(line)
    return {
        "run": describe_run(rows, f"{table['clip'].nunique()} held-out clips of each kind."),
        "figures": markdown_table(lines),
    }


def save_sheet() -> None:
    """Save the contact sheet: a row for each hard clip, with three frames of each video, at twice their size."""
    chain, lines = DemoChain(), {}
    for number in range(SHEET_CLIPS):
        made = make_videos(chain, toy_world.held_out_clip("hard", number))
        lines[str(number)] = torch.cat([made[name][[*SHEET_FRAMES]] for name in SHOWN])
    sheet = make_contact_sheet(lines, tile=132)
    sheet.quantize(256).save(ROOT / "research" / "pages" / "disagreement.png", optimize=True)


if __name__ == "__main__":
    if "--sheet" in sys.argv:
        save_sheet()
    else:
        run_study("disagreement", make_jobs, DemoChain, measure, render_tables, clips=8)

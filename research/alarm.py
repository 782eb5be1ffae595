"""How well does the Inverted Latent Report tell a bad video before it is made?

    python -m research.alarm [--runs 260]

Every run takes a held-out clip of the toy world through the real nodes and the demo models, its footage and controls
drawn at random. The report sees the mixed latent, never the video; whether the video is bad is settled on its decoded
frames alone. Measures the runs that rows/alarm.jsonl lacks, and fills the tables of pages/alarm.md, the evidence for
the levels of `ALARM_THRESHOLDS` in bivdiff_core/measure/latent_statistics.py.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import pandas
import torch
from scipy.stats import bootstrap, mannwhitneyu
from torch import Tensor

from bivdiff_core.measure import latent_statistics
from research import toy_world
from research.demo_chain import DemoChain, add_colour_flicker, start
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import confidence_interval, run_jobs
from research.toy_metrics import caption_accuracy, has_collapsed, shape_iou, sharpness

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
BROKEN_FRAME = 3


def init_worker() -> None:
    """Load the chain into this process."""
    global chain
    chain = DemoChain(start())


def footage(clip: toy_world.ToyClip, kind: str, seed: int) -> dict:
    """A clip's frames as they go into the chain, a LATENT: drawn from outlines, or its own, damaged or not."""
    if kind == "drawn":
        outlined = chain.outlined(clip.frames, chain.encode_text(clip.caption))
        return chain.draw(*outlined, chain.nothing(len(clip.frames)), seed)
    frames = clip.frames.clone()
    if kind == "colours that jump":
        frames = add_colour_flicker(frames, seed)
    elif kind == "one black frame":
        frames[BROKEN_FRAME] = 0
    elif kind == "one frame of static":
        frames[BROKEN_FRAME] = torch.rand(frames.shape[1:], generator=torch.Generator().manual_seed(seed))
    return chain.encode(frames)


def run_job(job: dict) -> dict:
    """A row: the report's figures of a run's mixed latent, and whether its video is bad."""
    clip = toy_world.held_out_clip("easy", job["clip"])
    latent, caption = footage(clip, job["footage"], job["clip"]), chain.encode_text(clip.caption)
    given = {name: job[name] for name in ("solver", "steps", "strength")}
    given["conditioning"] = caption if job["inversion prompt"] == "caption" else chain.empty
    try:
        image = chain.invert_image(latent, **given) if job["ratio"] > 0 else None
        video = chain.invert_video(latent, **given) if job["ratio"] < 1 else None
        mixed = chain.blend(image, video, job["ratio"], job["mode"])
    except ValueError:  # too few steps to reach noise, or not like noise: the nodes stop such a run themselves
        return {"refused": True}
    measured = latent_statistics.measure_latent(latent_statistics.flatten_to_frames(mixed["samples"]))
    off = latent_statistics.normalized_deviation(
        measured, latent_statistics.sampling_limits(tuple(mixed["samples"].shape))
    )
    made = chain.decode(chain.smooth(mixed, caption, job["steps"]))
    return {
        "refused": False,
        "off": {name: round(values.max().item(), 4) for name, values in off.items()},
        "bad": has_collapsed(rate(made, clip)),
    }


def rate(frames: Tensor, clip: toy_world.ToyClip) -> list[dict]:
    """Each frame's overlap with the known shapes, share of right colours, and sharpness against the clip's own."""
    true = chain.decode(chain.encode(clip.frames))
    found = []
    for t in range(len(frames)):
        here = slice(t, t + 1)
        only = replace(clip, masks=clip.masks[:, here])
        figures = {"IoU": shape_iou(frames[here], only), "caption": caption_accuracy(frames[here], only)}
        found.append(figures | {"sharpness": sharpness(frames[here]) / sharpness(true[here])})
    return found


def area_under_curve(bad: pandas.Series, good: pandas.Series) -> float:
    """Chance that a bad run's score is above a good one's, ties counting half."""
    return mannwhitneyu(bad, good).statistic / (len(bad) * len(good))


def area(scores: pandas.Series, bad: pandas.Series) -> str:
    """The area under the ROC curve, with bounds of 95% of resampled ones."""
    halves = scores[bad].to_numpy(), scores[~bad].to_numpy()
    found = bootstrap(halves, area_under_curve, vectorized=False, n_resamples=1000, method="percentile", rng=0)
    return (
        f"{area_under_curve(*halves):.2f} ({found.confidence_interval.low:.2f} to {found.confidence_interval.high:.2f})"
    )


def share(values: pandas.Series) -> str:
    """How many of a hundred, with bounds."""
    low, high = confidence_interval(values.astype(float))
    return f"{values.mean():.0%} ({low:.0%} to {high:.0%})"


def render_tables(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    table = pandas.json_normalize([row for row in rows if not row["refused"]])
    table["bad"] = table["bad"].astype(bool)
    off = {name: table[f"off.{name}"] for name in latent_statistics.ALARM_THRESHOLDS}
    full, judged = table["strength"] == 1, table["clip"] % 2 == 1
    scores = pandas.Series(
        latent_statistics.alarm_severity({name: torch.tensor(row[f"off.{name}"]) for name in off}, row["strength"])
        for _, row in table.iterrows()
    )
    levels = []
    for name, level in latent_statistics.ALARM_THRESHOLDS.items():
        counting = full | name.startswith("odd")
        found = off[name][counting & ~judged & ~table["bad"]].quantile(0.95)
        levels.append(
            {"figure": name, "level from these runs": f"{found:.1f}", "in use": f"{level:g}"}
            | {"area under curve": area(off[name][full], table["bad"][full])}
        )
    by_footage = []
    for kind in dict.fromkeys(CONTROLS["footage"]):
        of_kind = table["footage"] == kind
        line = {"footage": kind, "runs": of_kind.sum(), "bad": share(table["bad"][of_kind])}
        for what, among in (("bad ones stopped", table["bad"]), ("good ones stopped", ~table["bad"])):
            stopped = scores[of_kind & judged & among] > 1
            line[what] = f"{stopped.sum()} of {len(stopped)}"
        by_footage.append(line)
    whole = judged & ~table["footage"].str.startswith("one")
    areas = [
        {"footage": what, "runs": runs.sum(), "bad": table["bad"][runs].sum()}
        | {"area under curve": area(scores[runs], table["bad"][runs])}
        for what, runs in (("all", judged), ("without the broken frames", whole))
    ]
    refused = len(rows) - len(table)
    return {
        "run": describe_run(
            rows,
            f"{len(rows)} runs. {refused} of them ended before: the nodes refuse steps too few to reach noise, and a "
            "latent that plainly does not look like it.",
        ),
        "controls": "\n".join(f"- {name}: {', '.join(map(str, choices))}" for name, choices in CONTROLS.items()),
        "footage": markdown_table(by_footage),
        "areas": markdown_table(areas),
        "levels": markdown_table(levels),
    }


def main() -> None:
    """Measure what is missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=260, help="how many random settings")
    rng = random.Random(1)
    jobs = [
        {"run": run, "clip": FIRST_CLIP + run % CLIPS} | {name: rng.choice(of) for name, of in CONTROLS.items()}
        for run in range(parser.parse_args().runs)
    ]
    write_page("research/pages/alarm.md", render_tables(run_jobs("alarm", jobs, run_job, init_worker)))


if __name__ == "__main__":
    main()

"""How well does the Inverted Latent Report predict a bad video?

    python -m research.alarm [--runs 260]

Every run processes a held-out clip of the toy world with the real nodes and the demo models; footage and settings are
chosen at random. The report gets only the mixed latent, and only the decoded frames decide whether the video is bad.
Measures the runs that are missing in rows/alarm.jsonl, and fills the tables of pages/alarm.md, the evidence for the
thresholds of `ALARM_THRESHOLDS` in bivdiff_core/measure/latent_statistics.py.
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


def make_footage(clip: toy_world.ToyClip, kind: str, seed: int) -> dict:
    """The chain's input LATENT: frames generated from a clip's outlines, or the clip itself, possibly damaged."""
    if kind == "drawn":
        controlled = chain.apply_outline_control(clip.frames, chain.encode_text(clip.caption))
        return chain.generate_frames(*controlled, chain.empty_latent(len(clip.frames)), seed)
    frames = clip.frames.clone()
    if kind == "colours that jump":
        frames = add_colour_flicker(frames, seed)
    elif kind == "one black frame":
        frames[BROKEN_FRAME] = 0
    elif kind == "one frame of static":
        frames[BROKEN_FRAME] = torch.rand(frames.shape[1:], generator=torch.Generator().manual_seed(seed))
    return chain.encode(frames)


def run_job(job: dict) -> dict:
    """A row: the report's figures of a mixed latent, and whether the video is bad."""
    clip = toy_world.held_out_clip("easy", job["clip"])
    latent, caption = make_footage(clip, job["footage"], job["clip"]), chain.encode_text(clip.caption)
    settings = {name: job[name] for name in ("solver", "steps", "strength")}
    settings["conditioning"] = caption if job["inversion prompt"] == "caption" else chain.empty
    try:
        image = chain.invert_image(latent, **settings) if job["ratio"] > 0 else None
        video = chain.invert_video(latent, **settings) if job["ratio"] < 1 else None
        mixed = chain.blend(image, video, job["ratio"], job["mode"])
    except ValueError:  # the nodes reject too few steps to reach noise, and latents unlike noise
        return {"refused": True}
    measured = latent_statistics.measure_latent(latent_statistics.flatten_to_frames(mixed["samples"]))
    deviation = latent_statistics.normalized_deviation(
        measured, latent_statistics.sampling_limits(tuple(mixed["samples"].shape))
    )
    video = chain.decode(chain.smooth(mixed, caption, job["steps"]))
    return {
        "refused": False,
        "off": {name: round(values.max().item(), 4) for name, values in deviation.items()},
        "bad": has_collapsed(rate_frames(video, clip)),
    }


def rate_frames(frames: Tensor, clip: toy_world.ToyClip) -> list[dict]:
    """Overlap with the known shapes, share of right colours, and sharpness relative to the clip, for each frame."""
    reference = chain.decode(chain.encode(clip.frames))
    found = []
    for t in range(len(frames)):
        frame = slice(t, t + 1)
        one = replace(clip, masks=clip.masks[:, frame])
        figures = {"IoU": shape_iou(frames[frame], one), "caption": caption_accuracy(frames[frame], one)}
        found.append(figures | {"sharpness": sharpness(frames[frame]) / sharpness(reference[frame])})
    return found


def area_under_curve(bad: pandas.Series, good: pandas.Series) -> float:
    """Probability that a bad run's score is above a good run's; ties count half."""
    return mannwhitneyu(bad, good).statistic / (len(bad) * len(good))


def area(scores: pandas.Series, bad: pandas.Series) -> str:
    """The area under the ROC curve with its 95% bootstrap interval, as text."""
    groups = scores[bad].to_numpy(), scores[~bad].to_numpy()
    found = bootstrap(groups, area_under_curve, vectorized=False, n_resamples=1000, method="percentile", rng=0)
    return (
        f"{area_under_curve(*groups):.2f} ({found.confidence_interval.low:.2f} to {found.confidence_interval.high:.2f})"
    )


def share(values: pandas.Series) -> str:
    """The share of true values with its 95% interval, as text."""
    low, high = confidence_interval(values.astype(float))
    return f"{values.mean():.0%} ({low:.0%} to {high:.0%})"


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = pandas.json_normalize([row for row in rows if not row["refused"]])
    table["bad"] = table["bad"].astype(bool)
    off = {name: table[f"off.{name}"] for name in latent_statistics.ALARM_THRESHOLDS}
    full, held_out = table["strength"] == 1, table["clip"] % 2 == 1
    scores = pandas.Series(
        latent_statistics.alarm_severity({name: torch.tensor(row[f"off.{name}"]) for name in off}, row["strength"])
        for _, row in table.iterrows()
    )
    levels = []
    for name, level in latent_statistics.ALARM_THRESHOLDS.items():
        counted = full | name.startswith("odd")
        found = off[name][counted & ~held_out & ~table["bad"]].quantile(0.95)
        levels.append(
            {"figure": name, "level from these runs": f"{found:.1f}", "in use": f"{level:g}"}
            | {"area under curve": area(off[name][full], table["bad"][full])}
        )
    by_footage = []
    for kind in dict.fromkeys(CONTROLS["footage"]):
        of_kind = table["footage"] == kind
        line = {"footage": kind, "runs": of_kind.sum(), "bad": share(table["bad"][of_kind])}
        for column, among in (("bad ones stopped", table["bad"]), ("good ones stopped", ~table["bad"])):
            stopped = scores[of_kind & held_out & among] > 1
            line[column] = f"{stopped.sum()} of {len(stopped)}"
        by_footage.append(line)
    whole = held_out & ~table["footage"].str.startswith("one")
    areas = [
        {"footage": name, "runs": runs.sum(), "bad": table["bad"][runs].sum()}
        | {"area under curve": area(scores[runs], table["bad"][runs])}
        for name, runs in (("all", held_out), ("without the broken frames", whole))
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
    """Measure the missing runs and fill the page."""
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

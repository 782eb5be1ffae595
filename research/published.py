"""The Temporal Report's verdict on published results on real footage, and on averages of the same frames.

    python -m research.published FOLDER

FOLDER contains a folder for each result set: source.gif is the source clip, framewise.gif the image model's frames,
result.gif the smoothed video. `SOURCES` maps sets without a clip to the set with the same clip. Measures the sets that
are missing in research/rows/published.jsonl, and fills the tables of docs/real_footage.md. It also writes contact
sheets to output/published; do not publish them, because we may not redistribute the sets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from bivdiff_core.measure import video_metrics
from bivdiff_core.measure.optical_flow import average_along_flow
from bivdiff_core.measure.video_metrics import MeasuredClip, measure_video
from research.demo_chain import average_three_frames, load_pack, with_adjacent_frames
from research.page_tables import confidence_interval, describe_run, markdown_table, write_page
from research.rows_and_jobs import ROOT, run_jobs
from tools.contact_sheet import make_contact_sheet

SOURCES = {
    "vidrd-ip2p-spiderman": "vidrd-ip2p-minecraft",
    "vidrd-p2p-white-car": "vidrd-p2p-forest",
    "vidrd-outpaint-hike": "vidrd-inpaint-erase-hike",
}
EXPECTED = {
    "vidrd-inpaint-erase-hike": "Not steadier",
    "zeroscope-ip2p-surfing": "Not steadier",
    "zeroscope-controlnet-canny-bear": "But the video is blurred",
}
"""The expected verdict, judged by eye, of sets for which it is not a plain "Steadier"."""
FIGURES = {"flicker": "flicker", "drawn": "sharpness / frame-wise", "source": "sharpness / source"}
VERDICTS = {"steadier": "^Steadier", "double exposure": "double exposure", "still": "stands still"}
RESULT_LABEL, SOURCE_LABEL = "published result", "the source itself"
SHOWN = (1, 4)
PICTURES = ROOT / "output" / "published"


def read_gif(path: Path) -> Tensor:
    """The frames `[F, H, W, 3]` of a GIF, in 0..1."""
    with Image.open(path) as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    return torch.from_numpy(np.stack(frames)).float() / 255


def sharpen(frames: Tensor, sharpness: float) -> Tensor:
    """Apply an unsharp mask just strong enough to reach a sharpness, or the strongest."""
    from kornia.filters import gaussian_blur2d

    soft = gaussian_blur2d(frames.movedim(-1, 1), (7, 7), (1.0, 1.0)).movedim(1, -1)
    for amount in torch.linspace(0, 6, 61):
        result = (frames + amount * (frames - soft)).clamp(0, 1)
        if video_metrics.sharpness(result).mean() >= sharpness:
            break
    return result


def make_baselines(source: Tensor, framewise: Tensor, result: Tensor) -> dict[str, Tensor]:
    """The published result, and cheap methods to reduce flicker."""
    sharp = video_metrics.sharpness(framewise).mean().item()
    average, along = average_three_frames(framewise), average_along_flow(framewise, source, reach=1)[0]
    return {
        RESULT_LABEL: result,
        "average of 3": average,
        "average of 3, sharpened": sharpen(average, sharp),
        "median of 3": with_adjacent_frames(framewise).median(dim=0).values,
        "average along the source's motion": along,
        "average along the source's motion, sharpened": sharpen(along, sharp),
        "all 8 along the source's motion": average_along_flow(framewise, source, reach=7)[0],
        "frozen result": result[:1].expand_as(result),
    }


def measure(loaded: tuple[Path, Callable], job: dict) -> dict:
    """A row: figures of every video of a set, relative to its frame-wise frames and its clip, and the verdicts."""
    (folder, judge_video), name = loaded, job["set"]
    source = read_gif(folder / SOURCES.get(name, name) / "source.gif")
    framewise, result = read_gif(folder / name / "framewise.gif"), read_gif(folder / name / "result.gif")
    clip, unsmoothed = map(MeasuredClip.from_frames, (source, framewise))
    before = measure_video(unsmoothed, source=clip)
    videos = make_baselines(source, framewise, result)
    figures = {}
    for label, video in {SOURCE_LABEL: source, **videos}.items():
        after = measure_video(MeasuredClip.from_frames(video), unsmoothed, source=clip)
        now, was = ({key: value.nanmean().item() for key, value in found.items()} for found in (after, before))
        ratios = {
            "flicker": (now["flicker"] / was["flicker"]) ** 0.5,
            "drawn": now["sharpness"] / was["sharpness"],
            "source": now["sharpness"] / clip.sharpness.mean().item(),
            "motion": now["motion"] / video_metrics.motion(clip.flow, clip.reliable).mean().item(),
            "following": now["following"],
            "doubling": now["doubling"],
        }
        verdict = judge_video(after, before, clip).headline
        figures[label] = ratios | {"verdict": verdict}
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown = {label: video[[*SHOWN]] for label, video in {"source": source, "frame-wise": framewise, **videos}.items()}
    make_contact_sheet(shown, tile=260, label=640).save(PICTURES / f"{name}.png")
    plain = [measure_video(video) for video in (MeasuredClip.from_frames(result), unsmoothed)]
    without_source = judge_video(*plain).headline
    return {"videos": figures, "without the source": without_source}


def said(headline: str) -> str:
    """The verdict of a report's headline, without the reasons."""
    return headline.removeprefix("No clear gain: steadier, ").capitalize().split(",")[0]


def spread(values: pandas.Series) -> str:
    """The median and its 95% bootstrap interval, as text."""
    low, high = confidence_interval(values, np.median)
    return f"{values.median():.2f} ({low:.2f} to {high:.2f})"


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = pandas.DataFrame(
        [{"set": row["set"], "video": label} | found for row in rows for label, found in row["videos"].items()]
    )
    results = table[table["video"] == RESULT_LABEL].drop(columns="video").set_index("set")
    expected = pandas.Series({name: EXPECTED.get(name, "Steadier") for name in results.index})
    verdicts = results["verdict"].map(said)
    right = sum(verdict.startswith(expected[name]) for name, verdict in verdicts.items())
    without_source = sum(row["without the source"].startswith("No verdict") for row in rows)
    columns = {**FIGURES, "motion": "motion / source", "following": "following", "doubling": "doubling"}
    each = results[list(columns)].rename(columns=columns).assign(verdict=verdicts, expected=expected)
    ways = []
    for label, found in table.groupby("video", sort=False):
        line = {"video": label} | {name: spread(found[key]) for key, name in FIGURES.items()}
        line["doubling, range"] = f"{found['doubling'].min():.2f} to {found['doubling'].max():.2f}"
        for name, words in VERDICTS.items():
            line[name] = "" if label == SOURCE_LABEL else found["verdict"].str.contains(words).sum()
        ways.append(line)
    return {
        "run": describe_run(rows, f"{len(rows)} sets."),
        "verdicts": f"The verdict is the expected one for {right} of {len(rows)}. Without source_images the report "
        f"cannot tell for {without_source}, since independently generated frames share no motion.",
        "each": each.to_markdown(floatfmt=".2f"),
        "ways": markdown_table(ways),
    }


def load(folder: Path) -> tuple[Path, Callable]:
    """The folder of the sets and the function that judges a video, which is the pack's."""
    return folder, load_pack().import_module("nodes.video_verdict").judge_video


def main() -> None:
    """Measure the missing sets and fill the page."""
    folder = Path(sys.argv[1])
    jobs = [{"set": path.parent.name} for path in sorted(folder.glob("*/result.gif"))]
    write_page("published", render_tables(run_jobs("published", jobs, partial(load, folder), measure)))


if __name__ == "__main__":
    main()

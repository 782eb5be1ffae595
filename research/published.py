"""What does the Temporal Report say of published results on real footage, and of averages of the same frames?

    python -m research.published [FOLDER]

FOLDER holds a folder for each result set: source.gif, the driving clip; framewise.gif, what the image model made of it
frame by frame; result.gif, the smoothed video. `SOURCES` names the sets that share another's clip. Measures the sets
that research/rows/published.jsonl lacks, and fills the tables of docs/real_footage.md; for the reader alone it draws
them into output/published, since the sets are not ours to pass on. Without FOLDER nothing is measured.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from bivdiff_core.measure import video_metrics
from bivdiff_core.measure.optical_flow import average_along_flow
from research.page_tables import describe_run, markdown_table, write_page
from research.rows_and_jobs import ROOT, confidence_interval, read_rows, run_jobs
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
"""The verdict that looking at a set gives, where it is not a plain "Steadier"."""
FIGURES = {"flicker": "flicker", "drawn": "sharpness, to frame-wise", "source": "to the source"}
VERDICTS = {"steadier": "^Steadier", "double exposure": "double exposure", "still": "stands still"}
RESULT_LABEL, SOURCE_LABEL = "published result", "the source itself"
SHOWN = (1, 4)
PICTURES = ROOT / "output" / "published"


def frames_of(path: Path) -> Tensor:
    """A GIF's frames `[F, H, W, 3]`."""
    with Image.open(path) as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    return torch.from_numpy(np.stack(frames)).float() / 255


def neighbours(frames: Tensor) -> Tensor:
    """Every frame with those before and after, `[3, F, H, W, 3]`."""
    padded = torch.cat((frames[:1], frames, frames[-1:]))
    return torch.stack((padded[:-2], padded[1:-1], padded[2:]))


def sharpened(frames: Tensor, sharpness: float) -> Tensor:
    """Frames with an unsharp mask strong enough to reach a sharpness, or the strongest tried."""
    from kornia.filters import gaussian_blur2d

    soft = gaussian_blur2d(frames.movedim(-1, 1), (7, 7), (1.0, 1.0)).movedim(1, -1)
    for amount in torch.linspace(0, 6, 61):
        result = (frames + amount * (frames - soft)).clamp(0, 1)
        if video_metrics.sharpness(result).mean() >= sharpness:
            break
    return result


def make_baselines(source: Tensor, drawn: Tensor, result: Tensor) -> dict[str, Tensor]:
    """The published result, and the cheap ways to less flicker."""
    sharp = video_metrics.sharpness(drawn).mean().item()
    average, along = neighbours(drawn).mean(dim=0), average_along_flow(drawn, source, reach=1)[0]
    return {
        RESULT_LABEL: result,
        "average of 3": average,
        "average of 3, sharpened": sharpened(average, sharp),
        "median of 3": neighbours(drawn).median(dim=0).values,
        "average along the source's motion": along,
        "average along the source's motion, sharpened": sharpened(along, sharp),
        "all 8 along the source's motion": average_along_flow(drawn, source, reach=7)[0],
        "frozen result": result[:1].expand_as(result),
    }


def run_job(folder: Path, job: dict) -> dict:
    """A row: every video of a set against its frame-wise frames and its clip, as ratios; and what the report says."""
    name = job["set"]
    source = frames_of(folder / SOURCES.get(name, name) / "source.gif")
    drawn, result = frames_of(folder / name / "framewise.gif"), frames_of(folder / name / "result.gif")
    clip = video_metrics.SourceMotion.of(source)
    before = video_metrics.measure_video(drawn, source=clip)
    videos = make_baselines(source, drawn, result)
    figures = {}
    for label, video in {SOURCE_LABEL: source, **videos}.items():
        after = video_metrics.measure_video(video, drawn, source=clip)
        now, was = ({key: value.nanmean().item() for key, value in found.items()} for found in (after, before))
        ratios = {
            "flicker": (now["flicker"] / was["flicker"]) ** 0.5,
            "drawn": now["sharpness"] / was["sharpness"],
            "source": now["sharpness"] / clip.sharpness.mean().item(),
            "motion": now["motion"] / video_metrics.motion(clip.flow, clip.reliable).mean().item(),
            "following": now["following"],
            "doubling": now["doubling"],
        }
        verdict = video_metrics.judge_video(after, before, clip).headline
        figures[label] = {key: round(value, 4) for key, value in ratios.items()} | {"verdict": verdict}
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown = {label: video[[*SHOWN]] for label, video in {"source": source, "frame-wise": drawn, **videos}.items()}
    make_contact_sheet(shown, tile=260, label=640).save(PICTURES / f"{name}.png")
    blind = video_metrics.judge_video(video_metrics.measure_video(result), video_metrics.measure_video(drawn)).headline
    return {"videos": figures, "without the source": blind}


def said(headline: str) -> str:
    """A verdict without its reasons."""
    return headline.removeprefix("No clear gain: steadier, ").capitalize().split(",")[0]


def spread(values: pandas.Series) -> str:
    """The median and between which bounds 95% of resampled medians lie."""
    low, high = confidence_interval(values, np.median)
    return f"{values.median():.2f} ({low:.2f} to {high:.2f})"


def render_tables(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    table = pandas.DataFrame(
        [{"set": row["set"], "video": label} | found for row in rows for label, found in row["videos"].items()]
    )
    results = table[table["video"] == RESULT_LABEL].drop(columns="video").set_index("set")
    expected = pandas.Series({name: EXPECTED.get(name, "Steadier") for name in results.index})
    verdicts = results["verdict"].map(said)
    right = sum(verdict.startswith(expected[name]) for name, verdict in verdicts.items())
    blind = sum(row["without the source"].startswith("No verdict") for row in rows)
    columns = {**FIGURES, "motion": "motion, to the source", "following": "following", "doubling": "doubling"}
    each = results[list(columns)].rename(columns=columns).assign(verdict=verdicts, expected=expected)
    ways = []
    for label, found in table.groupby("video", sort=False):
        line = {"video": label} | {name: spread(found[key]) for key, name in FIGURES.items()}
        line["doubling, least to most"] = f"{found['doubling'].min():.2f} to {found['doubling'].max():.2f}"
        for name, words in VERDICTS.items():
            line[name] = "" if label == SOURCE_LABEL else found["verdict"].str.contains(words).sum()
        ways.append(line)
    return {
        "run": describe_run(rows, f"{len(rows)} sets."),
        "verdicts": f"The verdict is the expected one for {right} of {len(rows)}. Without source_images the report "
        f"cannot tell for {blind}, since independently generated frames share no motion.",
        "each": each.to_markdown(floatfmt=".2f"),
        "ways": markdown_table(ways),
    }


def init_worker() -> None:
    """Nothing to load."""


def main() -> None:
    """Measure the sets that are missing and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    if folder := parser.parse_args().folder:
        jobs = [{"set": path.parent.name} for path in sorted(folder.glob("*/result.gif"))]
        run_jobs("published", jobs, partial(run_job, folder), init_worker)
    write_page("docs/real_footage.md", render_tables(read_rows("published")))


if __name__ == "__main__":
    main()

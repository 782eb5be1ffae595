"""Check pages and README against the measured rows: all tables, and all figures that README quotes."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import pandas
import pytest

from research import evidence, published
from research.page_tables import PAGES, block_names, fill_page
from research.rows_and_jobs import ROWS, read_rows
from tools import model_table

ROOT = Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"<!-- (.+?) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])(?<!\w-)(?<!SD )(\d*\.\d+%?|\d+%|\d{3,}(?!\w|\.\d))")
"""A number with a decimal point, a percentage or a number of at least three digits."""
SETTINGS = ("research/page_tables.py", "research/demo_chain.py", "research/toy_metrics.py")
"""Source files of settings that benchmarks share."""
SPARSE_PAGES = (
    "docs/evidence.md",
    "docs/versions.md",
)
"""Pages whose tables and settings hold less than half of all whole percentages, so that a wrong figure is detected."""
MAX_DOCS_BYTES = 60_000
FRAMES = 8
"""Frames of every clip of the toy world."""


def test_rows_have_a_page():
    assert {path.stem for path in ROWS.glob("*.jsonl")} == set(PAGES)


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_pages_tables_are_its_rows(name, page):
    module = import_module(f"research.{name}")
    assert (ROOT / page).read_text(encoding="utf-8") == fill_page(page, module.render_tables(read_rows(name)))


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_every_block_of_a_page_is_filled_from_rows(page):
    names = [name for name, filled in PAGES.items() if filled == page]
    blocks = [block for name in names for block in import_module(f"research.{name}").render_tables(read_rows(name))]
    assert len(blocks) == len(set(blocks))
    filled = set(blocks) | ({model_table.BLOCK} if page == model_table.PAGE else set())  # of the code, not of rows
    assert filled == block_names((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", SPARSE_PAGES)
def test_a_figure_in_a_pages_prose_is_in_a_table_or_a_setting(page):
    """In one of the page's tables, in the source of the module that fills it, or in `SETTINGS`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    names = [name for name, filled in PAGES.items() if filled == page]
    sources = [source for name in names for source in (ROOT / "research").glob(f"*{name}*.py")]
    sources += [ROOT / setting for setting in SETTINGS]
    tables = [block for _, block in BLOCK.findall(text)]
    known = figures(*tables, *(source.read_text(encoding="utf-8") for source in sources))
    prose = BLOCK.sub("", re.sub(r"`.*?`|\]\(.*?\)", "", text))
    assert not figures(prose) - known


def figures(*texts: str) -> set[float]:
    """The figures in the texts; percentages as fractions."""
    found = [figure for text in texts for figure in FIGURE.findall(text)]
    return {round(float(figure.rstrip("%")) / (100 if "%" in figure else 1), 5) for figure in found}


# README: the figures that it quotes, and their sources


def published_results() -> tuple[float, ...]:
    """Number of results, smallest and largest fall of flicker, and numbers of stable, unchanged and blurred ones."""
    verdicts = [row["videos"][published.RESULT_LABEL]["verdict"] for row in read_rows("published")]
    falls = [
        int(fall) / 100 for verdict in verdicts for fall in re.findall(r"^Steadier: flicker fell by (\d+)%", verdict)
    ]
    unchanged = sum(published.said(verdict) == "Not steadier" for verdict in verdicts)
    blurred = sum("the video is blurred" in verdict for verdict in verdicts)
    return len(verdicts), min(falls), max(falls), len(falls), unchanged, blurred


@cache
def judging_rows() -> list[dict]:
    """The rows of the clips that judge."""
    return evidence.select_judging_rows(read_rows("evidence"))


@cache
def hard_clips() -> pandas.DataFrame:
    """The mean figures of every method on hard clips, over clips and seeds."""
    table = evidence.results_table(judging_rows()).loc["hard"]
    return table.groupby(["frames", "method"]).mean()


def hard_clip_figure(method: evidence.Method, figure: str) -> float:
    """A method's figure on hard clips."""
    return hard_clips().loc[(method.frames, str(method)), figure]


def count_values(setting: str) -> int:
    """Number of different values of a setting in the clips that judge."""
    return len({row[setting] for row in judging_rows()})


CHAIN, FEW_STEPS = evidence.RECOMMENDED, replace(evidence.RECOMMENDED, steps=evidence.FEW_STEPS)
WITH_PASS = evidence.with_pass(evidence.BIVDIFF)
README_FIGURES: dict[str, Callable[[], tuple]] = {
    "Of {} results on real clips that the method's authors published, flicker (the squared change along the motion) "
    "fell by {:.0%} to {:.0%} in {}, did not fall in {}, and {} came out blurred": published_results,
    "Each frame takes {:.0f} UNet calls at 25 steps and {:.0f} at 12": lambda: tuple(
        hard_clip_figure(method, "calls") / FRAMES for method in (CHAIN, FEW_STEPS)
    ),
    "On {} hard toy clips 12 steps flickered less ({:.3f} in shapes instead of {:.3f})": lambda: (
        count_values("clip"),
        hard_clip_figure(FEW_STEPS, "shape flicker"),
        hard_clip_figure(CHAIN, "shape flicker"),
    ),
    "kept {:.0%} of the sharpness of 25": lambda: (
        hard_clip_figure(FEW_STEPS, "sharpness") / hard_clip_figure(CHAIN, "sharpness"),
    ),
    "{} held-out toy clips whose frames disagree as real ones do, {} seeds": lambda: (
        count_values("clip"),
        count_values("seed"),
    ),
    "falls from {:.3f} to {:.3f} in shapes": lambda: (
        hard_clip_figure(evidence.FRAMES, "shape flicker"),
        hard_clip_figure(CHAIN, "shape flicker"),
    ),
    "from {:.3f} to {:.3f} on the background": lambda: (
        hard_clip_figure(evidence.FRAMES, "background flicker"),
        hard_clip_figure(CHAIN, "background flicker"),
    ),
    "{:.0%} of the sharpness, the colours": lambda: (
        hard_clip_figure(CHAIN, "sharpness") / hard_clip_figure(evidence.FRAMES, "sharpness"),
    ),
    "overlap {:.2f} before, {:.2f} after, {:.2f} without Borrow Control, {:.2f} with the structure pass": lambda: tuple(
        hard_clip_figure(method, "IoU") for method in (evidence.FRAMES, CHAIN, evidence.BIVDIFF, WITH_PASS)
    ),
}
"""Texts of README, with the values that the rows give for their figures."""


@pytest.mark.parametrize("words", README_FIGURES)
def test_the_readme_quotes_what_was_measured(words):
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert words.format(*README_FIGURES[words]()) in readme


def test_the_pages_that_ship_are_short():
    assert sum(page.stat().st_size for page in (ROOT / "docs").rglob("*.md")) < MAX_DOCS_BYTES

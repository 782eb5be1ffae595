"""Pages against the rows that their benchmarks measured: every table is what the rows give."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from research.page_tables import block_names, fill
from research.rows_and_jobs import ROWS
from research.write_pages import PAGES, ROW_SETS, read_rows

ROOT = Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"<!-- (.+?) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])(?<!\w-)(?<!SD )(\d*\.\d+%?|\d+%|\d{3,}(?!\w|\.\d))")
"""A number that can only have been measured or chosen: with a decimal point, a percentage, or of three digits."""
SETTINGS = ("research/rows_and_jobs.py", "research/demo_chain.py", "research/toy_metrics.py")
"""Sources of settings that benchmarks share."""
SPARSE_PAGES = (
    "docs/evidence.md",
    "docs/versions.md",
    "research/pages/alarm.md",
    "research/pages/calls.md",
    "research/pages/leak.md",
    "research/pages/steadiness.md",
)
"""Pages whose own tables and settings hold less than half of all whole per cents: there a wrong figure shows."""
LARGEST_DOCS = 60_000


def test_rows_have_a_page():
    assert {path.stem for path in ROWS.glob("*.jsonl")} == set(PAGES) - set(ROW_SETS)


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_pages_tables_are_its_rows(name, page):
    module = import_module(f"research.{name}")
    assert (ROOT / page).read_text(encoding="utf-8") == fill(page, module.blocks(*read_rows(name)))


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_every_block_of_a_page_is_filled_from_rows(page):
    names = [name for name, filled in PAGES.items() if filled == page]
    made = [block for name in names for block in import_module(f"research.{name}").blocks(*read_rows(name))]
    assert len(made) == len(set(made))
    assert set(made) == block_names((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", SPARSE_PAGES)
def test_a_figure_in_a_pages_prose_is_in_a_table_or_a_setting(page):
    """In one of its own tables, in the source of what fills it, or in that of `SETTINGS`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    names = [name for name, filled in PAGES.items() if filled == page]
    sources = [source for name in names for source in (ROOT / "research").glob(f"*{name}*.py")]
    sources += [ROOT / setting for setting in SETTINGS]
    tables = [block for _, block in BLOCK.findall(text)]
    known = figures(*tables, *(source.read_text(encoding="utf-8") for source in sources))
    prose = BLOCK.sub("", re.sub(r"`.*?`|\]\(.*?\)", "", text))
    assert not figures(prose) - known


def figures(*texts: str) -> set[float]:
    """The figures in texts."""
    found = [figure for text in texts for figure in FIGURE.findall(text)]
    return {round(float(figure.rstrip("%")) / (100 if "%" in figure else 1), 5) for figure in found}


def test_the_pages_that_ship_are_short():
    assert sum(page.stat().st_size for page in (ROOT / "docs").rglob("*.md")) < LARGEST_DOCS

"""Pages against the rows that their benchmarks measured: every table is what the rows give."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from research.page_tables import fill
from research.rows_and_jobs import ROWS, read
from research.write_pages import PAGES

ROOT = Path(__file__).resolve().parents[1]

BLOCK = re.compile(r"<!-- (.+?) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])(?<!\w-)(?<!SD )(\d*\.\d+%?|\d+%|\d{3,}(?!\w|\.\d))")
"""A number that can only have been measured or chosen: with a decimal point, a percentage, or of three digits."""
SETTINGS = ("research/rows_and_jobs.py", "research/demo_chain.py", "research/toy_metrics.py")
"""Sources of settings that benchmarks share."""


def test_rows_have_a_page():
    assert {path.stem for path in ROWS.glob("*.jsonl")} == set(PAGES)


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_pages_tables_are_its_rows(name, page):
    benchmark = import_module(f"research.{name}")
    assert (ROOT / page).read_text(encoding="utf-8") == fill(page, benchmark.blocks(read(name)))


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_figure_in_a_pages_prose_is_in_a_table_or_a_setting(name, page):
    """In one of its tables, in one of a page that it links to, in its benchmark's source or in that of `SETTINGS`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [(ROOT / page).parent / other for other in re.findall(r"\]\(([\w./]+\.md)\)", text)]
    known = [block for _, block in BLOCK.findall(text + "".join(other.read_text(encoding="utf-8") for other in linked))]
    sources = [*(ROOT / "research").glob(f"*{name}*.py"), *(ROOT / setting for setting in SETTINGS)]
    known += [source.read_text(encoding="utf-8") for source in sources]
    prose = BLOCK.sub("", re.sub(r"`.*?`|\]\(.*?\)", "", text))
    assert not figures(prose) - figures(*known)


def test_a_figure_in_the_readme_is_on_a_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"`[^`]*`|\]\(.*?\)|<!--.*?-->|arXiv [\d.]+|CVPR \d+", "", text)
    pages = [page for folder in ("docs", "research/pages") for page in (ROOT / folder).glob("*.md")]
    assert not figures(prose) - figures(*(page.read_text(encoding="utf-8") for page in pages))


def figures(*texts: str) -> set[float]:
    """The figures in texts."""
    found = [figure for text in texts for figure in FIGURE.findall(text)]
    return {round(float(figure.rstrip("%")) / (100 if "%" in figure else 1), 5) for figure in found}

"""Pages of docs/ against the rows that their benchmarks measured: every table is what the rows give."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from _page import fill  # noqa: E402
from _rows import read  # noqa: E402
from report import PAGES  # noqa: E402

BLOCK = re.compile(r"<!-- (.+?) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])(\d*\.\d+|\d+%|\d{3,}(?!\w|\.\d))")
"""A number that can only have been measured or chosen: with a decimal point, a percentage, or of three digits."""


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_pages_tables_are_its_rows(name, page):
    benchmark = import_module(name)
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == fill(page, benchmark.blocks(read(name)))


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_figure_in_a_pages_prose_is_in_a_table_or_a_setting(name, page):
    """In one of its tables, in one of a page that it links to, or in its benchmark's source."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    linked = [ROOT / "docs" / other for other in re.findall(r"\]\((\w+\.md)\)", text)]
    known = [block for _, block in BLOCK.findall(text + "".join(other.read_text(encoding="utf-8") for other in linked))]
    known += [source.read_text(encoding="utf-8") for source in (ROOT / "benchmarks").glob(f"*{name}*.py")]
    prose = BLOCK.sub("", re.sub(r"`.*?`|\]\(.*?\)", "", text))
    assert not figures(prose) - figures(*known)


def figures(*texts: str) -> set[float]:
    """The figures in texts, a percentage as its number of hundredths."""
    return {float(found.rstrip("%")) for text in texts for found in FIGURE.findall(text)}

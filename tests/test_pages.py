"""Pages of docs/ against the rows that their benchmarks measured: every table is what the rows give."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


PAGES = {"calls": "calls", "disagreement": "disagreement", "precision": "precision"}
"""The page of each benchmark."""


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_pages_tables_are_its_rows(monkeypatch, name, page):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark, pages, rows = (import_module(module) for module in (name, "_page", "_rows"))
    filled = pages.fill(f"{page}.md", benchmark.blocks(rows.read(name)))
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == filled

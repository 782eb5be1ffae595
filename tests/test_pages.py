"""Pages of docs/ against the rows that their benchmarks measured: every table is what the rows give."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["calls", "disagreement"])
def test_a_pages_tables_are_its_rows(monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark, page, rows = (import_module(module) for module in (name, "_page", "_rows"))
    filled = page.fill(f"{name}.md", benchmark.blocks(rows.read(name)))
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == filled

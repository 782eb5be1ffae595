"""Pages whose prose is written by hand and whose tables are made of rows."""

from __future__ import annotations

import re
from pathlib import Path

import pandas

ROOT = Path(__file__).resolve().parents[1]


def run_line(rows: list[dict], what: str) -> str:
    """How the rows were made, and what they are of."""
    return f"`{rows[-1]['command']}` at {' and '.join(dict.fromkeys(row['commit'] for row in rows))}: {what}"


def markdown(lines: list[dict]) -> str:
    """A table of lines with the same columns."""
    return pandas.DataFrame(lines).to_markdown(index=False)


def fill(name: str, blocks: dict[str, str]) -> str:
    """A page with its generated blocks anew; each stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: the page has other blocks than these.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    if found := set(re.findall(r"<!-- /(.+?) -->", text)) ^ set(blocks):
        raise ValueError(f"{name} and its benchmark do not have the same blocks: {', '.join(sorted(found))}")
    for block, body in blocks.items():
        opening, closing = f"<!-- {block} -->", f"<!-- /{block} -->"
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{body}\n{closing}{rest.partition(closing)[2]}"
    return text


def write(name: str, blocks: dict[str, str]) -> None:
    """Write a page with its blocks anew."""
    text = fill(name, blocks)
    (ROOT / name).write_text(text, encoding="utf-8")

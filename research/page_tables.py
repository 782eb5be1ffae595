"""Fill pages: the text is written by hand, the tables are generated from rows."""

from __future__ import annotations

import re
from pathlib import Path

import pandas

ROOT = Path(__file__).resolve().parents[1]


def describe_run(rows: list[dict], what: str) -> str:
    """The command and commit that measured the rows, followed by ``what``."""
    return f"`{rows[-1]['command']}` at {' and '.join(dict.fromkeys(row['commit'] for row in rows))}: {what}"


def markdown_table(lines: list[dict]) -> str:
    """A table of lines with the same columns."""
    return pandas.DataFrame(lines).to_markdown(index=False)


def block_names(text: str) -> set[str]:
    """The names of a page's generated blocks."""
    return set(re.findall(r"<!-- /(.+?) -->", text))


def fill_page(name: str, blocks: dict[str, str]) -> str:
    """The text of a page with these generated blocks replaced: between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        ValueError: if a block is missing in the page.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    if missing := set(blocks) - block_names(text):
        raise ValueError(f"{name} lacks the blocks {', '.join(sorted(missing))}")
    for block, body in blocks.items():
        opening, closing = f"<!-- {block} -->", f"<!-- /{block} -->"
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{body}\n{closing}{rest.partition(closing)[2]}"
    return text


def write_page(name: str, blocks: dict[str, str]) -> None:
    """Write a page with these blocks replaced."""
    text = fill_page(name, blocks)
    (ROOT / name).write_text(text, encoding="utf-8")

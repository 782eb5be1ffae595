"""Pages: the text is written by hand, the tables are generated from rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "chain_costs": "docs/models.md",
    "disagreement": "research/pages/disagreement.md",
    "evidence": "docs/evidence.md",
    "precision": "docs/versions.md",
    "published": "docs/real_footage.md",
    "versions": "docs/versions.md",
}
"""The page of each module of research/; its rows have the module's name."""


def describe_run(rows: list[dict], what: str) -> str:
    """The command and commit that measured the rows, followed by ``what``."""
    return f"`{rows[-1]['command']}` at {' and '.join(dict.fromkeys(row['commit'] for row in rows))}: {what}"


def markdown_table(lines: list[dict]) -> str:
    """A table of lines with the same columns."""
    return pandas.DataFrame(lines).to_markdown(index=False)


def confidence_interval(values: pandas.Series, statistic: Callable = np.mean) -> tuple[float, float]:
    """The 95% bootstrap interval over clips of the mean, or of another statistic."""
    values = values.dropna().to_numpy()
    resampled = bootstrap((values,), statistic, confidence_level=0.95, n_resamples=2000, method="percentile", rng=0)
    return resampled.confidence_interval.low, resampled.confidence_interval.high


def format_mean(values: pandas.Series, digits: int = 3) -> str:
    """The mean and its 95% interval, as text."""
    low, high = confidence_interval(values)
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def format_change(changes: pandas.Series) -> str:
    """The mean of differences on the same clips and its 95% interval, as text with signs."""
    low, high = confidence_interval(changes)
    return f"{changes.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def format_difference(values: pandas.Series, reference: pandas.Series) -> str:
    """The mean, and the 95% interval of the mean difference from a reference on the same clips, as text."""
    low, high = confidence_interval(values - reference)
    return f"{values.mean():.3f} ({low:+.3f} to {high:+.3f})"


def block_names(text: str) -> set[str]:
    """The names of a page's generated blocks."""
    return set(re.findall(r"<!-- /(.+?) -->", text))


def remove_padding(table: str) -> str:
    """A Markdown table without the spaces that align its columns."""
    return re.sub("-{3,}", "---", re.sub(" {2,}", " ", table))


def fill_page(page: str, blocks: dict[str, str]) -> str:
    """The text of a page with these generated blocks replaced: between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Tables of docs/ have no padding: these pages ship.

    Raises:
        ValueError: if a block is missing in the page.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    if missing := set(blocks) - block_names(text):
        raise ValueError(f"{page} lacks the blocks {', '.join(sorted(missing))}")
    for block, body in blocks.items():
        opening, closing = f"<!-- {block} -->", f"<!-- /{block} -->"
        if page.startswith("docs/"):
            body = remove_padding(body)
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{body}\n{closing}{rest.partition(closing)[2]}"
    return text


def write_page(name: str, blocks: dict[str, str]) -> None:
    """Replace the generated blocks in the page of a module."""
    text = fill_page(PAGES[name], blocks)
    (ROOT / PAGES[name]).write_text(text, encoding="utf-8")

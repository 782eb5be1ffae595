"""Every page that is made of rows, made of them again, in seconds: nothing is measured.

python -m research.write_pages
"""

from __future__ import annotations

from importlib import import_module

from research.page_tables import write
from research.rows_and_jobs import read

PAGES = {
    "alarm": "research/pages/alarm.md",
    "calls": "research/pages/calls.md",
    "claims": "research/pages/claims.md",
    "disagreement": "research/pages/disagreement.md",
    "leak": "research/pages/leak.md",
    "precision": "docs/precision.md",
    "published": "docs/real_footage.md",
    "steadiness": "research/pages/steadiness.md",
    "study": "research/pages/study.md",
    "versions": "docs/versions.md",
}
"""The page whose blocks each benchmark fills."""


def main() -> None:
    """Fill every page and draw its plot, where it has one."""
    for name, page in PAGES.items():
        benchmark, rows = import_module(f"research.{name}"), read(name)
        write(page, benchmark.blocks(rows))
        if hasattr(benchmark, "plot"):
            benchmark.plot(rows)
        print(f"{page}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()

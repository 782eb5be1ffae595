"""Every page that is made of rows, made of them again, in seconds: nothing is measured.

python benchmarks/report.py
"""

from __future__ import annotations

from importlib import import_module

from _page import write
from _rows import read

PAGES = {
    "alarm": "alarm.md",
    "calls": "calls.md",
    "claims": "claims.md",
    "disagreement": "disagreement.md",
    "leak": "leak.md",
    "precision": "precision.md",
    "published": "real_footage.md",
    "steadiness": "steadiness.md",
    "study": "study.md",
    "versions": "versions.md",
}
"""The page of docs/ whose blocks each benchmark fills."""


def main() -> None:
    """Fill every page and draw its plot, where it has one."""
    for name, page in PAGES.items():
        benchmark, rows = import_module(name), read(name)
        write(page, benchmark.blocks(rows))
        if hasattr(benchmark, "plot"):
            benchmark.plot(rows)
        print(f"docs/{page}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()

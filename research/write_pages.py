"""Fill the tables of every page from the committed rows, without measuring.

python -m research.write_pages
"""

from __future__ import annotations

from importlib import import_module

from research.page_tables import PAGES, write_page
from research.rows_and_jobs import read_rows

ROW_SETS = {"evidence": ("claims", "calls", "study", "leak")}
"""The rows of modules that use the rows of others."""


def read_row_sets(name: str) -> list[list[dict]]:
    """The row sets that a module's `render_tables` takes."""
    return [read_rows(rows) for rows in ROW_SETS.get(name, (name,))]


def main() -> None:
    """Fill every page and save its plot, if it has one."""
    for name, page in PAGES.items():
        module, rows = import_module(f"research.{name}"), read_row_sets(name)
        write_page(name, module.render_tables(*rows))
        if hasattr(module, "plot"):
            module.plot(*rows)
        print(f"{page}: {sum(map(len, rows))} rows", flush=True)


if __name__ == "__main__":
    main()

"""Fill the tables of every page from the committed rows, without measuring.

python -m research.write_pages
"""

from __future__ import annotations

from importlib import import_module

from research.page_tables import PAGES, write_page
from research.rows_and_jobs import read_rows


def main() -> None:
    """Fill every page."""
    for name, page in PAGES.items():
        rows = read_rows(name)
        write_page(name, import_module(f"research.{name}").render_tables(rows))
        print(f"{page}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()

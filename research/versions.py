"""The tables of docs/versions.md, from the results of `python dev.py matrix`, research/rows/versions.jsonl."""

from __future__ import annotations

from research.page_tables import markdown_table

FRONT_END = "comfyui-frontend-package"


def outcome(row: dict) -> str:
    """A row's result as text."""
    if "not_run" in row:
        return f"not run: {row['not_run']}"
    return f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped"


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    ran = [row for row in rows if "versions" in row]
    results = [
        {
            "row": row["row"],
            "ComfyUI": row["comfyui"],
            "Python": row.get("versions", row)["python"],
            "front end": row["versions"][FRONT_END] if row in ran else "-",
            "what": row["what"],
            "result": outcome(row),
            "day": row["date"],
        }
        for row in rows
    ]
    packages = [
        {"row": row["row"]}
        | {name: version for name, version in row["versions"].items() if name not in ("python", FRONT_END)}
        for row in ran
    ]
    failures = [f"- {row['row']}: `{test}`" for row in ran for test in row["failures"]]
    return {
        "results": markdown_table(results),
        "packages": markdown_table(packages),
        "failures": "\n".join(failures or ["None."]),
    }

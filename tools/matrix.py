"""Run the tests with other versions of ComfyUI, Python, packages and the front end than `dev.py test`.

    python dev.py matrix [ROW ...]

Each row has its own environment under .matrix/, made by uv. uv uses the Pythons on the path and downloads others if it
can. The last result of each row is a line of research/rows/versions.jsonl, from which research/write_pages.py fills
docs/versions.md.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tools import environment
from tools.environment import ROOT, ComfyUIRelease, Environment
from tools.suite import BROWSER, count_results, run_tests

MATRIX_FOLDER = ROOT / ".matrix"
RESULTS = ROOT / "research" / "rows" / "versions.jsonl"
UV = "uv==0.13.9"
UV_PYTHON = MATRIX_FOLDER / "uv" / environment.VENV_PYTHON.relative_to(environment.VENV)

COMFYUI_RELEASES = (
    ComfyUIRelease("0.18.2", "2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    ComfyUIRelease("0.27.0", "2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    environment.COMFYUI_RELEASE,
)
NODE_TESTS = ("tests/core", "tests/host")
ALL_TESTS = (*NODE_TESTS, BROWSER)

DEVELOPMENT = environment.read_development_requirements()
DEFAULT_PACKAGES = [*DEVELOPMENT.values(), *environment.read_requirements()]
TOOLS = [line for name, line in DEVELOPMENT.items() if name != "diffusers"]
LOWEST_PACKAGES = [*TOOLS, *(line.replace(">=", "==") for line in environment.read_requirements())]
NEWEST_PACKAGES = [*TOOLS, *environment.read_requirements()]
REPORTED_PACKAGES = ["comfyui-frontend-package", "torch", "numpy", "transformers"]
REPORTED_PACKAGES += [line.partition(">")[0] for line in environment.read_requirements()]
LIST_VERSIONS_SCRIPT = """
import json, platform, sys
from importlib.metadata import version

print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in sys.argv[1:]}}))
"""


@dataclass(frozen=True)
class MatrixRow:
    """The contents of an environment, and the tests that run in it."""

    name: str
    description: str
    comfyui: ComfyUIRelease = environment.COMFYUI_RELEASE
    python: str = "3.12"
    packages: tuple[str, ...] = tuple(DEFAULT_PACKAGES)
    newest_front_end: bool = False
    tests: tuple[str, ...] = ALL_TESTS


ROWS = [
    MatrixRow(
        "comfyui-0.18.2", "its own requirements; the nodes alone", COMFYUI_RELEASES[0], python="3.11", tests=NODE_TESTS
    ),
    MatrixRow("comfyui-0.27.0", "its own requirements", COMFYUI_RELEASES[1]),
    MatrixRow("lowest", "the lowest packages that the pack asks for", python="3.10", packages=tuple(LOWEST_PACKAGES)),
    MatrixRow("newest", "the newest packages", python="3.13", packages=tuple(NEWEST_PACKAGES)),
    MatrixRow("python-3.14", "the newest packages", python="3.14", packages=tuple(NEWEST_PACKAGES)),
    MatrixRow("front-end", "the newest front end", newest_front_end=True, tests=(BROWSER,)),
]


class NotRunError(RuntimeError):
    """A row was not run because its environment is not available."""


def run_rows(names: list[str]) -> int:
    """Run the named rows, or all, and save their results. Return 1 if a test failed, else 0."""
    rows = [row for row in ROWS if row.name in names or not names]
    if unknown := set(names) - {row.name for row in rows}:
        sys.exit(f"There is no row {', '.join(sorted(unknown))}: expected {', '.join(row.name for row in ROWS)}.")
    failed = 0
    for row in rows:
        result = run_row(row)
        environment.print_status(f"{row.name}: {result.get('not_run') or str(result['failed']) + ' failed'}")
        failed += result.get("failed", 0)
        saved = {json.loads(line)["row"]: line for line in RESULTS.read_text(encoding="utf-8").splitlines()}
        saved[row.name] = json.dumps(result)
        lines = [saved[each.name] for each in ROWS if each.name in saved]
        RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")
    environment.print_status("python -m research.write_pages writes them to docs/versions.md")
    return int(failed > 0)


def run_row(row: MatrixRow) -> dict:
    """Run a row; return its versions and numbers of tests, or why it was not run."""
    today = datetime.date.today().isoformat()
    result = {
        "row": row.name,
        "what": row.description,
        "date": today,
        "comfyui": row.comfyui.version,
        "python": row.python,
    }
    try:
        built = build_row_environment(row)
    except NotRunError as error:
        return {**result, "not_run": str(error)}
    listed = subprocess.run(
        [built.python, "-c", LIST_VERSIONS_SCRIPT, *REPORTED_PACKAGES], capture_output=True, text=True, check=True
    )
    reports = MATRIX_FOLDER / "reports" / row.name
    started = time.monotonic()
    run_tests(built, reports, row.tests)
    return {
        **result,
        "versions": json.loads(listed.stdout),
        **count_results(reports),
        "seconds": round(time.monotonic() - started),
    }


def build_row_environment(row: MatrixRow) -> Environment:
    """Rebuild a row's environment, from cached downloads if there are any.

    Raises:
        NotRunError: the Python or the packages are not available.
    """
    if not UV_PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", MATRIX_FOLDER / "uv"], check=True)
        subprocess.run([UV_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", UV], check=True)
    comfyui = MATRIX_FOLDER / "hosts" / row.comfyui.version / "ComfyUI"
    if not environment.is_release(comfyui, row.comfyui):
        environment.download_comfyui(comfyui, row.comfyui, UV_PYTHON)
    environment.print_status(f"making the environment of {row.name}")
    venv = MATRIX_FOLDER / "envs" / row.name
    python = venv / environment.VENV_PYTHON.relative_to(environment.VENV)
    run_uv(f"Python {row.python} is not available", "venv", "--clear", "--python", row.python, venv)
    install = ("pip", "install", "--python", python)
    run_uv("the packages cannot be installed together", *install, *row.packages, "-r", comfyui / "requirements.txt")
    if row.newest_front_end:
        run_uv("no newer front end is available", *install, "--upgrade", "comfyui-frontend-package")
    built = Environment(python, comfyui)
    environment.ensure_chromium(built)
    return built


def run_uv(failure: str, *arguments: str | Path) -> None:
    """Run uv with its downloads under .matrix/; raise `NotRunError(failure)` if it fails."""
    folders = {"UV_CACHE_DIR": MATRIX_FOLDER / "cache", "UV_PYTHON_INSTALL_DIR": MATRIX_FOLDER / "pythons"}
    variables = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    if subprocess.run([UV_PYTHON, "-m", "uv", "--quiet", *arguments], env=variables).returncode != 0:
        raise NotRunError(failure)

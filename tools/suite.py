"""Run the tests of the pack: the browser tests in one process, and the others in two more at the same time.

Playwright's event loop and asyncio.run cannot share a process. This module uses only the standard library.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tools.environment import (
    ROOT,
    Environment,
    ensure_chromium,
    ensure_ray_python,
    find_environment,
    read_development_requirements,
)

BROWSER = "tests/browser"
ALL = ("tests", BROWSER)
PROCESSES = "2"
OTHER_PACK_TESTS = [
    f"tests/host/test_{name}.py" for name in ("chunks", "inversion_setup", "model_patches", "prompt_editing")
]
"""Tests that run on the real packs of a folder instead of their stand-ins (tests/fixtures/fake_packs)."""


def prepare_tests() -> tuple[Environment, list[str]]:
    """Set up everything that the tests use; return the environment and the tests that can run in it."""
    environment = find_environment(*read_development_requirements())
    tests = [test for test in ALL if test != BROWSER or ensure_chromium(environment)]
    if python := ensure_ray_python():
        os.environ["BIVDIFF_RAY_PYTHON"] = str(python)
    return environment, tests


def run_tests(
    environment: Environment, reports: Path, tests: Sequence[str] = ALL, variables: dict[str, str] | None = None
) -> int:
    """Run tests and return the exit status.

    Args:
        reports: folder for the JUnit reports.
        tests: files and folders; the browser tests run only if their folder is listed.
        variables: environment variables that extend or replace the current ones.
    """
    reports.mkdir(parents=True, exist_ok=True)
    for report in reports.glob("*.xml"):
        report.unlink()
    # The tests' tensors are tiny: several threads would only wait for each other, for minutes on a busy machine.
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **(variables or {}), "COMFYUI_PATH": str(environment.comfyui)}
    pytest = [environment.python, "-m", "pytest", "--durations=20"]
    others = [test for test in tests if test != BROWSER]
    log, browser_tests, status = reports / "browser.log", None, 0
    if BROWSER in tests:
        command = [*pytest, BROWSER, f"--junitxml={reports / 'browser.xml'}"]
        with open(log, "wb") as output:
            browser_tests = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        if others:
            distributed = ["-n", PROCESSES, "--dist", "loadscope", "--no-loadscope-reorder"]
            command = [*pytest, *distributed, f"--ignore={BROWSER}", f"--junitxml={reports / 'nodes.xml'}", *others]
            status = subprocess.call(command, cwd=ROOT, env=variables)
    finally:
        if browser_tests is not None:
            browser_tests.wait()
    if browser_tests is not None:
        print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
        status = max(status, browser_tests.returncode)
    return status


def count_results(reports: Path) -> dict:
    """Count passed, failed and skipped tests in reports, and list the failed; no reports count as one failure."""
    cases = [case for report in reports.glob("*.xml") for case in ElementTree.parse(report).iter("testcase")]
    if not cases:
        return {"passed": 0, "failed": 1, "skipped": 0, "failures": ["pytest ended without a report"]}
    failures = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failures) - skipped,
        "failed": len(failures),
        "skipped": skipped,
        "failures": sorted({f"{case.get('classname')}::{case.get('name')}" for case in failures}),
    }

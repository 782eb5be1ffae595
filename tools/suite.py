"""Every test of the pack: the browser's in a process of its own, the others in two beside it.

Playwright's event loop and asyncio.run do not share a process, hence the first. The standard library alone.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tools.environment import ROOT, Environment

BROWSER = "tests/browser"
ALL = ("tests", BROWSER)
PROCESSES = "2"


def run_tests(
    host: Environment, reports: Path, tests: Sequence[str] = ALL, variables: dict[str, str] | None = None
) -> int:
    """Run tests and return the exit status; their JUnit reports are left in a folder.

    Args:
        tests: files and folders; the browser's are run only where their folder is among them.
        variables: of the environment, beside or instead of those that are there.
    """
    reports.mkdir(parents=True, exist_ok=True)
    for report in reports.glob("*.xml"):
        report.unlink()
    # The tests' tensors are tiny: threads would only wait for one another, for minutes where other work is running.
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **(variables or {}), "COMFYUI_PATH": str(host.comfyui)}
    pytest = [host.python, "-m", "pytest", "--durations=20"]
    others = [test for test in tests if test != BROWSER]
    log, beside, status = reports / "browser.log", None, 0
    if BROWSER in tests:
        command = [*pytest, BROWSER, f"--junitxml={reports / 'browser.xml'}"]
        with open(log, "wb") as words:
            beside = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=words, stderr=subprocess.STDOUT)
    try:
        if others:
            distributed = ["-n", PROCESSES, "--dist", "loadscope", "--no-loadscope-reorder"]
            command = [*pytest, *distributed, f"--ignore={BROWSER}", f"--junitxml={reports / 'nodes.xml'}", *others]
            status = subprocess.call(command, cwd=ROOT, env=variables)
    finally:
        if beside is not None:
            beside.wait()
    if beside is not None:
        print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
        status = max(status, beside.returncode)
    return status


def counts(reports: Path) -> dict:
    """Passed, failed and skipped tests of a run's reports, and which failed; a run without reports is one failure."""
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

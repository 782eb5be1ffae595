"""Do the tests hold on other processors, with other numbers of threads, and beside other work?

    python -m tools.rounding

Runs the tests marked `floats` with each instruction set that this processor has (ATEN_CPU_CAPABILITY) and with 1, 2 and
4 threads, then all tests once as they are and once beside two busy loops, and prints a table: what failed, and how near
the nearest comparison of a run came to its bound. As a plugin of those runs (`-p tools.rounding`) it measures that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from tools.environment import (
    OUTPUT,
    ensure_chromium,
    ensure_ray_python,
    find_environment,
    read_development_requirements,
)
from tools.suite import ALL, counts, run_tests

REPORTS = OUTPUT / "rounding"
RUNS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "4 threads": {"OMP_NUM_THREADS": "4"},
}
"""Where a processor lacks an instruction set PyTorch takes the next lower one."""
SUITES = ("all, quiet", "all, beside two busy loops")


def main(names: list[str]) -> int:
    """Make the runs of these names, or all, print the table and return the exit status."""
    host = find_environment(*read_development_requirements())
    ensure_chromium(host)
    if python := ensure_ray_python():
        os.environ["BIVDIFF_RAY_PYTHON"] = str(python)
    rows = []
    for name in names or [*RUNS, *SUITES]:
        reports = REPORTS / name.replace(" ", "-")
        options = {
            "PYTEST_ADDOPTS": "-p tools.rounding" + " -m floats" * (name in RUNS),
            "BIVDIFF_MARGINS": str(reports),
        }
        for old in reports.glob("*.json"):
            old.unlink()
        began = time.monotonic()
        with busy_loops(2 * (name == SUITES[1])):
            run_tests(host, reports, ALL[: 1 if name in RUNS else 2], {**RUNS.get(name, {}), **options})
        worst = max((json.loads(file.read_text()) for file in reports.glob("*.json")), default=[0, ""])
        rows.append({"run": name, **counts(reports), "minutes": (time.monotonic() - began) / 60, "worst": worst})
    print("| run | passed | failed | nearest to its bound | minutes |\n| --- | ---: | ---: | --- | ---: |")
    for row in rows:
        (share, test), failed = row["worst"], "; ".join(row["failures"]) or "0"
        print(f"| {row['run']} | {row['passed']} | {failed} | {share:.2f} of it: {test} | {row['minutes']:.0f} |")
    return int(any(row["failed"] for row in rows))


@contextmanager
def busy_loops(count: int):
    """Processes that compute without end beside the block."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        yield


def pytest_configure(config) -> None:
    """Keep how near the comparisons of this process come to their bounds."""
    import torch
    from fixtures import gaussian_mixture

    worst = [0.0, ""]
    worker = getattr(config, "workerinput", {}).get("workerid", "alone")

    def record(share: float) -> None:
        if share > worst[0]:
            worst[:] = share, os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
            with open(os.path.join(os.environ["BIVDIFF_MARGINS"], f"{worker}.json"), "w") as file:
                json.dump(worst, file)

    near, close = gaussian_mixture.assert_near, torch.testing.assert_close

    def assert_near(found, expected, within) -> None:
        record(gaussian_mixture.relative_error(found, expected) / within)
        near(found, expected, within)

    def assert_close(found, expected, *, rtol=None, atol=None, **options) -> None:
        if rtol is not None and found.shape == expected.shape:
            bound = (atol + rtol * expected.abs().double()).clamp(min=1e-30)
            record(((found - expected).abs() / bound).max().item())
        close(found, expected, rtol=rtol, atol=atol, **options)

    gaussian_mixture.assert_near, torch.testing.assert_close = assert_near, assert_close


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Check that the tests pass on other processors, with other numbers of threads, and on a busy machine.

    python -m tools.rounding

Runs the tests marked `floats` with each instruction set of this processor (ATEN_CPU_CAPABILITY) and with 1, 2 and 4
threads, then all tests once normally and once with two busy loops running. Prints a table of the failures, and of how
close any comparison came to its tolerance, which this module measures as a plugin of the runs (`-p tools.rounding`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from tools.environment import OUTPUT
from tools.suite import ALL, count_results, prepare_tests, run_tests

REPORTS = OUTPUT / "rounding"
RUNS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "4 threads": {"OMP_NUM_THREADS": "4"},
}
"""If the processor lacks an instruction set, PyTorch uses the next lower one."""
SUITES = ("all", "all, with two busy loops")


def main(names: list[str]) -> int:
    """Run the named runs, or all, print the table and return the exit status."""
    environment, _ = prepare_tests()
    rows = []
    for name in names or [*RUNS, *SUITES]:
        reports = REPORTS / name.replace(" ", "-")
        options = {"PYTEST_ADDOPTS": "-p tools.rounding", "BIVDIFF_MARGINS": str(reports)}
        if name in RUNS:
            options["PYTEST_ADDOPTS"] += " -m floats"
        if "OMP_NUM_THREADS" in RUNS.get(name, {}):  # the fake GPU's processes use one thread in any case
            options["PYTEST_ADDOPTS"] += " --ignore=tests/host/test_fake_gpu.py"
        for old in reports.glob("*.json"):
            old.unlink()
        started = time.monotonic()
        with busy_loops(2 * (name == SUITES[1])):
            run_tests(environment, reports, ALL[: 1 if name in RUNS else 2], {**RUNS.get(name, {}), **options})
        worst = max((json.loads(file.read_text()) for file in reports.glob("*.json")), default=[0, ""])
        rows.append(
            {"run": name, **count_results(reports), "minutes": (time.monotonic() - started) / 60, "worst": worst}
        )
    print("| run | passed | failed | closest to its tolerance | minutes |\n| --- | ---: | ---: | --- | ---: |")
    for row in rows:
        (ratio, test), failed = row["worst"], "; ".join(row["failures"]) or "0"
        print(f"| {row['run']} | {row['passed']} | {failed} | {ratio:.2f} of it: {test} | {row['minutes']:.0f} |")
    return int(any(row["failed"] for row in rows))


@contextmanager
def busy_loops(count: int):
    """Run processes with endless loops while the block runs."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        yield


def pytest_configure(config) -> None:
    """Record how close the comparisons of this process come to their tolerances."""
    import torch
    from fixtures import gaussian_mixture

    worst = [0.0, ""]
    worker = getattr(config, "workerinput", {}).get("workerid", "main")

    def record(ratio: float) -> None:
        if ratio > worst[0]:
            worst[:] = ratio, os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
            with open(os.path.join(os.environ["BIVDIFF_MARGINS"], f"{worker}.json"), "w") as file:
                json.dump(worst, file)

    original_near, original_close = gaussian_mixture.assert_near, torch.testing.assert_close

    def assert_near(found, expected, within) -> None:
        record(gaussian_mixture.relative_error(found, expected) / within)
        original_near(found, expected, within)

    def assert_close(found, expected, *, rtol=None, atol=None, **options) -> None:
        if rtol is not None and found.shape == expected.shape:
            bound = (atol + rtol * expected.abs().double()).clamp(min=1e-30)
            record(((found - expected).abs() / bound).max().item())
        original_close(found, expected, rtol=rtol, atol=atol, **options)

    gaussian_mixture.assert_near, torch.testing.assert_close = assert_near, assert_close


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

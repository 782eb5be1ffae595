"""Rows: one JSON line for each run of a measurement, in research/rows; its page is generated from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas
from scipy.stats import bootstrap
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "research" / "rows"


def read_rows(name: str) -> list[dict]:
    """The rows of a measurement; empty if it was never run."""
    path = ROWS / f"{name}.jsonl"
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def run_jobs(name: str, jobs: Iterable[dict], work: Callable[[dict], dict], init: Callable[[], None]) -> list[dict]:
    """Measure the missing rows and return all rows. Uses one process per core, each with one thread.

    Each row is saved when it is measured. At the end the rows are sorted in the order of the jobs, then other rows.

    Args:
        jobs: settings, clip and seed of each run. A row with the same values is the job's result.
        work: measures the figures of a job. init: initialises a process. Both must be functions of a module.
    """
    jobs = list(jobs)
    found = {_job_key(row, jobs[0]): row for row in read_rows(name)}
    missing = [job for job in jobs if _job_key(job, job) not in found]
    if missing:
        command = ["python", "-m", f"research.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        run = {"commit": _current_commit(), "command": " ".join(command)}
        ROWS.mkdir(exist_ok=True)
        cores = min(os.cpu_count(), len(missing))
        with (
            (ROWS / f"{name}.jsonl").open("a", encoding="utf-8") as file,
            ProcessPoolExecutor(cores, get_context("spawn"), _init_process, (init,)) as processes,
        ):
            running = {processes.submit(work, job): job for job in missing}
            try:
                for done in tqdm(as_completed(running), total=len(missing), desc=name):
                    job = running[done]
                    found[_job_key(job, job)] = row = job | done.result() | run
                    file.write(json.dumps(row) + "\n")
                    file.flush()
            finally:  # after a failed job or Ctrl-C, cancel the others
                processes.shutdown(cancel_futures=True)
    rows = [*(found.pop(_job_key(job, job)) for job in jobs), *found.values()]
    (ROWS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def _init_process(init: Callable[[], None]) -> None:
    import torch

    torch.set_num_threads(1)
    init()


def _job_key(row: dict, like: dict) -> str:
    """The identity of a row or job: its values of the job's keys."""
    return json.dumps([row[name] for name in like])


def _current_commit() -> str:
    """The current commit; ends with + if files other than rows and pages have changed."""

    def git(*arguments: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!research/rows", ":!research/pages", ":!docs").returncode != 0
    return git("rev-parse", "--short", "HEAD").stdout.strip() + "+" * changed


def format_difference(values: pandas.Series, reference: pandas.Series) -> str:
    """The mean, and the 95% interval of the mean difference from a reference on the same clips, as text."""
    low, high = confidence_interval(values - reference)
    return f"{values.mean():.3f} ({low:+.3f} to {high:+.3f})"


def confidence_interval(values: pandas.Series, statistic: Callable = np.mean) -> tuple[float, float]:
    """The 95% bootstrap interval over clips of the mean, or of another statistic."""
    values = values.dropna().to_numpy()
    resampled = bootstrap((values,), statistic, confidence_level=0.95, n_resamples=2000, method="percentile", rng=0)
    return resampled.confidence_interval.low, resampled.confidence_interval.high

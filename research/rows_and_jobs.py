"""Rows: one JSON line for each run of a study, in research/rows; the study's page is generated from them.

A study is a module with jobs (the settings, clip and seed of each run), a function that measures one job, and
`render_tables`, which makes the page's tables from the rows. `run_study` does the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from research.page_tables import write_page

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "research" / "rows"


def read_rows(name: str) -> list[dict]:
    """The rows of a study; empty if it was never run."""
    path = ROWS / f"{name}.jsonl"
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def run_study(
    name: str,
    make_jobs: Callable[..., Iterable[dict]],
    load: Callable[[], object],
    measure: Callable[[object, dict], dict],
    render_tables: Callable[[list[dict]], dict[str, str]],
    **options: int,
) -> list[dict]:
    """Run a study from the command line: measure the missing rows, fill its page, and return all rows.

    Args:
        name: name of the study's module.
        load, measure: see `run_jobs`.
        options: arguments of ``make_jobs`` with their defaults, which the command line may change.
    """
    parser = argparse.ArgumentParser()
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    rows = run_jobs(name, make_jobs(**vars(parser.parse_args())), load, measure)
    write_page(name, render_tables(rows))
    return rows


def run_jobs(
    name: str, jobs: Iterable[dict], load: Callable[[], object], measure: Callable[[object, dict], dict]
) -> list[dict]:
    """Measure the missing rows and return all rows. Uses one process per core, each with one thread.

    Each row is saved when it is measured. At the end the rows are sorted in the order of the jobs, then other rows.

    Args:
        jobs: settings, clip and seed of each run. A row with the same values is the job's result.
        load: loads the models, once per process. measure: returns the figures of a job, given the models.
            Both must be importable from a module.
    """
    jobs = list(jobs)
    found = {_job_key(row, jobs[0]): row for row in read_rows(name)}
    missing = [job for job in jobs if _job_key(job, job) not in found]
    if missing:
        run = {"commit": _current_commit(), "command": " ".join(["python", "-m", f"research.{name}", *sys.argv[1:]])}
        ROWS.mkdir(exist_ok=True)
        cores = min(os.cpu_count(), len(missing))
        with (
            (ROWS / f"{name}.jsonl").open("a", encoding="utf-8") as file,
            ProcessPoolExecutor(cores, get_context("spawn"), _init_process, (load,)) as processes,
        ):
            running = {processes.submit(_measure_in_process, measure, job): job for job in missing}
            try:
                for done in tqdm(as_completed(running), total=len(missing), desc=name):
                    job = running[done]
                    found[_job_key(job, job)] = row = job | _round_floats(done.result()) | run
                    file.write(json.dumps(row) + "\n")
                    file.flush()
            finally:  # after a failed job or Ctrl-C, cancel the others
                processes.shutdown(cancel_futures=True)
    rows = [*(found.pop(_job_key(job, job)) for job in jobs), *found.values()]
    (ROWS / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def _init_process(load: Callable[[], object]) -> None:
    global loaded
    import torch

    torch.set_num_threads(1)
    loaded = load()


def _measure_in_process(measure: Callable[[object, dict], dict], job: dict) -> dict:
    return measure(loaded, job)


def _job_key(row: dict, like: dict) -> str:
    """The identity of a row or job: its values of the job's keys."""
    return json.dumps([row[name] for name in like])


def _round_floats(figures: dict) -> dict:
    """The figures with five significant digits."""
    return json.loads(json.dumps(figures), parse_float=lambda text: float(f"{float(text):.5g}"))


def _current_commit() -> str:
    """The current commit; ends with + if files other than rows and pages have changed."""

    def git(*arguments: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    changed = git("diff", "--quiet", "HEAD", "--", ".", ":!research/rows", ":!research/pages", ":!docs").returncode != 0
    return git("rev-parse", "--short", "HEAD").stdout.strip() + "+" * changed

"""Reports: one JSON file per clip, next to its video, and all of them in manifest.jsonl."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

from .file_hashes import hash_file, write_atomically, writing_results
from .records import Batch, BatchClip

DONE, FAILED = "done", "failed"
MANIFEST = "manifest.jsonl"
MAX_MANIFEST_PASSES = 5


def report_path(out: str | Path, clip: BatchClip) -> Path:
    """Return the path of a clip's report."""
    return Path(out, f"{clip.name}.json")


def read_report(path: Path) -> dict | None:
    """Read a report; None if there is no valid one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and {"clip", "status", "hashes"} <= report.keys() else None


def find_valid_report(batch: Batch, clip: BatchClip) -> dict | None:
    """Return a clip's report if it, its video and all hashes are up to date; else None."""
    report = read_report(report_path(batch.out, clip))
    if report is None or any(report["hashes"].get(name) != expected for name, expected in batch.hashes.items()):
        return None
    if report["status"] == FAILED and batch.retry_failed and report["run"] != batch.run:
        return None
    try:
        if report["hashes"]["clip"] != hash_file(clip.path):
            return None
    except OSError:
        return None
    if report["status"] == DONE:
        video = Path(batch.out, report["video"])
        if not video.is_file() or hash_file(video) != report["hashes"]["video"]:
            return None
    return report


def write_report(batch: Batch, clip: BatchClip, report: dict) -> None:
    """Write a clip's report, the last step for a clip; remove an earlier run's video that this run did not replace."""
    before = read_report(report_path(batch.out, clip))
    with writing_results(batch.out):
        if before and before.get("video") and before["video"] != report["video"]:
            Path(batch.out, before["video"]).unlink(missing_ok=True)
        write_atomically(report_path(batch.out, clip), json.dumps(report, indent=2) + "\n")


def write_manifest(out: Path) -> None:
    """Rebuild manifest.jsonl from the reports.

    Several drivers may do this at the same time. A driver that finds changed reports after writing writes again, so
    the last manifest is complete. The number of passes is limited: drivers that still run will write it later.
    """
    before = None
    for _ in range(MAX_MANIFEST_PASSES):
        if (current := _list_reports(out)) == before:
            break
        reports = filter(None, map(read_report, map(Path, current)))
        with writing_results(out):
            write_atomically(out / MANIFEST, "".join(json.dumps(report) + "\n" for report in reports))
        before = current


def _list_reports(out: Path) -> dict[str, int]:
    """Return the modification times, in ns, of the reports by path."""
    paths = sorted(path for path in out.rglob("*.json") if not path.name.startswith("."))
    return {str(path): os.stat(path).st_mtime_ns for path in paths}


class AttemptLog:
    """Counts the attempts at a clip, also in a file, which outlives a worker: each line is the run id of an attempt."""

    def __init__(self, batch: Batch, clip: BatchClip) -> None:
        path = report_path(batch.out, clip)
        self._path = path.with_name(f".{path.stem}.attempts")
        self._batch = batch
        self.count = self._path.read_text().splitlines().count(batch.run) if self._path.exists() else 0
        """Attempts in this run so far."""

    def record(self) -> None:
        """Add an attempt."""
        self.count += 1
        with writing_results(self._batch.out):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(f"{self._batch.run}\n")

    def remove(self) -> None:
        """Remove the file, and temporary files of this clip left by killed processes."""
        for path in self._path.parent.glob(glob.escape(self._path.with_suffix("").name) + ".*"):
            if path.suffix in (".attempts", ".part"):
                path.unlink(missing_ok=True)

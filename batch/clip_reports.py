"""Reports: one JSON file for each clip, beside its video, and all of them in manifest.jsonl."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

from batch.file_hashes import hash_file, write_atomically
from batch.records import Batch, BatchClip

DONE, FAILED = "done", "failed"
MANIFEST = "manifest.jsonl"
MAX_MANIFEST_PASSES = 5


def report_path(out: str | Path, clip: BatchClip) -> Path:
    """Where the report of a clip is."""
    return Path(out, f"{clip.name}.json")


def read_report(path: Path) -> dict | None:
    """A report, or None where there is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and {"clip", "status", "hashes"} <= report.keys() else None


def find_valid_report(batch: Batch, clip: BatchClip) -> dict | None:
    """The report of a clip that needs no work: it is there, and so is the video, and every hash matches."""
    report = read_report(report_path(batch.out, clip))
    if report is None or any(report["hashes"].get(name) != found for name, found in batch.hashes.items()):
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
    """Put a report in place, the last act of a clip's work. What an earlier time left and this one did not goes."""
    before = read_report(report_path(batch.out, clip))
    if before and before.get("video") and before["video"] != report["video"]:
        Path(batch.out, before["video"]).unlink(missing_ok=True)
    write_atomically(report_path(batch.out, clip), json.dumps(report, indent=2) + "\n")


def write_manifest(out: Path) -> None:
    """Rebuild manifest.jsonl from the reports.

    Several drivers may do so at once: who finds other reports after writing than before writes again, so that the last
    one's is whole. Not without end, since drivers that are still at work will write it themselves.
    """
    before = None
    for _ in range(MAX_MANIFEST_PASSES):
        if (now := _list_reports(out)) == before:
            break
        reports = filter(None, map(read_report, map(Path, now)))
        write_atomically(out / MANIFEST, "".join(json.dumps(report) + "\n" for report in reports))
        before = now


def _list_reports(out: Path) -> dict[str, int]:
    paths = sorted(path for path in out.rglob("*.json") if not path.name.startswith("."))
    return {str(path): os.stat(path).st_mtime_ns for path in paths}


class AttemptLog:
    """How often a clip was begun, in a file that outlives a worker: a line for each attempt, the name of its run."""

    def __init__(self, batch: Batch, clip: BatchClip) -> None:
        path = report_path(batch.out, clip)
        self._path = path.with_name(f".{path.stem}.attempts")
        self._run = batch.run

    def count(self) -> int:
        """The attempts of this run so far."""
        return self._path.read_text().splitlines().count(self._run) if self._path.exists() else 0

    def begin(self) -> None:
        """Count one more."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(f"{self._run}\n")

    def forget(self) -> None:
        """Once there is a report, remove the file and what processes that were killed have left of this clip."""
        for path in self._path.parent.glob(glob.escape(self._path.with_suffix("").name) + ".*"):
            if path.suffix in (".attempts", ".part"):
                path.unlink(missing_ok=True)

"""Progress of a batch: a bar on a terminal, else one line per clip."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time

from batch.clip_reports import FAILED

BAR_WIDTH = 20


class ProgressBar:
    """Shows finished clips and each worker's stage; can be called from any thread."""

    def __init__(self, total: int, finished: int) -> None:
        self.total = total
        self.finished = finished
        self.failed = 0
        self._finished_before = finished
        self._started = time.monotonic()
        self._stages: dict[str, str] = {}
        self._drawn = False
        self._lock = threading.Lock()
        self._on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def show_stage(self, worker: str, stage: str) -> None:
        """Show a worker's current stage."""
        with self._lock:
            self._stages[worker] = stage
            self._draw()

    def show_report(self, report: dict) -> None:
        """Show that a clip is finished."""
        with self._lock:
            self.finished += 1
            failed = report["status"] == FAILED
            self.failed += failed
            outcome = f"failed: {report['error']}" if failed else f"done in {report['seconds']:.1f} s"
            if not self._on_terminal:
                print(f"[{self.finished}/{self.total}] {report['clip']} {outcome}", flush=True)
                return
            if failed:
                print(f"\r{report['clip']} {outcome}".ljust(self._width()), flush=True)
            self._draw()

    def end(self) -> None:
        """End the bar's line on a terminal."""
        if self._drawn:
            print(flush=True)

    def line(self) -> str:
        """Return the bar, the time left and the workers' stages."""
        done = BAR_WIDTH * self.finished // self.total
        parts = [f"[{'#' * done}{'-' * (BAR_WIDTH - done)}] {self.finished}/{self.total}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.finished > self._finished_before:
            seconds_per_clip = (time.monotonic() - self._started) / (self.finished - self._finished_before)
            parts.append(f"{format_duration(seconds_per_clip * (self.total - self.finished))} left")
        return " | ".join([", ".join(parts), *(stage for _, stage in sorted(self._stages.items()))])

    def _draw(self) -> None:
        if self._on_terminal:
            self._drawn = True
            width = self._width()
            print(f"\r{self.line()[:width]:{width}}", end="", flush=True)

    def _width(self) -> int:
        return shutil.get_terminal_size().columns - 1


def format_duration(seconds: float) -> str:
    """Format a duration: ``"40 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

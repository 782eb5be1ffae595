"""Progress of a batch: a bar on a terminal, else one line per clip."""

from __future__ import annotations

import sys

from .clip_reports import FAILED


class Progress:
    """Shows finished clips and each worker's stage; can be called from any thread."""

    def __init__(self, total: int, finished: int) -> None:
        self.total = total
        self.finished = finished
        self._stages: dict[str, str] = {}
        self._bar = None
        if sys.stdout.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=finished, unit="clip", file=sys.stdout, dynamic_ncols=True)

    def show_stage(self, worker: str, stage: str) -> None:
        """Show a worker's current stage."""
        if self._bar is not None:
            self._stages[worker] = stage
            self._bar.set_postfix_str(" | ".join(stage for _, stage in sorted(self._stages.items())))

    def show_report(self, report: dict) -> None:
        """Show that a clip is finished."""
        self.finished += 1
        failed = report["status"] == FAILED
        outcome = f"failed: {report['error']}" if failed else f"done in {report['seconds']:.1f} s"
        warning = report.get("warning")
        if warning:
            outcome += f"; warning: {warning}"
        if self._bar is None:
            print(f"[{self.finished}/{self.total}] {report['clip']} {outcome}", flush=True)
            return
        if failed or warning:
            self._bar.write(f"{report['clip']} {outcome}")
        self._bar.update()

    def end(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()

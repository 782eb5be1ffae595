"""A worker: a process with its own ComfyUI, folder and, if there is one, GPU."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .records import Batch, BatchClip, BatchError

PROGRAM = Path(__file__).absolute().parent


def folder_prefix() -> str:
    """Return the prefix of the names of workers' folders; the id of the process that made the folder follows."""
    return f"bivdiff-batch-{socket.gethostname()}-"


class Worker:
    """Processes clips one after the other in a subprocess, which is restarted if it dies."""

    def __init__(self, batch: Batch, variables: dict[str, str] | None = None) -> None:
        """``variables`` are environment variables that extend or replace the current ones; they select the GPU."""
        self.batch = batch
        self._environment = {**os.environ, **(variables or {})}
        self._process: subprocess.Popen | None = None
        self._folders: list[str] = []
        self._stopped = False

    def process_clip(self, clip: BatchClip, on_stage: Callable[[str], None] = lambda stage: None) -> dict:
        """Return the report of a clip. A process that dies is restarted; it counts the clip's attempts."""
        for _ in range(self.batch.attempts + 1):
            if report := self._request(clip, on_stage):
                return report
        raise BatchError(f"Workers keep dying before they start {clip.name}: see their output.")

    def _request(self, clip: BatchClip, on_stage: Callable[[str], None]) -> dict | None:
        """Send a clip to the process and return its report, or None if the process has died."""
        if self._stopped:
            raise BatchError("The worker was stopped.")
        if self._process is None:
            self._start()
        try:
            self._send(asdict(clip))
            for line in self._process.stdout:
                ((kind, content),) = json.loads(line).items()
                if kind == "report":
                    return content
                if kind == "fault":
                    raise BatchError(content)
                on_stage(f"{clip.name}: {content}")
        except BrokenPipeError:
            pass
        self._process.wait()
        self._process = None
        return None

    def _start(self) -> None:
        try:
            self._folders.append(tempfile.mkdtemp(prefix=f"{folder_prefix()}{os.getpid()}-"))
        except OSError as error:
            raise BatchError(f"A worker's folder cannot be made: {error}. TMPDIR sets where it is made.") from None
        # In its own session, so that Ctrl-C reaches only the driver, which then stops its workers.
        self._process = subprocess.Popen(
            [self.batch.python, PROGRAM, "--worker", self._folders[-1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self._environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._send(asdict(self.batch))

    def _send(self, record: dict) -> None:
        self._process.stdin.write(json.dumps(record) + "\n")
        self._process.stdin.flush()

    def stop(self, timeout: float = 20) -> None:
        """Stop the process and its ComfyUI, even during a clip, and remove the folders of all its processes."""
        self._stopped = True
        if process := self._process:
            process.stdin.close()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

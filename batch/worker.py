"""A worker: the process of a unit, with a ComfyUI, a folder and perhaps a GPU of its own."""

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

from batch.records import Batch, BatchClip, BatchError

ROOT = Path(__file__).resolve().parents[1]
FOLDER_PREFIX = f"bivdiff-batch-{socket.gethostname()}-"
"""How the names of workers' folders begin; the process that made one comes next."""
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"  # ROCm heeds it too


class Worker:
    """Settles clips one after the other; a process that dies is replaced."""

    def __init__(self, batch: Batch, gpu: str | None = None) -> None:
        self.batch = batch
        self._environment = os.environ if gpu is None else {**os.environ, GPU_VARIABLE: gpu}
        self._process: subprocess.Popen | None = None
        self._folders: list[str] = []
        self._stopped = False

    def settle(self, clip: BatchClip, tell_stage: Callable[[str], None] = lambda stage: None) -> dict:
        """The report of a clip, from as many processes as it takes: the unit gives up after the clip's attempts."""
        for _ in range(self.batch.attempts + 1):
            if report := self._ask(clip, tell_stage):
                return report
        raise BatchError(f"Workers keep dying before they begin on {clip.name}: see what they print.")

    def _ask(self, clip: BatchClip, tell_stage: Callable[[str], None]) -> dict | None:
        """The report of a clip, or None when the process has died."""
        if self._stopped:
            raise BatchError("The worker was stopped.")
        if self._process is None:
            self._start()
        try:
            self._tell(asdict(clip))
            for line in self._process.stdout:
                ((kind, content),) = json.loads(line).items()
                if kind == "report":
                    return content
                if kind == "fault":
                    raise BatchError(content)
                tell_stage(f"{clip.name}: {content}")
        except BrokenPipeError:
            pass
        self._process.wait()
        self._process = None
        return None

    def _start(self) -> None:
        self._folders.append(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        # A session of its own: a Ctrl-C is for the driver, which then stops its workers.
        self._process = subprocess.Popen(
            [self.batch.python, "-m", "batch.worker_process", self._folders[-1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=self._environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._tell(asdict(self.batch))

    def _tell(self, record: dict) -> None:
        self._process.stdin.write(json.dumps(record) + "\n")
        self._process.stdin.flush()

    def stop(self, patience: float = 20) -> None:
        """End the process and its ComfyUI, whatever they are doing, and remove their folder and those of before."""
        self._stopped = True
        if process := self._process:
            process.stdin.close()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

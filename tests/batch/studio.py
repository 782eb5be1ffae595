"""A batch against a stand-in for ComfyUI, whose faults come when a test wants them and cost seconds."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

import dev
from tools.batch.drive import drive, read_order
from tools.batch.records import BatchError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300
WORKFLOW = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "any.mp4"}},
    "2": {
        "class_type": "Work",
        "inputs": {"video": ["1", 0], "seed": 5, "steps": 3, "model": "tiny.safetensors", "image": "style.png"},
        "_meta": {"title": "The work"},
    },
    "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": "video"}},
}


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so. What will never be so fails the test instead of stopping all of them."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"this was not so within {PATIENCE} s")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Studio:
    """A folder with a workflow, clips and results, and a ComfyUI, mostly a stand-in for it."""

    root: Path
    comfyui: Path
    python: str = sys.executable
    gpus: tuple[str, ...] = ()

    @property
    def workflow(self) -> Path:
        return self.root / "workflow.json"

    @property
    def clips(self) -> Path:
        return self.root / "clips"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def add(self, **clips: str) -> None:
        """Write clips by name and text."""
        self.clips.mkdir(exist_ok=True)
        for name, text in clips.items():
            (self.clips / f"{name}.mp4").write_text(text)

    def start(self, *options: str, stdout: int = subprocess.PIPE) -> subprocess.Popen:
        """dev.py batch, begun, and open to Ctrl-C: where tests run in the background they are deaf to it."""
        command = [self.python, ROOT / "dev.py", "batch", self.workflow, self.clips, self.out, *options]
        own = {"COMFYUI_PATH": str(self.comfyui), "COMFYUI_PYTHON": sys.executable}
        return subprocess.Popen(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def batch(self, *options: str, status: int = 0) -> str:
        """What `dev.py batch` does once it has found its ComfyUI, in this process: what it says. Nothing is left."""
        parser = argparse.ArgumentParser()
        dev.add_batch_arguments(parser)
        arguments = parser.parse_args([str(self.workflow), str(self.clips), str(self.out), *options])
        said = io.StringIO()
        with redirect_stdout(said):
            try:
                order = read_order(**vars(arguments))
                assert drive(order, Path(sys.executable), self.comfyui, self.gpus) == status, said.getvalue()
            except BatchError as error:
                assert status == 1, error
                said.write(f"{error}\n")
        self.check_nothing_is_left()
        return said.getvalue()

    def check_nothing_is_left(self) -> None:
        """No process, nothing half-written, no folder of a worker."""
        self.check_nothing_runs()
        assert not list(self.out.rglob(".*"))
        wait_for(lambda: not list((self.root / "tmp").glob("bivdiff-batch-*")))

    def check_nothing_runs(self) -> None:
        """No ComfyUI is there, or will not be soon."""
        wait_for(lambda: not any(map(is_alive, self.pids())))

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    def noted(self, kind: str) -> list[list[str]]:
        """The stand-in's notes of a kind: ``start`` pid port folder GPU, or ``clip`` pid text."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [words[1:] for words in (line.split(" ", 4) for line in lines) if words[0] == kind]

    def worked_on(self) -> list[str]:
        """The texts of the clips that ran, an entry for each attempt."""
        return [" ".join(words) for _, *words in self.noted("clip")]

    def pids(self) -> list[int]:
        return [int(words[0]) for words in self.noted("start")]

    def reports(self) -> dict[str, dict]:
        """The manifest, by clip."""
        rows = [json.loads(line) for line in (self.out / "manifest.jsonl").read_text().splitlines()]
        assert len({row["clip"] for row in rows}) == len(rows), "a clip has one row"
        return {row["clip"].removesuffix(".mp4"): row for row in rows}

    def statuses(self) -> dict[str, str]:
        return {clip: report["status"] for clip, report in self.reports().items()}

    def videos(self) -> dict[str, str]:
        return {path.stem: path.read_text() for path in self.out.rglob("*.mp4")}

"""A batch folder for each test: a workflow, three valid clips, and a fake ComfyUI; and a Ray cluster."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass

import psutil
import pytest
from fixtures.batch_folder import ROOT, WORKFLOW, BatchFolder, is_alive


@pytest.fixture
def batch_folder(tmp_path, monkeypatch) -> BatchFolder:
    """A folder with three valid clips and the fake ComfyUI."""
    batch_folder = BatchFolder(tmp_path, tmp_path / "ComfyUI")
    shutil.copytree(ROOT / "tests" / "fixtures" / "fake_comfyui", batch_folder.comfyui)
    for path, text in {"models/checkpoints/tiny.safetensors": "weights", "input/style.png": "picture"}.items():
        (batch_folder.comfyui / path).parent.mkdir(parents=True, exist_ok=True)
        (batch_folder.comfyui / path).write_text(text)
    batch_folder.workflow.write_text(json.dumps(WORKFLOW))
    batch_folder.write_clips(a="one", b="two", c="three")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("FAKE_COMFYUI_JOURNAL", str(batch_folder.journal))
    # Processes started in the background ignore Ctrl-C, and their children inherit that.
    on_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield batch_folder
    signal.signal(signal.SIGINT, on_interrupt)
    for pid in filter(is_alive, batch_folder.comfyui_pids()):
        psutil.Process(pid).kill()


@dataclass
class Cluster:
    process: subprocess.Popen
    address: str

    def lose_a_node(self) -> None:
        self.process.stdin.write("lose\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "lost\n"


@pytest.fixture
def cluster(batch_folder):
    """A cluster of two nodes with one CPU each; their processes inherit the test's environment variables.

    Batches run in its Python, which `python dev.py test` has built.
    """
    python = os.environ.get("BIVDIFF_RAY_PYTHON")
    if not python:
        pytest.skip("no environment with Ray: run python dev.py test to build it")
    batch_folder.python = python
    command = [python, ROOT / "tests" / "fixtures" / "ray_cluster.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # A short path, since it contains Ray's sockets, whose paths have at most 107 characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as ray_folder:
        environment = {**os.environ, "RAY_TMPDIR": ray_folder}
        with subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
            yield Cluster(process, process.stdout.readline().strip())
            process.stdin.close()

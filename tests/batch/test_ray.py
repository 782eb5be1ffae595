"""`dev.py batch` on Ray Data, with a cluster of two nodes that are processes on this machine."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial

import psutil
import pytest
from fixtures.batch_folder import ROOT, is_alive, wait_for

PYTHON = os.environ.get("BIVDIFF_RAY_PYTHON", "")
"""The Python that `python dev.py test` has built for these tests."""

pytestmark = pytest.mark.skipif(not PYTHON, reason="no environment with Ray: run python dev.py test to build it")


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
    """A cluster of two nodes with one CPU each; their processes inherit the test's environment variables."""
    batch_folder.python = PYTHON
    command = [PYTHON, ROOT / "tests" / "fixtures" / "ray_cluster.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # A short path, since it contains Ray's sockets, whose paths have at most 107 characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as ray_folder:
        environment = {**os.environ, "RAY_TMPDIR": ray_folder}
        with subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
            yield Cluster(process, process.stdout.readline().strip())
            process.stdin.close()


@pytest.fixture
def start(batch_folder, cluster):
    """Starts `dev.py batch` on the cluster with two workers."""
    return partial(batch_folder.start, "--ray", cluster.address, "--workers", "2")


def test_ray_gives_the_results_of_the_local_engine(batch_folder, start):
    batch_folder.write_clips(d="crash", e="broken", f="hang once")

    def run_failing(*options: str) -> str:
        process = start(*options)
        output, errors = process.communicate()
        assert process.returncode == 1, output + errors
        batch_folder.wait_for_comfyui_exit()
        return output + errors

    assert "matches no input. Available: The work.video" in run_failing("--set", "The work.stepz=3")
    assert not batch_folder.attempts(), "an error of all clips ends the batch"
    run_failing("--timeout", "1")
    on_ray = batch_folder.videos()
    statuses = {"a": "done", "b": "done", "c": "done", "d": "failed", "e": "failed", "f": "done"}
    assert batch_folder.statuses() == statuses
    reports = batch_folder.reports()
    assert [reports[clip]["attempts"] for clip in "abcdef"] == [1, 1, 1, 2, 1, 2]
    assert len(batch_folder.attempts()) == 8
    run_failing()
    assert len(batch_folder.attempts()) == 8
    for path in batch_folder.out.iterdir():
        path.unlink()
    batch_folder.run("--timeout", "1", status=1)
    assert batch_folder.videos() == on_ray


def test_killed_processes_lose_and_repeat_no_clip(batch_folder, start):
    """The driver is killed in the first run, an actor in the second."""
    batch_folder.write_clips(b="hang once")
    process = start("--attempts", "3")
    wait_for(lambda: batch_folder.attempts().count("hang once") == 1)
    process.kill()
    process.wait()
    batch_folder.wait_for_comfyui_exit()

    (batch_folder.root / "hang-once.seen").unlink()
    process = start()
    wait_for(lambda: batch_folder.attempts().count("hang once") == 2)
    (*_, comfyui_pid) = (int(pid) for pid, *text in batch_folder.journal_entries("clip") if text == ["hang", "once"])
    psutil.Process(comfyui_pid).parent().parent().kill()
    assert process.wait() == 0
    batch_folder.check_nothing_is_left()
    assert batch_folder.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert sorted(report["attempts"] for report in batch_folder.reports().values()) == [1, 1, 2]


def test_a_lost_node_loses_and_repeats_no_clip(batch_folder, cluster, start):
    batch_folder.write_clips(a="wait", b="wait")
    batch_folder.write_slow_clips(4)
    process = start()
    wait_for(lambda: batch_folder.attempts() == ["wait", "wait"])
    cluster.lose_a_node()
    wait_for(lambda: sum(map(is_alive, batch_folder.comfyui_pids())) == 1)
    (batch_folder.root / "go").touch()
    assert process.wait() == 0
    batch_folder.wait_for_comfyui_exit()
    assert set(batch_folder.statuses().values()) == {"done"} and len(batch_folder.statuses()) == 7
    assert len(batch_folder.attempts()) == 8, "one clip was running on the node"

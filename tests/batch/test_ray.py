"""`dev.py batch` on Ray Data, with a cluster of two nodes that are processes on this machine."""

import os
import subprocess
import tempfile
from dataclasses import dataclass

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
def batch(batch_folder, cluster):
    """Runs `dev.py batch` on the cluster, and returns its output."""

    def run(*options: str, status: int = 0) -> str:
        process = batch_folder.start("--ray", cluster.address, "--workers", "2", *options)
        output, errors = process.communicate()
        assert process.returncode == status, output + errors
        batch_folder.check_nothing_runs()
        return output + errors

    return run


def test_ray_gives_the_results_of_the_local_engine(batch_folder, batch):
    batch_folder.add(d="crash", e="broken", f="hang once")
    assert "matches no input. Available: The work.video" in batch("--set", "The work.stepz=3", status=1)
    assert not batch_folder.worked_on(), "an error of all clips ends the batch"
    batch("--timeout", "1", status=1)
    on_ray = batch_folder.videos()
    statuses = {"a": "done", "b": "done", "c": "done", "d": "failed", "e": "failed", "f": "done"}
    assert batch_folder.statuses() == statuses
    reports = batch_folder.reports()
    assert [reports[clip]["attempts"] for clip in "abcdef"] == [1, 1, 1, 2, 1, 2]
    assert len(batch_folder.worked_on()) == 8
    batch(status=1)
    assert len(batch_folder.worked_on()) == 8
    for path in batch_folder.out.iterdir():
        path.unlink()
    batch_folder.batch("--timeout", "1", status=1)
    assert batch_folder.videos() == on_ray


def test_killed_processes_lose_and_repeat_no_clip(batch_folder, cluster):
    """The driver is killed in the first run, an actor in the second."""
    batch_folder.add(b="hang once")
    process = batch_folder.start("--ray", cluster.address, "--workers", "2", "--attempts", "3")
    wait_for(lambda: batch_folder.worked_on().count("hang once") == 1)
    process.kill()
    process.wait()
    batch_folder.check_nothing_runs()

    (batch_folder.root / "hang-once.seen").unlink()
    process = batch_folder.start("--ray", cluster.address, "--workers", "2")
    wait_for(lambda: batch_folder.worked_on().count("hang once") == 2)
    comfyui_pid = next(int(pid) for pid, *text in batch_folder.noted("clip")[::-1] if text == ["hang", "once"])
    psutil.Process(comfyui_pid).parent().parent().kill()
    assert process.wait() == 0
    batch_folder.check_nothing_is_left()
    assert batch_folder.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert sorted(report["attempts"] for report in batch_folder.reports().values()) == [1, 1, 2]


def test_a_lost_node_loses_and_repeats_no_clip(batch_folder, cluster):
    batch_folder.add(a="wait", b="wait", **{f"clip{i}": f"slow {i}" for i in range(4)})
    process = batch_folder.start("--ray", cluster.address, "--workers", "2")
    wait_for(lambda: batch_folder.worked_on() == ["wait", "wait"])
    cluster.lose_a_node()
    wait_for(lambda: sum(map(is_alive, batch_folder.pids())) == 1)
    (batch_folder.root / "go").touch()
    assert process.wait() == 0
    batch_folder.check_nothing_runs()
    assert set(batch_folder.statuses().values()) == {"done"} and len(batch_folder.statuses()) == 7
    assert len(batch_folder.worked_on()) == 8, "one clip was running on the node"

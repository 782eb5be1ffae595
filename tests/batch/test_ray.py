"""The same promises on Ray Data, on a cluster of two nodes that are processes of this machine."""

import os
import subprocess
import tempfile
from dataclasses import dataclass

import psutil
import pytest
from fixtures.batch_folder import ROOT, is_alive, wait_for

PYTHON = os.environ.get("BIVDIFF_RAY_PYTHON", "")
"""What `python dev.py test` has built for these tests."""

pytestmark = pytest.mark.skipif(not PYTHON, reason="no environment with Ray: python dev.py test makes it if it can")


@dataclass
class Cluster:
    process: subprocess.Popen
    address: str

    def lose_a_node(self) -> None:
        self.process.stdin.write("lose\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "lost\n"


@pytest.fixture
def cluster(studio):
    """Two nodes with a CPU each; what they start sees the studio's variables."""
    studio.python = PYTHON
    command = [PYTHON, ROOT / "tests" / "fixtures" / "ray_cluster.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # A short path: Ray's sockets lie in it, and theirs may have 107 characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder}
        with subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
            yield Cluster(process, process.stdout.readline().strip())
            process.stdin.close()


@pytest.fixture
def batch(studio, cluster):
    """Runs dev.py batch on the cluster to its end."""

    def run(*options: str, status: int = 0) -> str:
        process = studio.start("--ray", cluster.address, "--workers", "2", *options)
        said, errors = process.communicate()
        assert process.returncode == status, said + errors
        studio.check_nothing_runs()
        return said + errors

    return run


def test_it_does_what_the_loop_does(studio, batch):
    studio.add(d="crash", e="broken", f="hang once")
    assert "fits no node. There are: The work.video" in batch("--set", "The work.stepz=3", status=1)
    assert not studio.worked_on(), "what is wrong with all clips ends the batch"
    batch("--timeout", "1", status=1)
    on_ray = studio.videos()
    statuses = {"a": "done", "b": "done", "c": "done", "d": "failed", "e": "failed", "f": "done"}
    assert studio.statuses() == statuses
    reports = studio.reports()
    assert [reports[clip]["attempts"] for clip in "abcdef"] == [1, 1, 1, 2, 1, 2]
    assert len(studio.worked_on()) == 8
    batch(status=1)
    assert len(studio.worked_on()) == 8
    for path in studio.out.iterdir():
        path.unlink()
    studio.batch("--timeout", "1", status=1)
    assert studio.videos() == on_ray


def test_killed_processes_lose_and_double_nothing(studio, cluster):
    """The driver first, then, in the second run, an actor."""
    studio.add(b="hang once")
    process = studio.start("--ray", cluster.address, "--workers", "2", "--attempts", "3")
    wait_for(lambda: studio.worked_on().count("hang once") == 1)
    process.kill()
    process.wait()
    studio.check_nothing_runs()

    (studio.root / "hang-once.met").unlink()
    process = studio.start("--ray", cluster.address, "--workers", "2")
    wait_for(lambda: studio.worked_on().count("hang once") == 2)
    host = next(int(pid) for pid, *text in studio.noted("clip")[::-1] if text == ["hang", "once"])
    psutil.Process(host).parent().parent().kill()
    assert process.wait() == 0
    studio.check_nothing_is_left()
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert sorted(report["attempts"] for report in studio.reports().values()) == [1, 1, 2]


def test_a_lost_node_loses_and_doubles_nothing(studio, cluster):
    studio.add(a="wait", b="wait", **{f"clip{i}": f"slow {i}" for i in range(4)})
    process = studio.start("--ray", cluster.address, "--workers", "2")
    wait_for(lambda: studio.worked_on() == ["wait", "wait"])
    cluster.lose_a_node()
    wait_for(lambda: sum(map(is_alive, studio.pids())) == 1)
    (studio.root / "go").touch()
    assert process.wait() == 0
    studio.check_nothing_runs()
    assert set(studio.statuses().values()) == {"done"} and len(studio.statuses()) == 7
    assert len(studio.worked_on()) == 8, "one clip was under way on the node"

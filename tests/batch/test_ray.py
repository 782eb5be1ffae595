"""A batch on Ray Data, with a cluster of two nodes that are processes on this machine."""

import subprocess
from functools import partial

import psutil
import pytest
from fixtures.batch_folder import ROOT, wait_for


@pytest.fixture
def start(batch_folder, cluster):
    """Starts a batch on the cluster with two workers."""
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


def test_a_cluster_of_another_version_is_an_error(batch_folder, cluster):
    script = f"""
import ray, runpy, sys
ray.__version__ = "1.0.0"
sys.argv[0] = "batch"
runpy.run_path({str(ROOT / "batch")!r}, run_name="__main__")
"""
    command = [batch_folder.python, "-c", script, *batch_folder.arguments("--ray", cluster.address)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1, run.stderr
    assert f"Ray cannot use the cluster at {cluster.address}: Version mismatch: " in run.stderr
    assert run.stderr.endswith("(The batch needs the cluster's versions of Ray and Python.)\n")

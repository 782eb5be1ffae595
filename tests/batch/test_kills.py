"""What a batch survives: killed processes, a lost node, full disks, a changing clip, a second batch on the same OUT.

Each test does one of these to real processes in the middle of a clip. It ends with a run that must find no clip lost
and leave nothing unfinished. docs/batch.md counts these tests.
"""

import hashlib
import subprocess

import psutil
import pytest
from fixtures.batch_folder import BatchFolder, is_alive, wait_for

SMALL_BYTES, LARGE_BYTES = 5, 100_000

needs_file_limits = pytest.mark.skipif(
    not hasattr(psutil.Process, "rlimit"), reason="only Linux limits the files of a process that runs"
)


def start_until(batch_folder: BatchFolder, clip: str, *options: str) -> subprocess.Popen:
    """Start a batch with one worker and wait until ComfyUI works on the clip with this text."""
    process = batch_folder.start(*options)
    wait_for(lambda: clip in batch_folder.attempts())
    return process


def end(process: subprocess.Popen, status: int = 0) -> str:
    """Wait until a batch ends, assert its exit status and return its error."""
    output, errors = process.communicate()
    assert process.returncode == status, output + errors
    return errors


def release_waiting_clips(batch_folder: BatchFolder) -> None:
    (batch_folder.root / "go").touch()


def complete(batch_folder: BatchFolder, expected_attempts: dict[str, int]) -> None:
    """Run the batch again, and check that it has processed each clip as often as expected and left nothing behind."""
    batch_folder.run()
    texts = {path.stem: path.read_text() for path in batch_folder.clips.glob("*.mp4")}
    assert batch_folder.statuses() == dict.fromkeys(texts, "done")
    assert {clip: video.rsplit(" ", 3)[0] for clip, video in batch_folder.videos().items()} == texts
    attempts = batch_folder.attempts()
    assert {text: attempts.count(text) for text in sorted(set(attempts))} == expected_attempts
    assert "0 to do" in batch_folder.run("--dry-run")


def test_kill_the_driver(batch_folder):
    batch_folder.write_clips(b="hang once")
    process = start_until(batch_folder, "hang once")
    process.kill()
    end(process, -9)
    batch_folder.wait_for_comfyui_exit()
    wait_for(lambda: not batch_folder.worker_folders())
    assert {path.name for path in batch_folder.out.glob("*.json")} == {"a.mp4.json"}
    complete(batch_folder, {"one": 1, "hang once": 2, "three": 1})
    assert batch_folder.reports()["b"]["attempts"] == 1, "attempts are counted per run"


def test_kill_a_worker(batch_folder):
    batch_folder.write_clips(b="hang once")
    process = start_until(batch_folder, "hang once")
    batch_folder.worker_process().kill()
    end(process)
    batch_folder.check_nothing_is_left()
    complete(batch_folder, {"one": 1, "hang once": 2, "three": 1})
    assert batch_folder.reports()["b"]["attempts"] == 2


def test_kill_comfyui(batch_folder):
    batch_folder.write_clips(b="hang once")
    process = start_until(batch_folder, "hang once")
    psutil.Process(batch_folder.comfyui_pids()[-1]).kill()
    end(process)
    batch_folder.check_nothing_is_left()
    complete(batch_folder, {"one": 1, "hang once": 2, "three": 1})
    assert batch_folder.reports()["b"]["attempts"] == 2


def test_kill_a_ray_node(batch_folder, cluster):
    batch_folder.write_clips(a="wait", b="wait")
    batch_folder.write_slow_clips(4)
    process = batch_folder.start("--ray", cluster.address, "--workers", "2")
    wait_for(lambda: batch_folder.attempts() == ["wait", "wait"])
    cluster.lose_a_node()
    wait_for(lambda: sum(map(is_alive, batch_folder.comfyui_pids())) == 1)
    release_waiting_clips(batch_folder)
    end(process)
    batch_folder.wait_for_comfyui_exit()
    # The lost node's clip runs a second time; "wait" is the text of both.
    complete(batch_folder, {"wait": 3, "three": 1, **{f"slow {i}": 1 for i in range(4)}})


@needs_file_limits
def test_fill_the_disk_of_out(batch_folder):
    """The results cannot be written, so every further clip would be in vain: the batch stops."""
    batch_folder.write_clips(b="wait")
    process = start_until(batch_folder, "wait")
    batch_folder.worker_process().rlimit(psutil.RLIMIT_FSIZE, (SMALL_BYTES, SMALL_BYTES))
    release_waiting_clips(batch_folder)
    errors = end(process, 1)
    assert errors == (
        f"{batch_folder.out} cannot be written to (File too large): free space or allow writing, then run the same "
        "command again to resume.\n"
    )
    batch_folder.check_nothing_is_left()
    complete(batch_folder, {"one": 1, "wait": 2, "three": 1})


@needs_file_limits
def test_fill_the_disk_of_a_worker(batch_folder):
    """The worker cannot copy the large clip. Other clips are not affected, and the next run tries it again."""
    large = "l" * 2 * LARGE_BYTES
    batch_folder.write_clips(a="wait", b=large)
    process = start_until(batch_folder, "wait")
    batch_folder.worker_process().rlimit(psutil.RLIMIT_FSIZE, (LARGE_BYTES, LARGE_BYTES))
    release_waiting_clips(batch_folder)
    end(process, 1)
    batch_folder.check_nothing_is_left()
    assert batch_folder.statuses() == {"a": "done", "b": "failed", "c": "done"}
    assert batch_folder.reports()["b"]["error"].startswith("File too large; the clip is")
    complete(batch_folder, {"wait": 1, large: 1, "three": 1})


def test_change_a_clip_while_it_runs(batch_folder):
    """The result is that of the content that was read, and the next run processes the new content."""
    batch_folder.write_clips(b="wait")
    process = start_until(batch_folder, "wait")
    batch_folder.write_clips(b="changed")
    release_waiting_clips(batch_folder)
    end(process)
    assert batch_folder.videos()["b"].startswith("wait ")
    assert batch_folder.reports()["b"]["hashes"]["clip"] == hashlib.sha256(b"wait").hexdigest()
    complete(batch_folder, {"one": 1, "wait": 1, "changed": 1, "three": 1})


def test_two_drivers_on_one_out(batch_folder):
    """Both process a clip that neither has finished. One result replaces the other, which is the same."""
    batch_folder.write_clips(a="wait")
    batch_folder.write_slow_clips(3)
    drivers = [batch_folder.start() for _ in range(2)]
    wait_for(lambda: batch_folder.attempts() == ["wait", "wait"])
    release_waiting_clips(batch_folder)
    for driver in drivers:
        end(driver)
    batch_folder.check_nothing_is_left()
    assert set(batch_folder.statuses().values()) == {"done"} and len(batch_folder.statuses()) == 6
    assert {report["attempts"] for report in batch_folder.reports().values()} == {1}
    assert max(map(batch_folder.attempts().count, batch_folder.attempts())) <= 2
    done = batch_folder.attempts()
    complete(batch_folder, {text: done.count(text) for text in done})

"""A batch with the fake ComfyUI: results, second runs, failing clips, killed processes."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from contextlib import suppress

import pytest
from fixtures.batch_folder import ROOT, wait_for

from batch import command

TEXTS = ["one", "two", "three"]
"""The texts of the clips a, b and c."""
ALL_DONE = dict.fromkeys("abc", "done")
B_FAILED = {**ALL_DONE, "b": "failed"}


def change_workflow(batch_folder, **inputs) -> None:
    workflow = json.loads(batch_folder.workflow.read_text())
    workflow["2"]["inputs"].update(inputs)
    batch_folder.workflow.write_text(json.dumps(workflow))


# Results


def test_each_clip_has_a_video_and_a_report_and_the_manifest_has_all(batch_folder):
    batch_folder.run()
    assert batch_folder.statuses() == ALL_DONE
    report = batch_folder.reports()["a"]
    assert report == json.loads((batch_folder.out / "a.mp4.json").read_text())
    assert batch_folder.videos()["a"] == f"one {report['seeds']['The work.seed']} 3 0"
    assert report["figures"] == {"The work": {"score": [3]}}
    assert report["attempts"] == 1 and report["error"] == "" and report["seconds"] > 0
    assert report["hashes"]["files"].keys() == {"checkpoints/tiny.safetensors", "input/style.png"}
    assert all(len(report["hashes"][name]) == 64 for name in ("clip", "video", "workflow", "pack", "host"))


def test_names_keep_their_folders_and_do_not_collide(batch_folder):
    for shot in ("shot 1", "shot 2"):
        (batch_folder.clips / shot).mkdir()
        (batch_folder.clips / shot / "take.mov").write_text(shot)
    batch_folder.run()
    videos = {
        path.relative_to(batch_folder.out).as_posix(): path.read_text() for path in batch_folder.out.rglob("take*.mp4")
    }
    assert {name: text[:6] for name, text in videos.items()} == {
        "shot 1/take.mov.mp4": "shot 1",
        "shot 2/take.mov.mp4": "shot 2",
    }


def test_clips_of_equal_content_have_equal_videos(batch_folder):
    batch_folder.write_clips(again="one")
    batch_folder.run()
    assert batch_folder.videos()["again"] == batch_folder.videos()["a"]


def test_seeds_depend_on_the_content_or_are_as_saved(batch_folder):
    batch_folder.run()
    by_content = batch_folder.videos()
    (batch_folder.clips / "a.mp4").rename(batch_folder.clips / "z.mp4")
    batch_folder.run()
    assert batch_folder.videos()["z"] == by_content["a"]
    assert len({text.split()[1] for text in by_content.values()}) == 3
    batch_folder.run("--seed", "fixed")
    assert batch_folder.videos()["z"] == "one 5 3 0"


def test_all_clips_get_the_same_alternatives_of_a_prompt_and_reports_say_which(batch_folder):
    load = {"id": 1, "type": "LoadVideo", "inputs": [], "outputs": [{"links": [1]}], "widgets_values": ["any.mp4"]}
    work = {"id": 2, "type": "Work", "inputs": [{"name": "video", "link": 1}], "outputs": [{"links": [2]}]}
    save = {"id": 3, "type": "SaveVideo", "inputs": [{"name": "video", "link": 2}], "widgets_values": ["video"]}
    work["widgets_values"] = ["a {red|green|blue|white|black|grey|pink|brown|yellow|orange} boat", 3]
    links = [[1, 1, 0, 2, 0, "VIDEO"], [2, 2, 0, 3, 0, "VIDEO"]]
    batch_folder.workflow.write_text(json.dumps({"nodes": [load, work, save], "links": links}))
    batch_folder.write_slow_clips(2)
    batch_folder.run("--workers", "3")
    (prompts,) = {json.dumps(report["prompts"]) for report in batch_folder.reports().values()}
    assert re.fullmatch(r"a \w+ boat", json.loads(prompts)["Work.text"])
    (batch_folder.out / "a.mp4").unlink()
    batch_folder.run()
    assert json.dumps(batch_folder.reports()["a"]["prompts"]) == prompts, "a later run makes the same choice"
    batch_folder.run("--set", "Work.text=a {red|green} boat")
    assert batch_folder.reports()["a"]["prompts"] == {"Work.text": "a {red|green} boat"}


def test_set_changes_an_input_and_overrides_a_seed(batch_folder):
    batch_folder.run("--set", "The work.steps=8", "--set", "The work.seed=9")
    assert batch_folder.videos()["a"] == "one 9 8 0"


# A second run


def test_a_second_run_starts_no_process(batch_folder):
    batch_folder.run()
    for clip in batch_folder.clips.iterdir():
        os.utime(clip, (1, 1))  # only the content matters, not the time
    (batch_folder.out / "manifest.jsonl").unlink()
    assert "3 clips: 0 to do" in batch_folder.run()
    assert len(batch_folder.comfyui_pids()) == 1
    assert len(batch_folder.reports()) == 3, "the manifest is rebuilt from the reports"


@pytest.mark.parametrize(
    "change",
    [
        lambda batch_folder: batch_folder.write_clips(a="one, changed"),
        lambda batch_folder: (batch_folder.out / "a.mp4").unlink(),
        lambda batch_folder: (batch_folder.out / "a.mp4").write_text("o"),
        lambda batch_folder: (batch_folder.out / "a.mp4.json").unlink(),
        lambda batch_folder: (batch_folder.out / "a.mp4.json").write_text('{"clip": "a.mp4", "sta'),
    ],
    ids=["clip", "video missing", "video truncated", "report missing", "report truncated"],
)
def test_only_a_changed_clip_is_processed_again(batch_folder, change):
    batch_folder.run()
    change(batch_folder)
    batch_folder.run()
    assert len(batch_folder.attempts()) == 4
    assert batch_folder.statuses() == ALL_DONE
    assert batch_folder.videos()["a"].startswith((batch_folder.clips / "a.mp4").read_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda batch_folder: change_workflow(batch_folder, steps=4),
        lambda batch_folder: (batch_folder.comfyui / "models/checkpoints/tiny.safetensors").write_text("other weights"),
        lambda batch_folder: (batch_folder.comfyui / "input/style.png").write_text("other picture"),
        lambda batch_folder: (batch_folder.comfyui / "comfy" / "samplers.py").write_text("NEW = 1"),
    ],
    ids=["workflow", "model", "input", "comfyui"],
)
def test_a_change_that_affects_all_clips_processes_them_again(batch_folder, change):
    batch_folder.run()
    change(batch_folder)
    batch_folder.run()
    assert sorted(batch_folder.attempts()) == sorted(2 * TEXTS)


def test_settings_and_seed_count_as_workflow(batch_folder):
    batch_folder.run()
    batch_folder.run("--set", "The work.steps=4")
    batch_folder.run("--set", "The work.steps=4", "--seed", "fixed")
    batch_folder.run("--set", "The work.steps=4", "--seed", "fixed")
    assert len(batch_folder.attempts()) == 9


def test_a_dry_run_starts_and_writes_nothing(batch_folder):
    output = batch_folder.run("--dry-run")
    assert "3 clips: 3 to do" in output and "a.mp4: to do" in output
    assert not batch_folder.out.exists() and not batch_folder.comfyui_pids()
    batch_folder.run()
    batch_folder.write_clips(b="changed")
    output = batch_folder.run("--dry-run")
    assert "a.mp4: done" in output and "b.mp4: to do" in output
    assert len(batch_folder.comfyui_pids()) == 1


# Clips that fail


def test_a_broken_clip_is_one_failed_row_with_the_decoders_message(batch_folder):
    batch_folder.write_clips(b="broken")
    output = batch_folder.run(status=1)
    assert "b.mp4 failed: Invalid data found when processing input" in output
    assert batch_folder.statuses() == B_FAILED
    assert batch_folder.reports()["b"]["error"] == "Invalid data found when processing input"
    assert batch_folder.attempts().count("broken") == 1, "a broken clip gets no second attempt"


def test_a_failed_clip_is_skipped_until_retried_or_changed(batch_folder):
    batch_folder.write_clips(b="broken")
    batch_folder.run(status=1)
    batch_folder.run(status=1)
    assert batch_folder.attempts().count("broken") == 1
    batch_folder.run("--retry-failed", status=1)
    assert batch_folder.attempts().count("broken") == 2
    batch_folder.write_clips(b="repaired")
    batch_folder.run()
    assert len(batch_folder.attempts()) == 5


def test_a_failing_clip_loses_the_video_of_an_earlier_run(batch_folder):
    batch_folder.run()
    batch_folder.write_clips(b="broken")
    batch_folder.run(status=1)
    assert batch_folder.videos().keys() == {"a", "c"}


def test_a_deleted_clip_is_one_failed_row(batch_folder):
    batch_folder.write_clips(a="wait")
    process = batch_folder.start()
    wait_for(lambda: "wait" in batch_folder.attempts())
    (batch_folder.clips / "b.mp4").unlink()
    (batch_folder.root / "go").touch()
    assert process.wait() == 1
    assert batch_folder.statuses() == B_FAILED
    assert (
        f"No such file or directory; the clip is {batch_folder.clips / 'b.mp4'}" in batch_folder.reports()["b"]["error"]
    )


def test_an_input_file_that_vanishes_fails_every_clip(batch_folder, monkeypatch):
    run_engine = command.run_engine

    def lose_the_picture(*arguments):
        (batch_folder.comfyui / "input" / "style.png").unlink()
        return run_engine(*arguments)

    monkeypatch.setattr(command, "run_engine", lose_the_picture)
    batch_folder.run(status=1)
    assert batch_folder.statuses() == dict.fromkeys("abc", "failed") and not batch_folder.attempts()


def test_a_clip_that_crashes_comfyui_fails_alone(batch_folder):
    batch_folder.write_clips(b="crash", d="four")
    batch_folder.run("--attempts", "3", status=1)
    assert batch_folder.statuses() == {**B_FAILED, "d": "done"}
    reports = batch_folder.reports()
    assert [reports[clip]["attempts"] for clip in "abcd"] == [1, 3, 1, 1]
    assert "given up after 3 attempts: ComfyUI ended with status 7" in reports["b"]["error"]
    assert reports["b"]["error"].endswith("Fatal: out of memory")
    assert sorted(batch_folder.attempts()) == sorted(["one", "crash", "crash", "crash", "three", "four"])


def test_attempts_are_counted_per_run(batch_folder):
    batch_folder.write_clips(b="crash")
    batch_folder.run(status=1)
    batch_folder.run("--retry-failed", status=1)
    assert batch_folder.attempts().count("crash") == 4
    assert batch_folder.reports()["b"]["attempts"] == 2


@pytest.mark.parametrize("fault", ["crash once", "hang once"])
def test_a_single_failure_of_comfyui_costs_one_attempt(batch_folder, fault):
    batch_folder.write_clips(b=fault)
    batch_folder.run("--timeout", "2")
    assert batch_folder.statuses() == ALL_DONE
    assert batch_folder.reports()["b"]["attempts"] == 2


def test_a_clip_that_takes_too_long_is_one_failed_row(batch_folder):
    batch_folder.write_clips(b="hang")
    batch_folder.run("--timeout", "0.5", status=1)
    assert batch_folder.statuses() == B_FAILED
    assert batch_folder.reports()["b"]["error"] == "given up after 2 attempts: there was no result within 0.5 s"


# Stops, and workers that die again and again; test_kills.py has the other kills


def test_a_clip_whose_worker_dies_in_every_attempt_fails(batch_folder):
    batch_folder.write_clips(b="hang")
    process = batch_folder.start("--attempts", "2")
    for attempt in (1, 2):
        wait_for(lambda attempt=attempt: batch_folder.attempts().count("hang") == attempt)
        batch_folder.worker_process().kill()
    process.communicate()
    assert process.returncode == 1
    assert batch_folder.reports()["b"]["error"] == "given up after 2 attempts: the worker died"
    assert batch_folder.statuses() == B_FAILED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_ends_cleanly(batch_folder, number):
    """A terminal sends Ctrl-C to the whole process group, and a scheduler SIGTERM."""
    batch_folder.write_clips(b="hang once")
    process = batch_folder.start("--attempts", "1")
    wait_for(lambda: "hang once" in batch_folder.attempts())
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert errors == "Stopped; run the same command again to resume.\n"
    assert process.returncode == 1
    batch_folder.wait_for_comfyui_exit()
    assert not batch_folder.worker_folders()
    assert batch_folder.statuses() == {"a": "done"}, "interrupted clips are not failed"
    batch_folder.run()
    assert batch_folder.statuses() == ALL_DONE


# Many workers, many drivers


def test_each_worker_has_its_own_gpu(batch_folder):
    batch_folder.gpus = tuple({"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-7", "GPU-9"))
    batch_folder.write_slow_clips(3)
    batch_folder.run()
    assert sorted(words[3] for words in batch_folder.journal_entries("start")) == ["GPU-7", "GPU-9"]


def test_workers_share_only_the_clips(batch_folder):
    batch_folder.write_slow_clips(6)
    batch_folder.run("--workers", "1")
    alone = batch_folder.videos()
    for path in batch_folder.out.iterdir():
        path.unlink()
    batch_folder.run("--workers", "3")
    assert batch_folder.videos() == alone
    assert len(batch_folder.attempts()) == 2 * len(alone)
    starts = batch_folder.journal_entries("start")[1:]
    assert len(starts) == 3
    for column in (1, 2):  # ports, folders
        assert len({words[column] for words in starts}) == 3
    assert len({words[0] for words in batch_folder.journal_entries("clip")[len(alone) :]}) == 3


def test_shards_together_process_each_clip_once(batch_folder):
    batch_folder.write_slow_clips(4)
    shards = [batch_folder.start("--shard", f"{i}/3") for i in range(3)]
    assert [shard.wait() for shard in shards] == [0, 0, 0]
    batch_folder.check_nothing_is_left()
    assert sorted(batch_folder.attempts()) == sorted(TEXTS + [f"slow {i}" for i in range(4)])
    assert len(batch_folder.reports()) == 7


# Output


def test_a_terminal_gets_a_bar_with_the_stages(batch_folder):
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))  # not on Windows
    batch_folder.write_clips(b="broken")
    terminal, process_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = batch_folder.start(stdout=process_end)
    os.close(process_end)
    output = ""
    # Reading fails with OSError at the terminal's end.
    with open(terminal, encoding="utf-8", newline="") as screen, suppress(OSError):
        while text := screen.readline():
            output += text
    assert process.wait() == 1
    updates = [text.strip() for text in output.split("\r")]
    assert any("1/3" in text and "The work 1/2" in text for text in updates), updates
    assert any(text.startswith("b.mp4 failed: Invalid data") for text in updates)
    assert not any(text.startswith("[1/3]") for text in updates)


# Errors that end the batch before the first clip


def test_a_comfyui_that_does_not_start(batch_folder, monkeypatch):
    monkeypatch.setenv("FAKE_COMFYUI_FAILS_TO_START", "1")
    output = batch_folder.run(status=1)
    assert "ComfyUI did not start: ImportError: no driver" in output
    assert not batch_folder.reports()


def test_a_comfyui_that_takes_too_long_to_start(batch_folder, monkeypatch):
    monkeypatch.setenv("FAKE_COMFYUI_NEVER_STARTS", "1")
    assert "ComfyUI did not start within 0.3 s" in batch_folder.run("--start-timeout", "0.3", status=1)


@pytest.mark.parametrize(
    ("setting", "output"),
    [
        ("The work.stepz=3", "matches no input. Available: The work.video, The work.seed, The work.steps"),
        ("Work.steps=3", "matches no input. Available: LoadVideo.file, SaveVideo.filename_prefix"),
        ("The work.video=3", "is wired to another node"),
        ("The work.steps=many", 'is "many", expected a number'),
        ("The work.steps", 'expected "Node title.input=value"'),
        ("The work.steps=0", "Work: Value smaller than min: steps"),
    ],
)
def test_a_wrong_setting(batch_folder, setting, output):
    assert output in batch_folder.run("--set", setting, status=1)
    assert not batch_folder.attempts() and not batch_folder.reports()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--workers", "0", "auto or a number of 1 or more"),
        ("--shard", "3/3", "I/N with I from 0 to N - 1"),
        ("--attempts", "0", "1 or more"),
    ],
)
def test_a_wrong_option(batch_folder, option, value, expected):
    assert f"{option} is {value}, expected {expected}" in batch_folder.run(option, value, status=1)
    assert not batch_folder.comfyui_pids()


def test_without_ray_the_message_says_what_to_install(batch_folder):
    """The environment of the tests has no Ray."""
    output = batch_folder.run("--ray", "127.0.0.1:6379", status=1)
    assert '-m pip install "ray[data]==' in output


def test_a_wrong_ray_address(batch_folder):
    assert "expected HOST:PORT" in batch_folder.run("--ray", "ray://127.0.0.1:10001", status=1)


def test_the_help_lists_the_options():
    words = [sys.executable, ROOT / "batch", "-h"]
    assert "--retry-failed" in subprocess.run(words, capture_output=True, text=True, check=True).stdout

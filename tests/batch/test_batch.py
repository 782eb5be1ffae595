"""What `dev.py batch` promises, each promise broken on purpose, against a stand-in for ComfyUI."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest
from fixtures.batch_folder import ROOT, wait_for

ALL = ["one", "three", "two"]


def change_workflow(studio, **inputs) -> None:
    workflow = json.loads(studio.workflow.read_text())
    workflow["2"]["inputs"].update(inputs)
    studio.workflow.write_text(json.dumps(workflow))


# What comes out


def test_each_clip_has_a_video_and_a_report_and_the_manifest_has_all(studio):
    studio.batch()
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}
    report = studio.reports()["a"]
    assert report == json.loads((studio.out / "a.mp4.json").read_text())
    assert studio.videos()["a"] == f"one {report['seeds']['The work.seed']} 3 0"
    assert report["figures"] == {"The work": {"score": [3]}}
    assert report["attempts"] == 1 and report["error"] == "" and report["seconds"] > 0
    assert report["hashes"]["files"].keys() == {"checkpoints/tiny.safetensors", "input/style.png"}
    assert all(len(report["hashes"][name]) == 64 for name in ("clip", "video", "workflow", "pack", "host"))


def test_names_keep_their_folders_and_never_meet(studio):
    for folder in ("shot 1", "shot 2"):
        (studio.clips / folder).mkdir()
        (studio.clips / folder / "take.mov").write_text(folder)
    studio.batch()
    videos = {path.relative_to(studio.out).as_posix(): path.read_text() for path in studio.out.rglob("take*.mp4")}
    assert {name: text[:6] for name, text in videos.items()} == {
        "shot 1/take.mov.mp4": "shot 1",
        "shot 2/take.mov.mp4": "shot 2",
    }


def test_clips_of_equal_content_have_equal_videos(studio):
    studio.add(again="one")
    studio.batch()
    assert studio.videos()["again"] == studio.videos()["a"]


def test_seeds_come_from_the_content_or_are_as_saved(studio):
    studio.batch()
    by_content = studio.videos()
    (studio.clips / "a.mp4").rename(studio.clips / "z.mp4")
    studio.batch()
    assert studio.videos()["z"] == by_content["a"]
    assert len({text.split()[1] for text in by_content.values()}) == 3
    studio.batch("--seed", "fixed")
    assert studio.videos()["z"] == "one 5 3 0"


def test_set_changes_an_input_and_has_the_last_word_on_a_seed(studio):
    studio.batch("--set", "The work.steps=8", "--set", "The work.seed=9")
    assert studio.videos()["a"] == "one 9 8 0"


# A second run


def test_a_second_run_starts_nothing(studio):
    studio.batch()
    for clip in studio.clips.iterdir():
        os.utime(clip, (1, 1))  # by content: times do not matter
    (studio.out / "manifest.jsonl").unlink()
    assert "3 clips: 0 to do" in studio.batch()
    assert len(studio.pids()) == 1
    assert len(studio.reports()) == 3, "the manifest is rebuilt from the reports"


@pytest.mark.parametrize(
    "change",
    [
        lambda studio: studio.add(a="one, changed"),
        lambda studio: (studio.out / "a.mp4").unlink(),
        lambda studio: (studio.out / "a.mp4").write_text("o"),
        lambda studio: (studio.out / "a.mp4.json").unlink(),
        lambda studio: (studio.out / "a.mp4.json").write_text('{"clip": "a.mp4", "sta'),
    ],
    ids=["clip", "video gone", "video cut", "report gone", "report cut"],
)
def test_what_changes_one_clip_is_done_again_alone(studio, change):
    studio.batch()
    change(studio)
    studio.batch()
    assert len(studio.worked_on()) == 4
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert studio.videos()["a"].startswith((studio.clips / "a.mp4").read_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda studio: change_workflow(studio, steps=4),
        lambda studio: (studio.comfyui / "models/checkpoints/tiny.safetensors").write_text("other weights"),
        lambda studio: (studio.comfyui / "input/style.png").write_text("other picture"),
        lambda studio: (studio.comfyui / "comfy" / "samplers.py").write_text("NEW = 1"),
    ],
    ids=["workflow", "model", "input", "host"],
)
def test_what_changes_every_clip_is_a_reason_to_do_them_again(studio, change):
    studio.batch()
    change(studio)
    studio.batch()
    assert sorted(studio.worked_on()) == sorted(2 * ALL)


def test_settings_and_seed_count_as_workflow(studio):
    studio.batch()
    studio.batch("--set", "The work.steps=4")
    studio.batch("--set", "The work.steps=4", "--seed", "fixed")
    studio.batch("--set", "The work.steps=4", "--seed", "fixed")
    assert len(studio.worked_on()) == 9


def test_a_dry_run_starts_and_writes_nothing(studio):
    said = studio.batch("--dry-run")
    assert "3 clips: 3 to do" in said and "a.mp4: to do" in said
    assert not studio.out.exists() and not studio.pids()
    studio.batch()
    studio.add(b="changed")
    said = studio.batch("--dry-run")
    assert "a.mp4: done" in said and "b.mp4: to do" in said
    assert len(studio.pids()) == 1


# Clips that fail


def test_a_broken_clip_is_one_failed_row_with_the_decoders_words(studio):
    studio.add(b="broken")
    said = studio.batch(status=1)
    assert "b.mp4 failed: Invalid data found when processing input" in said
    assert studio.statuses() == {"a": "done", "b": "failed", "c": "done"}
    assert studio.reports()["b"]["error"] == "Invalid data found when processing input"
    assert studio.worked_on().count("broken") == 1, "it is the clip's fault: no second attempt"


def test_a_failed_clip_waits_until_asked_for_or_changed(studio):
    studio.add(b="broken")
    studio.batch(status=1)
    studio.batch(status=1)
    assert studio.worked_on().count("broken") == 1
    studio.batch("--retry-failed", status=1)
    assert studio.worked_on().count("broken") == 2
    studio.add(b="mended")
    studio.batch()
    assert len(studio.worked_on()) == 5


def test_a_clip_that_fails_now_keeps_no_video_of_an_earlier_time(studio):
    studio.batch()
    studio.add(b="broken")
    studio.batch(status=1)
    assert studio.videos().keys() == {"a", "c"}


def test_a_clip_that_has_gone_is_one_failed_row(studio):
    studio.add(a="wait")
    process = studio.start()
    wait_for(lambda: "wait" in studio.worked_on())
    (studio.clips / "b.mp4").unlink()
    (studio.root / "go").touch()
    assert process.wait() == 1
    assert studio.statuses() == {"a": "done", "b": "failed", "c": "done"}
    assert studio.reports()["b"]["error"] == f"{studio.clips / 'b.mp4'} cannot be read: No such file or directory"


def test_a_clip_that_kills_its_host_is_given_up_and_takes_no_innocent_along(studio):
    studio.add(b="crash", d="four")
    studio.batch("--attempts", "3", status=1)
    assert studio.statuses() == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    reports = studio.reports()
    assert [reports[clip]["attempts"] for clip in "abcd"] == [1, 3, 1, 1]
    assert "given up after 3 attempts: ComfyUI ended with status 7" in reports["b"]["error"]
    assert reports["b"]["error"].endswith("Fatal: out of memory")
    assert sorted(studio.worked_on()) == sorted(["one", "crash", "crash", "crash", "three", "four"])


def test_attempts_count_for_each_run(studio):
    studio.add(b="crash")
    studio.batch(status=1)
    studio.batch("--retry-failed", status=1)
    assert studio.worked_on().count("crash") == 4
    assert studio.reports()["b"]["attempts"] == 2


@pytest.mark.parametrize("fault", ["crash once", "hang once"])
def test_a_host_that_fails_once_costs_an_attempt_and_no_clip(studio, fault):
    studio.add(b=fault)
    studio.batch("--timeout", "2")
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert studio.reports()["b"]["attempts"] == 2


def test_a_clip_that_takes_too_long_is_one_failed_row(studio):
    studio.add(b="hang")
    studio.batch("--timeout", "0.5", status=1)
    assert studio.statuses() == {"a": "done", "b": "failed", "c": "done"}
    assert studio.reports()["b"]["error"] == "given up after 2 attempts: there was no result within 0.5 s"


# Processes that are killed


def unit_of(host: int) -> psutil.Process:
    """The worker's process, from its ComfyUI's."""
    return psutil.Process(host).parent()


def test_a_killed_worker_loses_and_doubles_nothing(studio):
    studio.add(b="hang once")
    process = studio.start()
    wait_for(lambda: "hang once" in studio.worked_on())
    unit_of(studio.pids()[-1]).kill()
    process.communicate()
    assert process.returncode == 0
    studio.check_nothing_is_left()
    assert sorted(studio.worked_on()) == sorted(["one", "hang once", "hang once", "three"])
    assert studio.reports()["b"]["attempts"] == 2


def test_a_worker_that_dies_with_every_attempt_gives_the_clip_up(studio):
    studio.add(b="hang")
    process = studio.start("--attempts", "2")
    for attempt in (1, 2):
        wait_for(lambda attempt=attempt: studio.worked_on().count("hang") == attempt)
        unit_of(studio.pids()[-1]).kill()
    process.communicate()
    assert process.returncode == 1
    assert studio.reports()["b"]["error"] == "given up after 2 attempts: the worker died"
    assert studio.statuses() == {"a": "done", "b": "failed", "c": "done"}


def test_a_killed_driver_leaves_no_process_and_the_next_goes_on(studio):
    studio.add(b="hang once")
    process = studio.start("--workers", "2")
    wait_for(lambda: (studio.out / "a.mp4.json").exists() and "hang once" in studio.worked_on())
    process.kill()
    process.communicate()
    studio.check_nothing_runs()
    done = [clip for clip in "abc" if (studio.out / f"{clip}.mp4.json").exists()]
    assert "a" in done and "b" not in done and not (studio.out / "b.mp4").exists()
    wait_for(lambda: not list((studio.root / "tmp").glob("bivdiff-batch-*")))
    studio.batch()
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}
    assert studio.worked_on().count("one") == 1 and studio.worked_on().count("hang once") == 2
    assert studio.reports()["b"]["attempts"] == 1, "counted for each run"


def test_ctrl_c_ends_cleanly(studio):
    studio.add(b="hang once")
    process = studio.start("--attempts", "1")
    wait_for(lambda: "hang once" in studio.worked_on())
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it knows of
    _, errors = process.communicate(timeout=60)
    assert errors == "Stopped; the same command goes on from here.\n"
    assert process.returncode == 1
    studio.check_nothing_runs()
    assert not list((studio.root / "tmp").glob("bivdiff-batch-*"))
    assert studio.statuses() == {"a": "done"}, "what was under way is not failed, it is not done"
    studio.batch()
    assert studio.statuses() == {"a": "done", "b": "done", "c": "done"}


# Many workers, many drivers


def test_each_worker_sees_a_gpu_of_its_own(studio):
    studio.gpus = ("GPU-7", "GPU-9")
    studio.add(**{f"clip{i}": f"slow {i}" for i in range(3)})
    studio.batch()
    assert sorted(words[3] for words in studio.noted("start")) == ["GPU-7", "GPU-9"]


def test_workers_share_the_clips_and_nothing_else(studio):
    studio.add(**{f"clip{i}": f"slow {i}" for i in range(6)})
    studio.batch("--workers", "1")
    alone = studio.videos()
    for path in studio.out.iterdir():
        path.unlink()
    studio.batch("--workers", "3")
    assert studio.videos() == alone
    assert len(studio.worked_on()) == 2 * len(alone)
    three = studio.noted("start")[1:]
    assert len(three) == 3
    for what in (1, 2):  # ports, folders
        assert len({words[what] for words in three}) == 3
    assert len({words[0] for words in studio.noted("clip")[len(alone) :]}) == 3


def test_shards_do_everything_once_between_them(studio):
    studio.add(**{f"clip{i}": f"slow {i}" for i in range(4)})
    shards = [studio.start("--shard", f"{i}/3") for i in range(3)]
    assert [shard.wait() for shard in shards] == [0, 0, 0]
    studio.check_nothing_is_left()
    assert sorted(studio.worked_on()) == sorted(ALL + [f"slow {i}" for i in range(4)])
    assert len(studio.reports()) == 7


# What it shows


def test_a_terminal_gets_a_bar_with_the_stages(studio):
    pty = pytest.importorskip("pty", reason="there are no such terminals on Windows")
    studio.add(b="broken")
    terminal, its_end = pty.openpty()
    process = studio.start(stdout=its_end)
    os.close(its_end)
    said = ""
    with open(terminal, encoding="utf-8", newline="") as screen, suppress(OSError):  # how a terminal's end reads
        while text := screen.readline():
            said += text
    assert process.wait() == 1
    drawn = [text.strip() for text in said.split("\r")]
    assert any(text.startswith("[######") and "1/3" in text and text.endswith("The work 1/2") for text in drawn), drawn
    assert any(text.startswith("b.mp4 failed: Invalid data") for text in drawn)
    assert not any(text.startswith("[1/3]") for text in drawn)


# What ends the whole batch before it does any work


def test_a_host_that_does_not_start(studio, monkeypatch):
    monkeypatch.setenv("STANDIN_REFUSES_TO_START", "1")
    said = studio.batch(status=1)
    assert "ComfyUI did not start: ImportError: no driver" in said
    assert not studio.reports()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("The work.stepz=3", "fits no node. There are: The work.video, The work.seed, The work.steps"),
        ("Work.steps=3", "fits no node. There are: LoadVideo.file, SaveVideo.filename_prefix"),
        ("The work.video=3", "is wired to another node"),
        ("The work.steps=many", 'is "many", expected a number'),
        ("The work.steps", 'expected "Node title.input=value"'),
        ("The work.steps=0", "Work: Value smaller than min: steps"),
    ],
)
def test_a_setting_that_does_not_fit(studio, setting, said):
    assert said in studio.batch("--set", setting, status=1)
    assert not studio.worked_on() and not studio.reports()


def test_options_that_make_no_sense(studio):
    assert "--workers is 0, expected auto or a number from 1" in studio.batch("--workers", "0", status=1)
    assert "--shard is 3/3, expected I/N with I from 0 to N - 1" in studio.batch("--shard", "3/3", status=1)
    assert "--attempts is 0, expected a number from 1" in studio.batch("--attempts", "0", status=1)
    assert not studio.pids()


def test_without_ray_one_sentence_says_what_to_install(studio):
    """The environment of the tests has none."""
    said = studio.batch("--ray", "127.0.0.1:6379", status=1)
    assert '-m pip install "ray[data]==' in said


def test_an_address_that_is_none(studio):
    assert "expected HOST:PORT" in studio.batch("--ray", "ray://127.0.0.1:10001", status=1)


def test_the_command_line_explains_itself():
    asked = [sys.executable, ROOT / "dev.py", "batch", "-h"]
    assert "--retry-failed" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout

"""A batch through the real ComfyUI: the demo workflow on two short clips."""

import json
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from fixtures.batch_folder import BatchFolder, is_alive, wait_for

from research import toy_world
from tools.demo import load_demo_workflow
from tools.in_process_comfyui import COMFYUI
from tools.video_files import write_video

SEEDS = (3, 4)
FEW_STEPS = [
    f"{title}.steps=3"
    for title in ("Frame-wise Image Sampler", "DDIM Inverse (Image)", "DDIM Inverse (Video)", "Video Temporal Smoother")
]
OPTIONS = [part for setting in FEW_STEPS for part in ("--set", setting)]


@pytest.fixture
def real(tmp_path, monkeypatch) -> BatchFolder:
    """Two clips for the demo workflow."""
    studio = BatchFolder(tmp_path, COMFYUI)
    studio.workflow.write_text(json.dumps(load_demo_workflow("any.mp4")))
    studio.clips.mkdir()
    for seed in SEEDS:
        write_video(studio.clips / f"clip{seed}.mp4", toy_world.generate_clip(seed).frames)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return studio


def frames(path: Path) -> np.ndarray:
    """The pictures ``[F, H, W, 3]`` of a video."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def run(studio: BatchFolder, *options: str) -> dict[str, np.ndarray]:
    """The frames of every result of a batch that must succeed."""
    process = studio.start(*OPTIONS, *options)
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    assert set(studio.statuses().values()) == {"done"}
    studio.check_nothing_is_left()
    return {path.stem: frames(path) for path in studio.out.glob("*.mp4")}


def test_interrupted_alone_or_with_others_the_frames_are_the_same(real):
    """Killed after the first clip and taken up again by one worker, then by two."""
    process = real.start(*OPTIONS)
    wait_for(lambda: list(real.out.glob("*.json")))
    started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(started) == 2, "the worker and its ComfyUI"
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, started)))

    alone = run(real)
    assert alone.keys() == {f"clip{seed}" for seed in SEEDS}
    assert all(pictures.shape == (toy_world.FRAMES, 256, 256, 3) for pictures in alone.values())
    assert (alone["clip3"] != alone["clip4"]).any()
    (figures,) = real.reports()["clip3"]["figures"]["Before and after"]["changes"]
    assert [len(row) for row in figures] == 2 * [toy_world.FRAMES - 1]

    real.root.joinpath("out").rename(real.root / "alone")
    together = run(real, "--workers", "2")
    for clip, pictures in alone.items():
        np.testing.assert_array_equal(together[clip], pictures)
    assert len({report["where"] for report in real.reports().values()}) == 2

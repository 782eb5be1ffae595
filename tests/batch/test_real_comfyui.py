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
def demo_folder(tmp_path, monkeypatch) -> BatchFolder:
    """Two clips for the demo workflow."""
    batch_folder = BatchFolder(tmp_path, COMFYUI)
    batch_folder.workflow.write_text(json.dumps(load_demo_workflow("any.mp4")))
    batch_folder.clips.mkdir()
    for seed in SEEDS:
        write_video(batch_folder.clips / f"clip{seed}.mp4", toy_world.generate_clip(seed).frames)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return batch_folder


@pytest.fixture
def witness(demo_folder) -> Path:
    """Another pack, in a folder of an extra_model_paths.yaml; it writes ComfyUI's folders to the file returned."""
    pack = demo_folder.root / "packs" / "witness"
    pack.mkdir(parents=True)
    seen = demo_folder.root / "folders.json"
    (pack / "__init__.py").write_text(f"""
import json, os, folder_paths
from pathlib import Path
folders = [folder_paths.models_dir, folder_paths.base_path, *folder_paths.get_folder_paths("loras")]
Path({str(seen)!r}).write_text(json.dumps([*folders, folder_paths.get_input_directory()]))
NODE_CLASS_MAPPINGS = {{}}
""")
    (demo_folder.root / "extra.yaml").write_text(f"more:\n  custom_nodes: {pack.parent}\n  loras: {pack / 'loras'}\n")
    return seen


def read_frames(path: Path) -> np.ndarray:
    """Decode the frames ``[F, H, W, 3]`` of a video."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def run(batch_folder: BatchFolder, *options: str) -> dict[str, np.ndarray]:
    """Run a batch that must succeed, and return the frames of every result."""
    process = batch_folder.start(*OPTIONS, *options)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    assert set(batch_folder.statuses().values()) == {"done"}
    batch_folder.check_nothing_is_left()
    return {path.stem: read_frames(path) for path in batch_folder.out.glob("*.mp4")}


def test_frames_are_the_same_after_an_interruption_and_with_two_workers(demo_folder, witness):
    """The batch is killed after the first clip and resumed with one worker, then repeated with two.

    The other pack sees the models folder and the extra folders of the ComfyUI that the batch runs on.
    """
    demo_folder.comfyui_options = ("--extra-model-paths-config", str(demo_folder.root / "extra.yaml"))
    process = demo_folder.start(*OPTIONS)
    wait_for(lambda: list(demo_folder.out.glob("*.json")))
    started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(started) == 2, "the worker and its ComfyUI"
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, started)))

    alone = run(demo_folder)
    models, base, *loras, input_folder = json.loads(witness.read_text())
    assert (Path(models), Path(base)) == (COMFYUI / "models", COMFYUI)
    assert str(witness.parent / "packs" / "witness" / "loras") in loras
    assert "bivdiff-batch-" in input_folder
    assert alone.keys() == {f"clip{seed}" for seed in SEEDS}
    assert all(frames.shape == (toy_world.FRAMES, 256, 256, 3) for frames in alone.values())
    assert (alone["clip3"] != alone["clip4"]).any()
    (figures,) = demo_folder.reports()["clip3"]["figures"]["Before and after"]["changes"]
    assert [len(row) for row in figures] == 2 * [toy_world.FRAMES - 1]

    demo_folder.root.joinpath("out").rename(demo_folder.root / "alone")
    together = run(demo_folder, "--workers", "2")
    for clip, frames in alone.items():
        np.testing.assert_array_equal(together[clip], frames)
    assert len({report["where"] for report in demo_folder.reports().values()}) == 2

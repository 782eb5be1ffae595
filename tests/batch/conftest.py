"""A studio for each test: a workflow, three good clips, and a stand-in for ComfyUI."""

import json
import shutil

import psutil
import pytest
from fixtures.batch_folder import ROOT, WORKFLOW, BatchFolder, is_alive


@pytest.fixture
def studio(tmp_path, monkeypatch) -> BatchFolder:
    """A studio with three good clips."""
    studio = BatchFolder(tmp_path, tmp_path / "ComfyUI")
    shutil.copytree(ROOT / "tests" / "fixtures" / "fake_comfyui", studio.comfyui)
    for path, text in {"models/checkpoints/tiny.safetensors": "weights", "input/style.png": "picture"}.items():
        (studio.comfyui / path).parent.mkdir(parents=True, exist_ok=True)
        (studio.comfyui / path).write_text(text)
    studio.workflow.write_text(json.dumps(WORKFLOW))
    studio.add(a="one", b="two", c="three")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("STANDIN_JOURNAL", str(studio.journal))
    yield studio
    for pid in filter(is_alive, studio.pids()):
        psutil.Process(pid).kill()

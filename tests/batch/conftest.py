"""A batch folder for each test: a workflow, three valid clips, and a fake ComfyUI."""

import json
import shutil

import psutil
import pytest
from fixtures.batch_folder import ROOT, WORKFLOW, BatchFolder, is_alive


@pytest.fixture
def batch_folder(tmp_path, monkeypatch) -> BatchFolder:
    """A folder with three valid clips and the fake ComfyUI."""
    batch_folder = BatchFolder(tmp_path, tmp_path / "ComfyUI")
    shutil.copytree(ROOT / "tests" / "fixtures" / "fake_comfyui", batch_folder.comfyui)
    for path, text in {"models/checkpoints/tiny.safetensors": "weights", "input/style.png": "picture"}.items():
        (batch_folder.comfyui / path).parent.mkdir(parents=True, exist_ok=True)
        (batch_folder.comfyui / path).write_text(text)
    batch_folder.workflow.write_text(json.dumps(WORKFLOW))
    batch_folder.write_clips(a="one", b="two", c="three")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("FAKE_COMFYUI_JOURNAL", str(batch_folder.journal))
    yield batch_folder
    for pid in filter(is_alive, batch_folder.comfyui_pids()):
        psutil.Process(pid).kill()

"""Which ComfyUI a batch runs, with which Python, packs and GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.batch_folder import ROOT

from batch import installation
from batch.comfyui_server import build_server_command
from batch.installation import find_installation, list_gpus
from batch.records import BatchError
from tools.environment import VENV, VENV_PYTHON


@pytest.fixture
def installed(batch_folder):
    """The batch folder with this pack in the custom nodes of its ComfyUI, by a link; gives the program's path."""
    custom_nodes = batch_folder.comfyui / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / "bivdiff").symlink_to(ROOT)
    return custom_nodes / "bivdiff" / "batch"


def test_it_runs_on_the_comfyui_that_the_pack_lies_in(batch_folder, installed, monkeypatch):
    """Like the portable ComfyUI's Python: a script's folder is not on the path, and ComfyUI's is."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(batch_folder.comfyui))
    words = [batch_folder.workflow.name, batch_folder.clips.name, batch_folder.out.name, "--", "--cpu", "--lowvram"]
    program = os.path.relpath(installed, batch_folder.root)
    run = subprocess.run([sys.executable, program, *words], cwd=batch_folder.root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert batch_folder.statuses() == dict.fromkeys("abc", "done")
    arguments = batch_folder.comfyui_arguments()
    assert "--lowvram" in arguments
    assert not {"--base-directory", "--disable-all-custom-nodes", "--extra-model-paths-config"} & set(arguments)


def test_a_clone_elsewhere_is_loaded_besides_comfyuis_packs(batch_folder):
    (batch_folder.comfyui / "custom_nodes" / "ComfyUI-Other").mkdir(parents=True)
    batch_folder.run()
    arguments = batch_folder.comfyui_arguments()
    start = arguments.index("--whitelist-custom-nodes")
    assert arguments[start + 1 : start + 3] == [ROOT.name, "ComfyUI-Other"]
    assert "--base-directory" not in arguments


def test_the_pack_is_not_on_the_path(installed, tmp_path, monkeypatch):
    """There `nodes` is the pack's; the program must leave that name to ComfyUI."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sys.path)))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = subprocess.run([sys.executable, installed, "-h"], capture_output=True, text=True, check=True)
    path = json.loads(run.stdout.splitlines()[-1])
    assert str(tmp_path) in path
    assert not {installed.parent, installed, ROOT, ROOT / "batch"} & {Path(entry) for entry in path}


def test_only_the_workers_folders_are_its_own(batch_folder):
    base = batch_folder.root / "base"
    command = build_server_command("python", batch_folder.comfyui, base, 8188, False, extra_packs=None, arguments=[])
    assert command[:2] == ["python", str(batch_folder.comfyui / "main.py")]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options == {
        "--input-directory": str(base / "input"),
        "--output-directory": str(base / "output"),
        "--temp-directory": str(base),
        "--user-directory": str(base / "user"),
        "--database-url": "sqlite:///:memory:",
        "--port": "8188",
    }


def test_without_a_comfyui_the_error_says_how_to_name_it(batch_folder, tmp_path, monkeypatch):
    """As in ComfyUI Desktop, whose main.py is in the program's folder."""
    desktop = tmp_path / "Documents"
    monkeypatch.setattr(installation, "PACK", desktop / "custom_nodes" / "bivdiff")
    monkeypatch.setattr(installation, "DEV_COMFYUI", tmp_path / "nothing")
    with pytest.raises(BatchError, match=f'no ComfyUI at {desktop}: .*--comfyui.*-- --base-directory "{desktop}"'):
        find_installation(None, None, [])
    arguments = ["--base-directory", str(desktop)]
    found = find_installation(batch_folder.comfyui, None, arguments)
    assert found == (installation.Path(sys.executable), batch_folder.comfyui, arguments)


def test_a_clone_uses_the_comfyui_that_dev_py_builds(batch_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "PACK", tmp_path / "projects" / "bivdiff")
    monkeypatch.setattr(installation, "DEV_COMFYUI", batch_folder.comfyui)
    python = tmp_path / VENV_PYTHON.relative_to(VENV)
    monkeypatch.setattr(installation, "DEV_VENV", tmp_path)
    with pytest.raises(BatchError, match=f"no Python at {python}"):
        find_installation(None, None, [])
    python.parent.mkdir()
    python.touch()
    assert find_installation(None, None, []) == (python, batch_folder.comfyui, [])


def test_a_wrong_batch_is_an_error_before_any_process_starts(batch_folder):
    assert "There is no Python at" in batch_folder.run("--python", "nowhere", status=1)
    batch_folder.workflow.unlink()
    message = "workflow.json cannot be read (No such file or directory): give a workflow saved by ComfyUI"
    assert message in batch_folder.run(status=1)


def test_wrong_arguments_of_comfyui(batch_folder):
    output = batch_folder.run("--", "--no-such-option", status=1)
    assert "unrecognized arguments: --no-such-option" in output and not batch_folder.comfyui_pids()
    assert "set CUDA_VISIBLE_DEVICES instead" in batch_folder.run("--", "--cuda-device", "1", status=1)


def test_a_saved_workflow_needs_the_converter(batch_folder, tmp_path):
    """Only a workflow in UI format does; this Python has no packages at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / VENV_PYTHON.relative_to(VENV)
    nodes = [{"type": "LoadVideo"}, {"type": "SaveVideo"}]
    batch_folder.workflow.write_text(json.dumps({"nodes": nodes, "links": []}))
    output = batch_folder.run("--python", str(python), status=1)
    assert f"Export (API) instead, or install the converter with {python} -m pip install comfy-cli" in output


# GPUs


@pytest.fixture
def fake_torch(tmp_path, monkeypatch):
    """Makes the torch of other Python processes one with 2 GPUs, or as many as its variables leave."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def write(is_amd: bool, count: int) -> None:
        (tmp_path / "torch.py").write_text(f"""
from types import SimpleNamespace
version = SimpleNamespace(hip={"6.4" if is_amd else None!r})
accelerator = SimpleNamespace(
    is_available=lambda: {count} > 0, device_count=lambda: {count}, current_accelerator=lambda: None)
def ones(*args, **options):
    pass
""")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("is_amd", "variables", "variable", "names"),
    [
        (False, {}, "CUDA_VISIBLE_DEVICES", "01"),
        (False, {"CUDA_VISIBLE_DEVICES": "5,7"}, "CUDA_VISIBLE_DEVICES", "57"),
        (False, {"CUDA_VISIBLE_DEVICES": "5,7", "HIP_VISIBLE_DEVICES": "1,2"}, "CUDA_VISIBLE_DEVICES", "57"),
        (True, {}, "HIP_VISIBLE_DEVICES", "01"),
        (True, {"ROCR_VISIBLE_DEVICES": "5,7"}, "HIP_VISIBLE_DEVICES", "01"),
        (True, {"HIP_VISIBLE_DEVICES": "5,7", "CUDA_VISIBLE_DEVICES": "1,2"}, "HIP_VISIBLE_DEVICES", "57"),
        (True, {"CUDA_VISIBLE_DEVICES": "5,7"}, "HIP_VISIBLE_DEVICES", "57"),
    ],
)
def test_each_worker_gets_one_of_the_visible_gpus(fake_torch, monkeypatch, is_amd, variables, variable, names):
    fake_torch(is_amd, 2)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert list_gpus(sys.executable) == [{variable: name} for name in names]


def test_without_a_gpu_there_is_none(fake_torch, monkeypatch):
    fake_torch(False, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert list_gpus(sys.executable) == []


def test_contradicting_settings_of_amd_gpus_are_an_error(fake_torch, monkeypatch):
    fake_torch(True, 0)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2")
    with pytest.raises(BatchError, match="ROCR_VISIBLE_DEVICES=2 hides GPUs .* selects 2 of these. Unset one of them"):
        list_gpus(sys.executable)

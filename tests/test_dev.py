"""dev.py: its errors (one sentence that says what to do, no traceback), Ray, Chromium and the pinned requirements."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import dev
from batch.ray_engine import RAY_REQUIREMENT
from tools import environment, suite
from tools.in_process_comfyui import COMFYUI

ROOT = Path(__file__).resolve().parents[1]
NO_INDEX = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the repository's set-up files, with nothing built."""
    for name in ("dev.py", "dev.lock", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("batch", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def comfyui(checkout) -> Path:
    """A folder that looks like a ComfyUI."""
    (checkout / "ComfyUI" / "comfy").mkdir(parents=True)
    (checkout / "ComfyUI" / "main.py").touch()
    return checkout / "ComfyUI"


def run_failing(*arguments: str | Path, **variables: str) -> str:
    """Run Python; assert that it fails with one line on stderr, and return that line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "COMFYUI_"))}
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**environment, **variables},
    )
    assert run.returncode != 0
    assert len(run.stderr.splitlines()) == 1, run.stderr
    return run.stderr


def patched_command(patch: str, dev: Path, command: str) -> list[str]:
    """Python arguments that apply a patch and then run a dev.py command, to simulate conditions."""
    prepare = f"import runpy, sys; sys.argv = ['dev.py', {command!r}]; sys.path[0] = {str(dev.parent)!r}"
    run = f"{prepare}; runpy.run_path({str(dev)!r}, run_name='__main__')"
    return ["-c", f"{patch}\n{run}"]


def test_no_network(checkout):
    message = run_failing(checkout / "dev.py", "where", **NO_INDEX, https_proxy="http://127.0.0.1:9")
    assert "check the network and run again" in message
    assert not (checkout / ".host" / "ComfyUI").exists()


def test_a_package_index_that_stops_answering(checkout):
    """ComfyUI is already downloaded, the packages are not."""
    host = checkout / ".host" / "ComfyUI"
    host.mkdir(parents=True)
    (host / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    (host / "requirements.txt").touch()
    message = run_failing(checkout / "dev.py", "where", **{**NO_INDEX, "PIP_RETRIES": "1"})
    assert "No package index answered while installing packages: check the network" in message
    assert not (checkout / ".venv" / "bivdiff.sha256").exists()


def test_too_little_disk(checkout):
    patch = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**12, 10**12, 2 * 10**9)"
    message = run_failing(*patched_command(patch, checkout / "dev.py", "where"))
    assert "has 2.0 GB left: free some" in message
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("version", "advice"), [("3, 9, 18", "run dev.py with Python 3.10 or newer"), ("3, 15, 0", "3.10 to 3.14")]
)
def test_unsuitable_python(checkout, version, advice):
    patch = f"import sys; sys.version_info = ({version})"
    assert advice in run_failing(*patched_command(patch, checkout / "dev.py", "where"))


@pytest.mark.parametrize("command", ["where", "serve", "test", "bench", "demo"])
def test_comfyui_path_without_a_comfyui(checkout, command):
    message = run_failing(checkout / "dev.py", command, COMFYUI_PATH=str(checkout))
    assert f"COMFYUI_PATH is {checkout}, which is not a ComfyUI folder: set it to" in message


def test_comfyui_without_a_python(checkout, comfyui):
    message = run_failing(checkout / "dev.py", "where", COMFYUI_PATH=str(comfyui))
    assert "set COMFYUI_PYTHON to the Python that runs" in message


def test_comfyui_that_lacks_packages(checkout, comfyui):
    """The packages are listed, not installed."""
    (checkout / "requirements.txt").write_text("no-such-package>=2\ntorch>=999\neinops\n")
    variables = {"COMFYUI_PATH": str(comfyui), "COMFYUI_PYTHON": sys.executable}
    message = run_failing(checkout / "dev.py", "where", **variables)
    assert message.endswith('-m pip install "no-such-package>=2" "torch>=999"\n')


def test_ray_tests_are_skipped_without_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        environment, "RAY_PYTHON", tmp_path / ".ray" / environment.RAY_PYTHON.relative_to(environment.RAY_VENV)
    )
    monkeypatch.setattr(environment, "RAY_VENV", tmp_path / ".ray")
    monkeypatch.setattr(environment, "RAY_STAMP", tmp_path / ".ray" / "bivdiff.txt")
    for variable, value in NO_INDEX.items():
        monkeypatch.setenv(variable, value)
    assert environment.ensure_ray_python() is None
    assert "Ray is not available: the tests of batch that need it will be skipped" in capsys.readouterr().out
    assert not environment.RAY_STAMP.exists()


def test_the_ray_environment_is_created_once(tmp_path, monkeypatch):
    (tmp_path / "bivdiff.txt").write_text(RAY_REQUIREMENT)
    monkeypatch.setattr(environment, "RAY_STAMP", tmp_path / "bivdiff.txt")
    monkeypatch.setattr(environment.subprocess, "run", pytest.fail)
    assert environment.ensure_ray_python() == environment.RAY_PYTHON


class FakeEnvironment:
    """An environment whose Playwright downloads its browser or cannot; other commands succeed."""

    def __init__(self, can_download: bool = False):
        self.can_download = can_download

    def run(self, *arguments: str) -> int:
        return int("playwright" in arguments and not self.can_download)


def test_chromium_comes_from_the_path_first_then_from_playwright(monkeypatch):
    monkeypatch.setattr(environment.subprocess, "run", pytest.fail)
    monkeypatch.setattr(environment, "find_chromium", lambda: "/usr/bin/chromium")
    assert environment.ensure_chromium(FakeEnvironment())
    monkeypatch.setattr(environment, "find_chromium", lambda: None)
    assert environment.ensure_chromium(FakeEnvironment(can_download=True))


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "another user"])
def test_debians_chromium_is_installed_by_root_alone(monkeypatch, user):
    installed = []
    monkeypatch.setattr(environment.os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: name if name in ("apt-get", *installed) else None)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: installed.append(command[-1]))
    assert environment.ensure_chromium(FakeEnvironment()) is (user == 0)
    assert installed == (["update", "chromium"] if user == 0 else [])


@pytest.mark.parametrize("in_ci", [True, False])
def test_a_run_without_chromium_ends_by_saying_so_and_fails_in_ci(monkeypatch, capsys, in_ci):
    ran = []
    monkeypatch.setattr(suite, "find_environment", lambda *names: FakeEnvironment())
    monkeypatch.setattr(suite, "ensure_chromium", lambda host: False)
    monkeypatch.setattr(suite, "ensure_ray_python", lambda: None)
    monkeypatch.setattr(suite, "run_tests", lambda host, reports, tests: ran.extend(tests) or 0)
    monkeypatch.delenv("CI", raising=False)
    if in_ci:
        monkeypatch.setenv("CI", "true")
    assert dev.test() == int(in_ci)
    assert ran == ["tests"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("[dev] browser tests not run")


def test_where_ends_in_json():
    """With COMFYUI_PATH set; the last line of output is for other programs."""
    variables = {"COMFYUI_PATH": str(COMFYUI), "COMFYUI_PYTHON": sys.executable}
    command = [sys.executable, ROOT / "dev.py", "where"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables})
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "python": sys.executable,
        "comfyui": str(COMFYUI.resolve()),
        "pack": str(ROOT),
    }


def test_no_such_video(checkout):
    assert "nowhere.mp4 does not exist: give the path of a video" in run_failing(
        checkout / "dev.py", "demo", "nowhere.mp4"
    )


def test_a_file_that_is_not_a_video(tmp_path):
    notes = tmp_path / "notes.mp4"
    notes.write_text("not a video\n")
    assert "notes.mp4 cannot be read as a video: give a video file" in run_failing("-m", "tools.demo", notes)


def test_a_video_without_enough_frames(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert "has too few frames (1): give a video with at least 8" in run_failing("-m", "tools.demo", picture)


def test_requirements_agree():
    """ComfyUI Manager reads requirements.txt, the registry pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text()
    for line in (ROOT / "requirements.txt").read_text().split():
        assert f'"{line}"' in project


@pytest.mark.skipif(
    not environment.is_release(COMFYUI, environment.COMFYUI_RELEASE), reason="dev.lock is for another ComfyUI"
)
def test_the_lock_file_pins_every_requirement():
    """Checked for this Python version only; the head of dev.lock says how it is made."""
    required = [Requirement(line) for line in environment.read_development_requirements().values()]
    required += parse_requirements(ROOT / "requirements.txt") + parse_requirements(COMFYUI / "requirements.txt")
    locked = {canonicalize_name(pin.name): pin for pin in parse_requirements(environment.LOCK)}
    for line in required:
        (pin,) = locked[canonicalize_name(line.name)].specifier
        assert pin.operator == "==" and pin.version in line.specifier, line


def parse_requirements(file: Path) -> list[Requirement]:
    """Parse the requirements of a file that apply to this Python and platform."""
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return [line for line in found if line.marker is None or line.marker.evaluate()]

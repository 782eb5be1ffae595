"""The ComfyUI that a batch runs: its folder, its Python, its GPUs, its model folders and packs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .records import BatchError

PACK = Path(__file__).absolute().parents[1]
"""The pack's folder, where links are not followed: a clone may be linked into custom_nodes."""
DEV_COMFYUI, DEV_VENV = PACK / ".host" / "ComfyUI", PACK / ".venv"
"""The ComfyUI that dev.py builds in a clone, and its Python's environment."""

LIST_GPUS_SCRIPT = """
import json, torch
try:
    torch.ones(1, device=torch.accelerator.current_accelerator())
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
except RuntimeError:
    count = 0
print(json.dumps([bool(torch.version.hip), count]))
"""


class Installation(NamedTuple):
    """A ComfyUI, the Python that runs it, and further arguments of its main.py."""

    python: Path
    comfyui: Path
    arguments: list[str]


def find_installation(comfyui: Path | None, python: Path | None, arguments: list[str]) -> Installation:
    """Find the ComfyUI that this pack lies in, or the one that dev.py has built; ``comfyui`` and ``python`` override.

    Raises:
        BatchError: there is none, or an argument would give several workers the same GPU.
    """
    if any(word.startswith("--cuda-device") for word in arguments):
        raise BatchError("--cuda-device would give every worker the same GPU: set CUDA_VISIBLE_DEVICES instead.")
    around = PACK.parents[1]
    found, default_python = comfyui or around, Path(sys.executable)
    if comfyui is None and not _is_comfyui(around) and _is_comfyui(DEV_COMFYUI):
        found, default_python = DEV_COMFYUI, DEV_VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not _is_comfyui(found):
        raise BatchError(
            f"There is no ComfyUI at {found}: give the folder that contains its main.py with --comfyui, and for "
            f'ComfyUI Desktop its folder of models and packs too, at the end: -- --base-directory "{around}".'
        )
    python = (python or default_python).absolute()
    if not python.is_file():
        raise BatchError(f"There is no Python at {python}: name ComfyUI's with --python.")
    return Installation(python, found.absolute(), arguments)


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def list_gpus(python: Path) -> list[dict[str, str]]:
    """List the GPUs that a Python's torch can use, each as the environment variables of a worker that uses only it.

    Raises:
        BatchError: settings for AMD GPUs contradict each other.
    """
    listed = subprocess.run([python, "-c", LIST_GPUS_SCRIPT], capture_output=True, text=True)
    if listed.returncode != 0:
        return []
    is_amd, count = json.loads(listed.stdout.splitlines()[-1])
    # HIP_VISIBLE_DEVICES wins over CUDA_VISIBLE_DEVICES, which AMD's runtime reads too.
    variables = ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"] if is_amd else ["CUDA_VISIBLE_DEVICES"]
    chosen = next(filter(None, map(os.environ.get, variables)), None)
    if is_amd and chosen and not count and (allowed := os.environ.get("ROCR_VISIBLE_DEVICES")):
        raise BatchError(
            f"PyTorch finds no GPU: ROCR_VISIBLE_DEVICES={allowed} hides GPUs and numbers the others from 0, and "
            f"{' or '.join(variables)} selects {chosen} of these. Unset one of them."
        )
    names = chosen.split(",") if chosen and count else [str(index) for index in range(count)]
    return [{variables[0]: name} for name in names]


class ComfyUIFolders(NamedTuple):
    """What `inspect_comfyui.py` prints."""

    files: dict[str, str]
    """Paths of the models (``"checkpoints/name"``) and input files (``"input/name"``) that a workflow names."""
    extra_packs: list[str] | None
    """Folders of custom nodes if none of them contains this pack; None if ComfyUI finds the pack itself."""
    has_converter: bool
    """Whether ComfyUI's Python has comfy-cli, which converts workflows in UI format."""


def inspect_comfyui(installation: Installation, strings: set[str]) -> ComfyUIFolders:
    """Ask ComfyUI's own modules which of the strings name files, and where it looks for packs."""
    script = Path(__file__).with_name("inspect_comfyui.py")
    command = [installation.python, script, installation.comfyui, *installation.arguments]
    found = subprocess.run(command, input=json.dumps(sorted(strings)), capture_output=True, text=True)
    if found.returncode != 0:
        reason = (found.stderr.strip() or "it printed nothing").splitlines()[-1]
        raise BatchError(
            f"{installation.python} cannot read the model folders of {installation.comfyui} ({reason}). Check the "
            "arguments after --, and if this is not ComfyUI's Python, name that with --python."
        )
    folders = json.loads(found.stdout.splitlines()[-1])
    packs = [pack.resolve() for folder in folders["custom_nodes"] for pack in Path(folder).glob("*")]
    extra_packs = None if PACK.resolve() in packs else folders["custom_nodes"]
    return ComfyUIFolders(folders["files"], extra_packs, folders["has_converter"])

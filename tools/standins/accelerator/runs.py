"""The scripts of this folder, each in a process of its own, as a device and the host's flags are for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]


class Run(NamedTuple):
    """What chain.py wrote."""

    results: dict[str, Tensor]
    devices: dict[str, str]
    intermediate: str
    precision: dict[str, str]  # of the models, and of results between nodes
    attention: str
    refusal: str  # of frames that leave float16's range
    left_out: list[str]
    peak: int  # bytes on the accelerator
    patcher: str


def script(name: str, *arguments: str | Path) -> None:
    """Run a module of this folder.

    Raises:
        RuntimeError: it failed, with what it wrote.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"{__package__}.{name}", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")


def chain(folder: Path, *flags: str, nudge: float = 0.0) -> Run:
    """All nodes in a ComfyUI with these flags, `--cpu` for one without the accelerator.

    Args:
        nudge: by which share frames, latents and texts are changed at random before anything is made of them.
    """
    file = folder / "results.safetensors"
    script("chain", file, str(nudge), *flags)
    with safetensors.safe_open(file, "pt") as opened:
        told = {key: json.loads(value) for key, value in opened.metadata().items()}
    return Run(safetensors.torch.load_file(file), **told)


def distances(run: Run, expected: Run) -> dict[str, float]:
    """Relative RMS of each result to what was expected of it."""
    far = {name: result - expected.results[name] for name, result in run.results.items()}
    return {name: (tensor.norm() / expected.results[name].norm()).item() for name, tensor in far.items()}


def kind(name: str) -> str:
    """What was done, or of which family: ``invert`` of ``invert image ddim``, ``wan`` of ``wan: smooth``."""
    return name.split()[0].rstrip(",:")

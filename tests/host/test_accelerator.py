"""The chain on a pretended accelerator (accelerator/): what a GPU refuses, and the CPU of these tests does not.

Every run is a process of its own, as a device and the host's flags are for good.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import comfy.model_patcher
import pytest
import safetensors.torch
import tiny_models as tiny
from accelerator.backend import COMPILER
from analytic import rms
from torch import Tensor

from tools.host import ROOT

pytestmark = pytest.mark.skipif(not COMPILER, reason="no g++ to build the pretended accelerator with")
needs_dynamic_vram = pytest.mark.skipif(
    not hasattr(comfy.model_patcher, "ModelPatcherDynamic"), reason="this ComfyUI has no Dynamic VRAM"
)

WITHOUT_MODELS = {
    "BIVDiffDemoClip",
    "BIVDiffModeList",
    "BIVDiffRatioList",
    "BIVDiffSolverList",
    "BIVDiffVideoModelLoader",
}
"""Nodes that the chain leaves out: lists of words, and a loader of files that are not there."""
PICTURES = {"latent report", "temporal report", "sweep grid", "sweep plot"}
"""Drawn by matplotlib or for it, on the CPU wherever the frames lie."""
TOLERANCE, PICTURES_TOLERANCE = 1e-5, 2e-3
"""Relative RMS against the CPU; measured: 1.8e-6 at most, and 5.1e-4 where a curve moves within a pixel."""


class Run(NamedTuple):
    """What accelerator/chain.py wrote."""

    results: dict[str, Tensor]
    devices: dict[str, str]
    intermediate: str
    left_out: list[str]
    peak: int  # bytes on the accelerator
    patcher: str


def script(name: str, *arguments: str | Path) -> None:
    """Run a module of accelerator/."""
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"accelerator.{name}", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def chain(folder: Path, mode: str) -> Run:
    """All nodes under a flag of the host, or on the CPU."""
    file = folder / f"{mode}.safetensors"
    script("chain", file, mode)
    with safetensors.safe_open(file, "pt") as opened:
        told = {key: json.loads(value) for key, value in opened.metadata().items()}
    return Run(safetensors.torch.load_file(file), **told)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> Run:
    return chain(tmp_path_factory.mktemp("cpu"), "cpu")


@pytest.fixture(scope="module", params=["default", "gpu-only", pytest.param("dynamic-vram", marks=needs_dynamic_vram)])
def run(request, tmp_path_factory) -> Run:
    ran = chain(tmp_path_factory.mktemp("accelerator"), request.param)
    assert ran.patcher == ("ModelPatcherDynamic" if request.param == "dynamic-vram" else "ModelPatcher")
    assert ran.intermediate == ("pretended:0" if request.param == "gpu-only" else "cpu")
    return ran


def test_every_node_gives_what_it_gives_on_the_cpu(run, on_cpu):
    assert run.peak > 5e6 and on_cpu.peak == 0, "the models run on the accelerator"
    assert run.results.keys() == on_cpu.results.keys() and set(run.left_out) == WITHOUT_MODELS
    for name, expected in on_cpu.results.items():
        tolerance = PICTURES_TOLERANCE if name in PICTURES else TOLERANCE
        assert rms(run.results[name] - expected) < tolerance * rms(expected), name


def test_results_lie_where_the_host_keeps_them(run):
    lie = {name: device for name, device in run.devices.items() if name not in PICTURES}
    assert lie == dict.fromkeys(lie, run.intermediate)


def test_memory_of_a_model_that_can_be_unloaded_goes_to_frames(tmp_path):
    """Beside the video model one frame fits; the host unloads a part of it, and no call runs out of memory."""
    script("room", tmp_path / "seen.json")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["loaded before"] == seen["video bytes"] > seen["loaded after"]
    assert seen["frames at once"] == [5, 3] * 3


@tiny.needs_multigpu
def test_two_accelerators_give_what_one_gives(tmp_path):
    """Windows on either, to the bit: whatever goes with a window is on the device that takes it."""
    script("pair", tmp_path / "seen.json")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["devices"] == ["pretended:0", "pretended:1"]
    assert seen["the same"] == dict.fromkeys(seen["the same"], True) != {}


@pytest.fixture(scope="module")
def became(tmp_path_factory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("rules") / "became.json"
    script("rules", file)
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    "attempt",
    [
        "add",
        "add in place",
        "multiply matrices",
        "add another accelerator's",
        "concatenate",
        "convolve",
        "normalize",
        "add a number of the accelerator",
    ],
)
def test_an_operation_on_two_devices_is_refused(became, attempt):
    assert became[attempt].startswith("RuntimeError: Expected all tensors to be on the same device")


def test_the_cpus_data_stays_the_cpus(became):
    assert became["index by the accelerator"].startswith("RuntimeError: indices should be either on cpu or on the same")
    assert became["draw from the CPU's generator"].startswith("RuntimeError: Expected")
    assert became["draw from the accelerator's generator"].startswith("RuntimeError: Expected")


def test_memory_ends(became):
    assert became["allocate past the capacity"].startswith("OutOfMemoryError: ")
    assert became["allocate what was freed"] == "ran"


@pytest.mark.parametrize(
    "attempt", ["add a number of the CPU", "index by the CPU", "copy", "copy from another accelerator"]
)
def test_what_a_gpu_allows_runs(became, attempt):
    assert became[attempt] == "ran"

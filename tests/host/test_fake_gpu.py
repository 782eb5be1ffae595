"""The chain on a pretended accelerator (accelerator/): what a GPU refuses, and the CPU of these tests does not.

Every run is a process of its own, as a device and the host's flags are for good. research/precision.py runs it under
more of them.
"""

import json

import comfy.model_patcher
import pytest
from fixtures import tiny_models as tiny
from fixtures.fake_gpu.comfyui_with_fake_gpu import FP32_FLAGS
from fixtures.fake_gpu.run_scripts import NodeResults, relative_distances, run_all_nodes, run_script
from fixtures.fake_gpu.torch_backend import COMPILER

pytestmark = [
    pytest.mark.floats,
    pytest.mark.skipif(not COMPILER, reason="no g++ to build the pretended accelerator with"),
]
needs_dynamic_vram = pytest.mark.skipif(
    not hasattr(comfy.model_patcher, "ModelPatcherDynamic"), reason="this ComfyUI has no Dynamic VRAM"
)

FULL = {
    "default": (),
    "gpu-only": ("--gpu-only",),
    "dynamic-vram": ("--enable-dynamic-vram",),
    "no-vram": ("--novram", "--use-split-cross-attention", "--deterministic"),
}
"""What makes no difference to float32 but rounding: memory, and the way in which attention is computed."""
HALF = {
    "half": ("--use-pytorch-cross-attention",),
    "float8": ("--fp8_e4m3fn-unet", "--fp16-intermediates"),
}
"""What the host picks on an NVIDIA GPU by itself, and where memory is short."""
STORED = {
    "half": ("--fp16-unet", "--bf16-vae", *HALF["half"]),
    "float8": ("--bf16-vae", *HALF["float8"]),
}
"""By which a CPU has the same weights, and computes what it makes of them in float32."""
PRECISION = {
    "half": {"image": "float16", "video": "float16", "control": "float16", "vae": "bfloat16", "results": "float32"},
    "float8": {
        "image": "float8_e4m3fn as float16",
        "video": "float8_e4m3fn as float16",
        "control": "float8_e4m3fn as float16",
        "vae": "bfloat16",
        "results": "float16",
    },
}

WITHOUT_MODELS = {"BIVDiffDemoClip", "BIVDiffModeList", "BIVDiffRatioList", "BIVDiffSolverList"}
"""Nodes that the chain leaves out: a clip of the toy world, as the chain makes its own, and lists of words."""
PICTURES = {"latent report", "temporal report", "sweep grid", "sweep plot"}
"""Drawn by matplotlib or for it, on the CPU wherever the frames lie."""
TOLERANCE, FAMILIES_TOLERANCE, PICTURES_TOLERANCE = 1e-5, 5e-5, 2e-3
"""Relative RMS against the CPU. Measured at most: 1.8e-6; 1.2e-5 on other families' networks of random weights, which
enlarge what comes in; 5.9e-4 where a curve moves within a pixel."""
NUDGE = 1 / 32
"""In 16 bits no result moves farther than where all that comes in is changed at random by this share.

Eight roundings of bfloat16, the VAE's. Measured: .05 to .4 of that.
"""


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> NodeResults:
    return run_all_nodes(tmp_path_factory.mktemp("cpu"), "--cpu", *FP32_FLAGS)


@pytest.fixture(
    scope="module", params=["default", "gpu-only", pytest.param("dynamic-vram", marks=needs_dynamic_vram), "no-vram"]
)
def run(request, tmp_path_factory) -> NodeResults:
    ran = run_all_nodes(tmp_path_factory.mktemp("accelerator"), *FULL[request.param], *FP32_FLAGS)
    assert ran.patcher == ("ModelPatcherDynamic" if request.param == "dynamic-vram" else "ModelPatcher")
    assert ran.attention == ("attention_split" if request.param == "no-vram" else "attention_sub_quad")
    assert ran.intermediate == ("pretended:0" if request.param == "gpu-only" else "cpu")
    assert set(ran.precision.values()) == {"float32"}
    return ran


@pytest.fixture(scope="module", params=HALF)
def half(request, tmp_path_factory) -> tuple[str, NodeResults]:
    ran = run_all_nodes(tmp_path_factory.mktemp("accelerator"), *HALF[request.param])
    assert ran.precision == PRECISION[request.param]
    return request.param, ran


@pytest.fixture(scope="module")
def nudged(tmp_path_factory) -> NodeResults:
    return run_all_nodes(tmp_path_factory.mktemp("nudged"), "--cpu", *FP32_FLAGS, nudge=NUDGE)


def test_every_node_gives_what_it_gives_on_the_cpu(run, on_cpu):
    assert run.peak > 5e6 and on_cpu.peak == 0, "the models run on the accelerator"
    lazy = run.patcher == "ModelPatcherDynamic"  # no weights without a file: only the demo models run
    assert run.results.keys() == {name for name in on_cpu.results if not (lazy and ":" in name)}
    assert set(run.left_out) == WITHOUT_MODELS | ({"BIVDiffVideoModelLoader"} if lazy else set())
    for name, distance in relative_distances(run, on_cpu).items():
        of_family = FAMILIES_TOLERANCE if ":" in name else TOLERANCE
        assert distance < (PICTURES_TOLERANCE if name in PICTURES else of_family), name


def test_results_lie_where_the_host_keeps_them(run):
    lie = {name: device for name, device in run.devices.items() if name not in PICTURES}
    assert lie == dict.fromkeys(lie, run.intermediate)


def test_16_bits_change_less_than_a_nudge_of_what_comes_in(half, on_cpu, nudged, tmp_path):
    """How far rounding carries is the networks' own, and told by the same ones on the same machine."""
    mode, run = half
    stored = run_all_nodes(tmp_path, "--cpu", *STORED[mode])
    bounds = relative_distances(nudged, on_cpu)
    found = {name: distance for name, distance in relative_distances(run, stored).items() if name not in PICTURES}
    assert found.keys() == on_cpu.results.keys() - PICTURES
    assert not {name: (distance, bounds[name]) for name, distance in found.items() if not distance < bounds[name]}


def test_what_leaves_float16_is_refused(half, on_cpu):
    """Infinities stop the node, and what comes of them; in float32 the same frames are large numbers."""
    _, run = half
    assert run.refusal.startswith("DDIM Inverse (Image): frame 0 is not finite at step 1")
    assert on_cpu.refusal == ""


def test_memory_of_a_model_that_can_be_unloaded_goes_to_frames(tmp_path):
    """Beside the video model one frame fits; the host unloads a part of it, and no call runs out of memory."""
    run_script("low_memory", tmp_path / "seen.json")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["loaded before"] == seen["video bytes"] > seen["loaded after"]
    assert seen["frames at once"] == [5, 3] * 3


@tiny.needs_multigpu
def test_two_accelerators_give_what_one_gives(tmp_path):
    """Windows on either, to the bit: whatever goes with a window is on the device that takes it."""
    run_script("two_gpus", tmp_path / "seen.json")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["devices"] == ["pretended:0", "pretended:1"]
    assert seen["the same"] == dict.fromkeys(seen["the same"], True) != {}


@pytest.fixture(scope="module")
def became(tmp_path_factory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("rules") / "became.json"
    run_script("device_rules", file)
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

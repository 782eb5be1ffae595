"""All nodes on a fake GPU (fixtures/fake_gpu), which rejects what a GPU rejects and a CPU allows.

Every run is a separate process, because a process cannot change its device or ComfyUI's flags. research/precision.py
runs the nodes with more flags.
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
    pytest.mark.skipif(not COMPILER, reason="no g++ to compile the fake GPU"),
]
needs_dynamic_vram = pytest.mark.skipif(
    not hasattr(comfy.model_patcher, "ModelPatcherDynamic"), reason="this ComfyUI has no Dynamic VRAM"
)

FLOAT32_MODES = {
    "default": (),
    "gpu-only": ("--gpu-only",),
    "dynamic-vram": ("--enable-dynamic-vram",),
    "no-vram": ("--novram", "--use-split-cross-attention", "--deterministic"),
}
"""Flags for memory and attention, which in float32 change the results only by rounding."""
HALF_MODES = {
    "half": ("--use-pytorch-cross-attention",),
    "float8": ("--fp8_e4m3fn-unet", "--fp16-intermediates"),
}
"""ComfyUI's choice on an NVIDIA GPU by default, and a choice for little memory."""
CPU_MODES = {
    "half": ("--fp16-unet", "--bf16-vae", *HALF_MODES["half"]),
    "float8": ("--bf16-vae", *HALF_MODES["float8"]),
}
"""Flags with which the CPU has the same weights, but computes in float32."""
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
"""Nodes that all_nodes.py does not run: it generates its clip itself, and lists of words do not use a device."""
PLOTS = {"latent report", "temporal report", "sweep grid", "sweep plot"}
"""Results of matplotlib, or for it, which are on the CPU in every mode."""
TOLERANCE, FAMILIES_TOLERANCE, PLOTS_TOLERANCE = 1e-5, 5e-5, 2e-3
"""Relative RMS against the CPU. Measured maxima: 1.8e-6; 1.2e-5 for other families' networks with random weights, which
amplify differences; 5.9e-4 where a curve moves within a pixel."""
NUDGE = 1 / 32
"""Relative size of a random change to all inputs, which bounds the effect of 16-bit precision on every result.

It equals eight roundings of bfloat16, the VAE's precision. Measured: .05 to .4 of the bound.
"""


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory) -> NodeResults:
    return run_all_nodes(tmp_path_factory.mktemp("cpu"), "--cpu", *FP32_FLAGS)


@pytest.fixture(
    scope="module", params=["default", "gpu-only", pytest.param("dynamic-vram", marks=needs_dynamic_vram), "no-vram"]
)
def run(request, tmp_path_factory) -> NodeResults:
    results = run_all_nodes(tmp_path_factory.mktemp("gpu"), *FLOAT32_MODES[request.param], *FP32_FLAGS)
    assert results.patcher == ("ModelPatcherDynamic" if request.param == "dynamic-vram" else "ModelPatcher")
    assert results.attention == ("attention_split" if request.param == "no-vram" else "attention_sub_quad")
    assert results.intermediate == ("fake:0" if request.param == "gpu-only" else "cpu")
    assert set(results.precision.values()) == {"float32"}
    return results


@pytest.fixture(scope="module", params=HALF_MODES)
def half(request, tmp_path_factory) -> tuple[str, NodeResults]:
    results = run_all_nodes(tmp_path_factory.mktemp("gpu"), *HALF_MODES[request.param])
    assert results.precision == PRECISION[request.param]
    return request.param, results


@pytest.fixture(scope="module")
def nudged(tmp_path_factory) -> NodeResults:
    return run_all_nodes(tmp_path_factory.mktemp("nudged"), "--cpu", *FP32_FLAGS, nudge=NUDGE)


def test_every_node_gives_what_it_gives_on_the_cpu(run, on_cpu):
    assert run.peak > 5e6 and on_cpu.peak == 0, "the models did not run on the fake GPU"
    lazy = run.patcher == "ModelPatcherDynamic"  # layers have no weights without a file, so only the demo models run
    assert run.results.keys() == {name for name in on_cpu.results if not (lazy and ":" in name)}
    assert set(run.left_out) == WITHOUT_MODELS | ({"BIVDiffVideoModelLoader"} if lazy else set())
    for name, distance in relative_distances(run, on_cpu).items():
        family_tolerance = FAMILIES_TOLERANCE if ":" in name else TOLERANCE
        assert distance < (PLOTS_TOLERANCE if name in PLOTS else family_tolerance), name


def test_results_are_on_the_intermediate_device(run):
    devices = {name: device for name, device in run.devices.items() if name not in PLOTS}
    assert devices == dict.fromkeys(devices, run.intermediate)


def test_16_bits_change_less_than_a_nudge_of_the_inputs(half, on_cpu, nudged, tmp_path):
    """The effect of rounding depends on the networks, so the bound is measured with the same ones."""
    mode, run = half
    expected = run_all_nodes(tmp_path, "--cpu", *CPU_MODES[mode])
    bounds = relative_distances(nudged, on_cpu)
    found = {name: distance for name, distance in relative_distances(run, expected).items() if name not in PLOTS}
    assert found.keys() == on_cpu.results.keys() - PLOTS
    assert not {name: (distance, bounds[name]) for name, distance in found.items() if not distance < bounds[name]}


def test_values_beyond_float16_are_rejected(half, on_cpu):
    """Infinite values stop the node with an error; in float32 the same frames are finite."""
    _, run = half
    assert run.error_message.startswith("DDIM Inverse (Image): frame 0 is not finite at step 1")
    assert on_cpu.error_message == ""


def test_an_unloadable_models_memory_is_used_for_frames(tmp_path):
    """One frame fits beside the loaded video model. ComfyUI unloads a part of it, and no call runs out of memory."""
    run_script("low_memory", tmp_path / "measured.json")
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["loaded before"] == measured["video bytes"] > measured["loaded after"]
    assert measured["frames at once"] == [5, 3] * 3


@tiny.needs_multigpu
def test_two_gpus_give_what_one_gives(tmp_path):
    """Results are bit-equal: all inputs of a window are on the device that computes it."""
    run_script("two_gpus", tmp_path / "measured.json")
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured["devices"] == ["fake:0", "fake:1"]
    assert measured["the same"] == dict.fromkeys(measured["the same"], True) != {}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("rules") / "outcomes.json"
    run_script("device_rules", file)
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    "attempt",
    [
        "add",
        "add in place",
        "multiply matrices",
        "add another GPU's tensor",
        "concatenate",
        "convolve",
        "normalize",
        "add a 0-dim tensor of the GPU",
    ],
)
def test_an_operation_on_two_devices_is_rejected(outcomes, attempt):
    assert outcomes[attempt].startswith("RuntimeError: Expected all tensors to be on the same device")


def test_indices_and_generators_must_match_the_device(outcomes):
    assert outcomes["index with a tensor of the GPU"].startswith(
        "RuntimeError: indices should be either on cpu or on the same"
    )
    assert outcomes["sample on the GPU with the CPU's generator"].startswith("RuntimeError: Expected")
    assert outcomes["sample on the CPU with the GPU's generator"].startswith("RuntimeError: Expected")


def test_memory_is_limited(outcomes):
    assert outcomes["allocate past the capacity"].startswith("OutOfMemoryError: ")
    assert outcomes["allocate freed memory"] == "ran"


@pytest.mark.parametrize(
    "attempt", ["add a 0-dim tensor of the CPU", "index with a tensor of the CPU", "copy", "copy from another GPU"]
)
def test_operations_that_a_gpu_allows_run(outcomes, attempt):
    assert outcomes[attempt] == "ran"

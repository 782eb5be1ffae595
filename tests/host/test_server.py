"""The pack in a running ComfyUI server: start-up, shipped workflows, skipped branches, and interrupts."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image
from torchvision.transforms.functional import to_tensor

from research import toy_world
from tools.demo import WORKFLOW
from tools.video_files import read_frames

ROOT = Path(__file__).resolve().parents[2]
CHAIN = ("BIVDiffFrameSampler", "BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffTemporalSmoother")


def find_node_by_class(prompt: dict, class_type: str) -> str:
    """The id of the node of a class."""
    (found,) = (key for key, node in prompt.items() if node["class_type"] == class_type)
    return found


def load_prompt(server, workflow: Path) -> dict:
    """The prompt that the frontend would queue for a shipped workflow."""
    return convert_ui_to_api(json.loads(workflow.read_text(encoding="utf-8")), server.object_info())


@pytest.fixture
def demo(server) -> dict:
    """The demo workflow with few steps."""
    prompt = load_prompt(server, WORKFLOW)
    for class_type in CHAIN:
        prompt[find_node_by_class(prompt, class_type)]["inputs"]["steps"] = 3
    return prompt


def test_start_up_does_not_import_heavy_libraries():
    load = """
from tools.in_process_comfyui import use_comfyui
use_comfyui(cpu=True)
import asyncio, nodes, sys
assert asyncio.run(nodes.load_custom_node("."))
assert not {"diffusers", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", load], cwd=ROOT, check=True)


def test_every_save_and_preview_of_the_demo_workflow_leaves_files(server):
    prompt = load_prompt(server, WORKFLOW)
    run = server.run(prompt)
    assert not run.error
    schemas = server.object_info()
    for key, node in prompt.items():
        if schemas[node["class_type"]]["output_node"] and node["class_type"] != "GetImageSize":
            files = server.output_files(run.outputs[key])
            assert files and all(file.stat().st_size for file in files)


def test_the_demo_workflow_makes_a_video(server):
    prompt = load_prompt(server, WORKFLOW)
    prompt[find_node_by_class(prompt, "BIVDiffFrameSampler")]["inputs"]["seed"] = 1
    run = server.run(prompt)
    clip = toy_world.packaged_clip()

    source, control = read_frames(server, run, prompt, "Source"), read_frames(server, run, prompt, "Control")
    framewise, smoothed = read_frames(server, run, prompt, "Frame-wise"), read_frames(server, run, prompt, "Smoothed")
    assert source.shape == control.shape == framewise.shape == smoothed.shape == clip.frames.shape
    assert (source - clip.frames).abs().mean() < 0.01, (
        "the packaged clip differs from the toy world's by more than H.264's loss"
    )
    assert set(control.unique().tolist()) == {0.0, 1.0}
    assert (framewise - smoothed).abs().mean() > 0.001

    (video,) = server.output_files(run.outputs[find_node_by_class(prompt, "SaveVideo")])
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert len(list(container.decode(video=0))) == toy_world.FRAMES


@pytest.mark.parametrize(("ratio", "unused"), [(1.0, "BIVDiffInvertVideo"), (0.0, "BIVDiffInvertImage")])
def test_a_branch_without_weight_is_never_executed(server, demo, ratio, unused):
    demo[find_node_by_class(demo, "BIVDiffFrameSampler")]["inputs"]["seed"] = 2 + int(
        ratio
    )  # so that nothing is cached
    demo[find_node_by_class(demo, "BIVDiffMixedInversion")]["inputs"]["mixing_ratio"] = ratio
    run = server.run(demo)
    assert not run.error
    inversions = {find_node_by_class(demo, name) for name in ("BIVDiffInvertImage", "BIVDiffInvertVideo")}
    assert inversions & set(run.executed) == inversions - {find_node_by_class(demo, unused)}
    assert run.executed.count(find_node_by_class(demo, "BIVDiffTemporalSmoother")) == 1


def test_a_report_on_a_branch_without_weight_executes_it(server, demo):
    """As its tooltip says, it always runs, with the nodes before it."""
    demo[find_node_by_class(demo, "BIVDiffFrameSampler")]["inputs"]["seed"] = 4
    demo[find_node_by_class(demo, "BIVDiffMixedInversion")]["inputs"]["mixing_ratio"] = 1.0
    video = find_node_by_class(demo, "BIVDiffInvertVideo")
    demo["report"] = {"class_type": "BIVDiffLatentReport", "inputs": {"latent": [video, 0]}}
    run = server.run(demo)
    assert not run.error
    assert {video, "report"} <= set(run.executed)
    (plot,) = server.output_files(run.outputs["report"])
    assert plot.stat().st_size and run.outputs["report"]["words"]


def test_another_weight_of_the_borrowed_control_runs_only_the_smoothing(server, demo):
    demo[find_node_by_class(demo, "BIVDiffFrameSampler")]["inputs"]["seed"] = 11
    demo[find_node_by_class(demo, "BIVDiffMixedInversion")]["inputs"]["mixing_ratio"] = 0.5  # both branches run
    first = server.run(demo)
    demo[find_node_by_class(demo, "BIVDiffBorrowControl")]["inputs"]["weight"] = 2.0
    again = server.run(demo)
    assert not first.error and not again.error
    chain = {key for key, node in demo.items() if node["class_type"] in CHAIN}
    assert chain <= set(first.executed)
    assert chain & set(again.executed) == {find_node_by_class(demo, "BIVDiffTemporalSmoother")}
    before, after = (read_frames(server, run, demo, "Smoothed") for run in (first, again))
    assert (after - before).abs().mean() > 1e-4


def test_a_list_of_single_frames_becomes_a_batch(server):
    """Rebatch Images makes the list, and Batch Conditioning joins what a node makes of each frame."""
    texts = {"positive": ["text", 0], "negative": ["text", 0], "vae": ["models", 3]}
    sampling = {"seed": 1, "steps": 3, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}
    chunks = {"frame_noise": "progressive", "frames_per_batch": 3, "latent_image": ["all", 2], "model": ["models", 0]}
    nodes = {
        "models": ("BIVDiffDemoModels", {"variant": "instruct_pix2pix"}),
        "text": ("CLIPTextEncode", {"clip": ["models", 2], "text": "a red fish"}),
        "video": ("BIVDiffDemoClip", {"frames": 8}),
        "components": ("GetVideoComponents", {"video": ["video", 0]}),
        "frames": ("ImageFromBatch", {"image": ["components", 0], "batch_index": 0, "length": 4}),
        "all": ("InstructPixToPixConditioning", {"pixels": ["frames", 0], **texts}),
        "list": ("RebatchImages", {"images": ["frames", 0], "batch_size": 1}),
        "each": ("InstructPixToPixConditioning", {"pixels": ["list", 0], **texts}),
        "positive": ("BIVDiffBatchConditioning", {"conditioning": ["each", 0]}),
        "negative": ("BIVDiffBatchConditioning", {"conditioning": ["each", 1]}),
    }
    for name, positive, negative in (("whole", ["all", 0], ["all", 1]), ("joined", ["positive", 0], ["negative", 0])):
        sampler = {"positive": positive, "negative": negative, **sampling, **chunks}
        nodes[name] = ("BIVDiffFrameSampler", sampler)
        nodes[f"{name} decoded"] = ("VAEDecode", {"vae": ["models", 3], "samples": [name, 0]})
        nodes[f"{name} saved"] = ("PreviewImage", {"images": [f"{name} decoded", 0]})
    run = server.run({key: {"class_type": node, "inputs": inputs} for key, (node, inputs) in nodes.items()})
    assert not run.error
    whole, joined = (
        [to_tensor(Image.open(file)) for file in server.output_files(run.outputs[f"{name} saved"])]
        for name in ("whole", "joined")
    )
    assert len(whole) == len(joined) == 4
    assert (torch.stack(whole) - torch.stack(joined)).abs().max() < 1.5 / 255  # rounding to 8 bits
    assert (whole[0] - whole[3]).abs().mean() > 0.01


@pytest.mark.parametrize("class_type", CHAIN)
def test_an_interrupt_ends_a_run_within_one_model_call(server, demo, class_type):
    demo[find_node_by_class(demo, "BIVDiffMixedInversion")]["inputs"]["mixing_ratio"] = 0.5  # both branches run
    long = copy.deepcopy(demo)
    # Calls slow enough that the interrupt arrives before the next one.
    for node, number in (("BIVDiffDemoClip", "frames"), ("BIVDiffSelectFrames", "count")):
        long[find_node_by_class(long, node)]["inputs"][number] = 64
    interrupted = find_node_by_class(long, class_type)
    long[interrupted]["inputs"]["steps"] = 300
    steps_done = []

    def watch(event, content):
        if event == "progress" and content["node"] == interrupted:
            steps_done.append(content["value"])
            if len(steps_done) == 2:
                server.interrupt()

    run = server.run(long, watch)
    assert run.interrupted
    assert len(steps_done) <= 3

    demo[find_node_by_class(demo, "BIVDiffFrameSampler")]["inputs"]["seed"] = 4 + CHAIN.index(class_type)
    after = server.run(demo)
    assert not after.error and not after.interrupted
    assert interrupted in after.executed

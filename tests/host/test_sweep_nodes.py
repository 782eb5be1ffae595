"""Sweeps in a running server, over ratios, modes or solvers: nodes that do not depend on them run once.

Also an alarm that stops a graph.
"""

from collections import Counter
from itertools import combinations

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from batch.comfyui_server import ServerError
from bivdiff_core.blend import MODES
from bivdiff_core.solvers import SOLVERS

STEPS = {"steps": 2, "scheduler": "karras", "strength": 1.0, "grid": "matched"}
INVERSION_INPUTS = {"conditioning": ["text", 0], "latent": ["frames", 0], "solver": "ddim", **STEPS}
NO_WINDOWS = {"context_length": 0, "context_overlap": 0}
LISTS = {"mode": ("BIVDiffModeList", ["blend"]), "solver": ("BIVDiffSolverList", ["image", "video"])}
"""The list node for a control, and the nodes of the prompt that have the control."""


@pytest.fixture
def prompt() -> dict:
    """The chain on the demo models, without ControlNet: three ratios, a grid of their videos, and its plot."""
    nodes = {
        "models": ("BIVDiffDemoModels", {"variant": "base"}),
        "text": ("CLIPTextEncode", {"clip": ["models", 2], "text": "a red fish over a cyan sea"}),
        "empty": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 4}),
        "frames": (
            "BIVDiffFrameSampler",
            {
                "model": ["models", 0],
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["empty", 0],
                "seed": 11,
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "ddim",
                "scheduler": "ddim_uniform",
                "denoise": 1.0,
                "frame_noise": "independent",
                "frames_per_batch": 0,
            },
        ),
        "image": ("BIVDiffInvertImage", {"model": ["models", 0], "frames_per_batch": 0, **INVERSION_INPUTS}),
        "video": ("BIVDiffInvertVideo", {"model": ["models", 1], **INVERSION_INPUTS, **NO_WINDOWS}),
        "ratios": ("BIVDiffRatioList", {"ratios": "0.25, 0.5, 0.75"}),
        "blend": (
            "BIVDiffMixedInversion",
            {
                "image_latent": ["image", 0],
                "video_latent": ["video", 0],
                "task": "custom",
                "mixing_ratio": ["ratios", 0],
                "mode": "frequency",
            },
        ),
        "smoother": (
            "BIVDiffTemporalSmoother",
            {
                "model": ["models", 1],
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent": ["blend", 0],
                "cfg": 1.0,
                "sampler_name": "ddim",
                **STEPS,
                **NO_WINDOWS,
            },
        ),
        "decode": ("VAEDecode", {"vae": ["models", 3], "samples": ["smoother", 0]}),
        "grid": ("BIVDiffSweepGrid", {"images": ["decode", 0], "ratios": ["blend", 1]}),
        "save": ("PreviewImage", {"images": ["grid", 0]}),
        "plot": ("PreviewImage", {"images": ["grid", 1]}),
    }
    return {key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in nodes.items()}


def run(server, prompt: dict) -> tuple[list[str], Counter, dict[str, list[Image.Image]]]:
    """Run a prompt; return the executed nodes, the sampling steps of each node, and the saved images."""
    steps = Counter()

    def watch(event: str, content: dict) -> None:
        if event == "progress":
            steps[content["node"]] += 1

    result = server.run(prompt, watch)
    assert not result.error
    images = {key: [Image.open(file) for file in server.output_files(output)] for key, output in result.outputs.items()}
    return result.executed, steps, images


def test_a_sweep_inverts_once_and_smooths_every_ratio(server, prompt):
    executed, steps, images = run(server, prompt)
    # The demo models may still be in the server's cache from another test.
    assert {*executed, "models"} == set(prompt) and executed.count("image") == executed.count("video") == 1
    assert steps["smoother"] == 3 * steps["image"] == 3 * steps["video"] > 0
    assert len(images["save"]) == 4 and len(images["plot"]) == 1
    cells = torch.stack([to_tensor(image) for image in images["save"]])
    assert cells.shape[3] == 2 * 192
    first, second = cells[..., -192:, :192], cells[..., -192:, 192:]
    assert (first - second).abs().mean() > 0.01  # the third ratio, and an empty cell

    prompt["ratios"]["inputs"]["ratios"] = "0.25, 0.6"
    again, steps, _ = run(server, prompt)
    assert not {"frames", "image", "video"} & set(again)
    assert {"ratios", "blend", "smoother", "decode", "grid"} <= set(again)


def sweep(prompt: dict, control: str, text: str) -> None:
    """Replace the list of ratios by a list of words, linked to a control and to the grid's labels."""
    class_type, wired = LISTS[control]
    prompt["words"] = {"class_type": class_type, "inputs": {f"{control}s": text}}
    for key in wired:
        prompt[key]["inputs"][control] = ["words", 0]
    prompt["blend"]["inputs"]["mixing_ratio"] = 0.5
    prompt["grid"]["inputs"]["labels"] = ["words", 0]
    del prompt["ratios"], prompt["grid"]["inputs"]["ratios"]


@pytest.mark.parametrize(
    ("control", "words", "once", "each"),
    [
        ("mode", list(MODES), {"frames", "image", "video"}, {"smoother"}),
        ("solver", list(SOLVERS), {"frames"}, {"image", "video", "smoother"}),
    ],
)
def test_a_sweep_over_words_repeats_only_nodes_that_depend_on_them(server, prompt, control, words, once, each):
    sweep(prompt, control, ", ".join(words))
    prompt["frames"]["inputs"]["seed"] = 12 + len(control)  # so that nothing is cached
    executed, steps, images = run(server, prompt)
    assert {*executed, "models", "text", "empty"} == set(prompt)
    counted = {key: steps[key] / STEPS["steps"] for key in once | each}
    assert counted == dict.fromkeys(once, 1) | dict.fromkeys(each, len(words))
    cells = torch.stack([to_tensor(image) for image in images["save"]])
    assert cells.shape[2:] == (2 * 216, 2 * 192) and len(images["plot"]) == 1
    corners = [(y, x) for y in (0, 216) for x in (0, 192)]
    videos = [cells[..., y + 24 : y + 216, x : x + 192] for y, x in corners]
    captions = [cells[0, :, y : y + 24, x : x + 192] for y, x in corners]
    assert all((video - videos[0]).abs().max() > 0.01 for video in videos[1:])
    assert not any(torch.equal(a, b) for a, b in combinations(captions, 2))

    prompt["words"]["inputs"][f"{control}s"] = ", ".join(words[1:])
    again, _, _ = run(server, prompt)
    assert not once & set(again)
    assert {"words", *each, "blend", "decode", "grid"} <= set(again)


def test_an_invalid_ratio_stops_the_graph_before_it_starts(server, prompt):
    prompt["ratios"]["inputs"]["ratios"] = "0.25, 2"
    with pytest.raises(ServerError, match="2 must lie between 0"):
        server.run(prompt)


@pytest.mark.parametrize(
    ("control", "text", "message"),
    [
        ("mode", "linear, slurp", "Blend Mode List: 'slurp' is not one of linear"),
        ("solver", "ddim linear", "Solver List: 'linear' is not one of ddim"),
    ],
)
def test_an_invalid_word_stops_the_graph_before_it_starts(server, prompt, control, text, message):
    sweep(prompt, control, text)
    with pytest.raises(ServerError, match=message):
        server.run(prompt)


@pytest.mark.parametrize(
    ("control", "node", "wrong_control", "message", "not_executed"),
    [
        ("mode", "image", "solver", "DDIM Inverse (Image): solver linear is not one of auto, ddim", {"smoother"}),
        ("solver", "blend", "mode", "Mixed Inversion Blend: mode ddim is not one of linear", {"image", "video"}),
    ],
)
def test_a_list_at_the_wrong_control_is_rejected_before_sampling(
    server, prompt, control, node, wrong_control, message, not_executed
):
    sweep(prompt, control, {"mode": "linear", "solver": "ddim"}[control])
    prompt[node]["inputs"][wrong_control] = ["words", 0]
    prompt["frames"]["inputs"]["seed"] = 20 + len(control)  # so that nothing is cached
    result = server.run(prompt)
    assert result.error.startswith(message)
    assert not not_executed & set(result.executed)


@pytest.mark.parametrize("latent", ["image", "broken"])
def test_the_alarm_stops_the_smoother(server, prompt, latent):
    """A frame that is nearly empty raises the alarm; an inversion of few steps alone does not."""
    for key in ("ratios", "blend", "video", "grid", "save", "plot"):
        del prompt[key]
    prompt["smoother"]["inputs"]["latent"] = [latent, 0]
    first = {"samples": ["image", 0], "batch_index": 0, "length": 1}
    prompt |= {
        "first": {"class_type": "LatentFromBatch", "inputs": first},
        "weak": {"class_type": "LatentMultiply", "inputs": {"samples": ["first", 0], "multiplier": 0.1}},
        "broken": {"class_type": "LatentBatch", "inputs": {"samples1": ["image", 0], "samples2": ["weak", 0]}},
        "report": {"class_type": "BIVDiffLatentReport", "inputs": {"latent": [latent, 0]}},
        "switch": {
            "class_type": "ComfySwitchNode",
            "inputs": {"switch": ["report", 2], "on_false": ["smoother", 0], "on_true": ["frames", 0]},
        },
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    prompt["decode"]["inputs"]["samples"] = ["switch", 0]
    executed, _, _ = run(server, prompt)
    assert ("smoother" in executed) == (latent == "image")

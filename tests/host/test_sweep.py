"""A sweep in a running server: every ratio out of one graph, the inversions once, and an alarm that stops a graph."""

from collections import Counter

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

STEPS = {"steps": 2, "scheduler": "ddim_uniform", "strength": 1.0, "grid": "matched"}
SOLVED = {"conditioning": ["text", 0], "latent": ["frames", 0], "solver": "ddim", **STEPS}
WHOLE = {"context_length": 0, "context_overlap": 0}


@pytest.fixture
def prompt() -> dict:
    """The chain on the demo models, without ControlNet: three ratios, a grid of what comes of them, and its plot."""
    nodes = {
        "models": ("BIVDiffDemoModels", {"variant": "base"}),
        "text": ("CLIPTextEncode", {"clip": ["models", 2], "text": "a red star on a cyan background"}),
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
        "image": ("BIVDiffInvertImage", {"model": ["models", 0], "frames_per_batch": 0, **SOLVED}),
        "video": ("BIVDiffInvertVideo", {"model": ["models", 1], **SOLVED, **WHOLE}),
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
                **WHOLE,
            },
        ),
        "decode": ("VAEDecode", {"vae": ["models", 3], "samples": ["smoother", 0]}),
        "grid": ("BIVDiffSweepGrid", {"images": ["decode", 0], "ratios": ["blend", 1]}),
        "save": ("PreviewImage", {"images": ["grid", 0]}),
        "plot": ("PreviewImage", {"images": ["grid", 1]}),
    }
    return {key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in nodes.items()}


def run(server, prompt: dict) -> tuple[list[str], Counter, dict[str, list[Image.Image]]]:
    """The nodes that were executed, the sampling steps each did, and the pictures that came out."""
    steps = Counter()

    def watch(event: str, content: dict) -> None:
        if event == "progress":
            steps[content["node"]] += 1

    done = server.run(prompt, watch)
    assert not done.error
    pictures = {key: [Image.open(file) for file in server.files(output)] for key, output in done.outputs.items()}
    return done.executed, steps, pictures


def test_a_sweep_inverts_once_and_smooths_every_ratio(server, prompt):
    executed, steps, pictures = run(server, prompt)
    # The demo models may still be in the server's cache from another test.
    assert {*executed, "models"} == set(prompt) and executed.count("image") == executed.count("video") == 1
    assert steps["smoother"] == 3 * steps["image"] == 3 * steps["video"] > 0
    assert len(pictures["save"]) == 4 and len(pictures["plot"]) == 1
    cells = torch.stack([to_tensor(picture) for picture in pictures["save"]])
    assert cells.shape[3] == 2 * 192
    first, second = cells[..., -192:, :192], cells[..., -192:, 192:]
    assert (first - second).abs().mean() > 0.01  # the third ratio, and an empty cell

    prompt["ratios"]["inputs"]["ratios"] = "0.25, 0.6"
    again, steps, _ = run(server, prompt)
    assert not {"frames", "image", "video"} & set(again)
    assert {"ratios", "blend", "smoother", "decode", "grid"} <= set(again)


def test_a_ratio_that_is_none_stops_the_graph_before_it_starts(server, prompt):
    from tools.server import ServerError

    prompt["ratios"]["inputs"]["ratios"] = "0.25, 2"
    with pytest.raises(ServerError, match="2 must lie between 0"):
        server.run(prompt)


@pytest.mark.parametrize(("strength", "smoothed"), [(0.5, True), (1.0, False)])
def test_the_alarm_keeps_the_smoother_from_running(server, prompt, strength, smoothed):
    """Two steps all the way to noise are far too few; half-way the frames are meant to show, and all is well."""
    for key in ("ratios", "blend", "video", "grid", "save", "plot"):
        del prompt[key]
    prompt["image"]["inputs"]["strength"] = prompt["smoother"]["inputs"]["strength"] = strength
    prompt["smoother"]["inputs"]["latent"] = ["image", 0]
    prompt |= {
        "report": {"class_type": "BIVDiffLatentReport", "inputs": {"latent": ["image", 0]}},
        "switch": {
            "class_type": "ComfySwitchNode",
            "inputs": {"switch": ["report", 2], "on_false": ["smoother", 0], "on_true": ["frames", 0]},
        },
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    prompt["decode"]["inputs"]["samples"] = ["switch", 0]
    executed, _, _ = run(server, prompt)
    assert ("smoother" in executed) == smoothed

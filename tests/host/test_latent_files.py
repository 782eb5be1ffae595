"""Inverted latents on disk: their description is saved; files of core lack it and need the strength."""

import asyncio
import json
import math
import os
import shutil

import folder_paths
import pytest
import safetensors
import torch
from fixtures import tiny_models as tiny

from bivdiff_core.grids import sd_sigma

FRAMES = 3


@pytest.fixture(scope="module")
def video(pack):
    return tiny.video_model(pack)


@pytest.fixture(scope="module")
def halfway(pack, video) -> dict:
    """A latent inverted to strength .5, with a mask and a batch_index."""
    latent = {**tiny.make_latent(FRAMES, 4, 8, 8), "noise_mask": torch.rand(FRAMES, 64, 64), "batch_index": [4, 5, 6]}
    inputs = {"model": video, "conditioning": tiny.text(), "latent": latent, "steps": 4, "strength": 0.5}
    return pack.run("BIVDiffInvertVideo", **inputs)[0]


def list_choices(pack) -> set[str]:
    """The choices of Load Inverted Latent."""
    return set(pack.classes["BIVDiffLoadLatent"].INPUT_TYPES()["required"]["latent"][1]["options"])


def save(pack, latent: dict, by_core: bool = False) -> str:
    """Save a latent and return its name in Load Inverted Latent."""
    before = list_choices(pack)
    if by_core:
        pack.classes["SaveLatent"]().save(latent, "latents/test")
    else:
        pack.run("BIVDiffSaveLatent", latent=latent, filename_prefix="latents/test")
    (name,) = list_choices(pack) - before
    return name


def load(pack, name: str):
    node = pack.classes["BIVDiffLoadLatent"]
    assert node.validate_inputs(name) is True
    return node.execute(latent=name)


def smooth(pack, video, latent: dict, **settings) -> torch.Tensor:
    text = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2)}
    inputs = {"model": video, "latent": latent, "steps": 4, **text, **settings}
    return pack.run("BIVDiffTemporalSmoother", **inputs)[0]["samples"]


def test_all_entries_are_restored(pack, video, halfway):
    loaded = load(pack, save(pack, halfway))
    (latent,) = loaded.args
    assert latent.keys() == halfway.keys()
    for key in ("samples", "noise_mask"):
        assert torch.equal(latent[key], halfway[key])
    assert latent["bivdiff"] == halfway["bivdiff"] and latent["batch_index"] == halfway["batch_index"]
    assert not loaded.ui
    assert torch.equal(smooth(pack, video, latent), smooth(pack, video, halfway))


def test_saving_returns_the_latent_and_numbers_the_files(pack, halfway):
    node = pack.classes["BIVDiffSaveLatent"]
    outputs = [node.execute(latent=halfway, filename_prefix="latents/numbered") for _ in range(2)]
    assert all(output.args[0] is halfway for output in outputs)
    names = [output.ui["latents"][0]["filename"] for output in outputs]
    assert names == ["numbered_00001_.latent", "numbered_00002_.latent"]
    folder = os.path.join(folder_paths.get_output_directory(), "latents")
    assert not [name for name in os.listdir(folder) if not name.endswith(".latent")], "an unfinished file is left"


@pytest.mark.floats
def test_files_of_core_need_the_strength(pack, video, halfway):
    """With the same strength they give the same result. Core's LoadLatent reads the pack's files too."""
    loaded = load(pack, save(pack, halfway, by_core=True))
    (latent,) = loaded.args
    assert latent.keys() == {"samples"}
    (warning,) = loaded.ui["text"]
    assert "does not say how far" in warning and "set the same strength" in warning
    expected = smooth(pack, video, halfway)
    torch.testing.assert_close(smooth(pack, video, latent, strength=0.5), expected, rtol=1e-4, atol=1e-4)

    name = save(pack, halfway)
    (core,) = pack.run("LoadLatent", latent=name)
    assert torch.equal(core["samples"], halfway["samples"]) and core.keys() == {"samples"}


def test_the_file_holds_the_graph_that_made_it(pack, halfway, server):
    """As in core's files."""
    prompt = {
        "models": {"class_type": "BIVDiffDemoModels", "inputs": {"variant": "base"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["models", 2], "text": "a red fish"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "frames": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["models", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0],
                "seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
        "inverted": {
            "class_type": "BIVDiffInvertImage",
            "inputs": {
                "model": ["models", 0], "conditioning": ["text", 0], "latent": ["frames", 0], "steps": 4,
                "scheduler": "ddim_uniform", "solver": "ddim", "strength": 0.5, "grid": "matched",
                "frames_per_batch": 0,
            },
        },
        "save": {
            "class_type": "BIVDiffSaveLatent",
            "inputs": {"latent": ["inverted", 0], "filename_prefix": "latents/served"},
        },
    }  # fmt: skip
    result = server.run(prompt)
    (saved,) = result.outputs["save"]["latents"]
    with safetensors.safe_open(server.base / "output" / saved["subfolder"] / saved["filename"], "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["prompt"]).keys() == prompt.keys()
    assert json.loads(metadata["bivdiff"])["sigma"] == pytest.approx(sd_sigma(500), rel=1e-6)


def test_the_file_may_be_linked(pack):
    """ComfyUI passes None for a linked file when it validates the graph and looks for changes."""
    import execution

    graph = {
        "name": {"class_type": "BIVDiffModeList", "inputs": {"modes": "linear"}},  # any output of type COMBO
        "latent": {"class_type": "BIVDiffLoadLatent", "inputs": {"latent": ["name", 0]}},
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["latent", 0]}},
    }
    is_valid, _, _, errors = asyncio.run(execution.validate_prompt("test", graph, None))
    assert is_valid, errors
    assert math.isnan(pack.classes["BIVDiffLoadLatent"].fingerprint_inputs(None))  # it is read in every run


@pytest.mark.parametrize(
    "name", ["none.latent", "../outside.latent", "absolute", "..\\a.latent", "//server/share/a.latent"]
)
def test_a_linked_file_outside_comfyuis_folders_is_refused(pack, halfway, name):
    outside = os.path.join(folder_paths.get_input_directory(), "..", "outside.latent")
    shutil.copy(folder_paths.get_annotated_filepath(save(pack, halfway)), outside)
    name = os.path.abspath(outside) if name == "absolute" else name
    with pytest.raises(FileNotFoundError, match="^Load Inverted Latent: there is no file"):
        pack.run("BIVDiffLoadLatent", latent=name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a latent file, or is truncated"),
        (b"version https://git-lfs", "is not a latent"),
        (None, "holds weights"),
    ],
)
def test_files_that_are_not_latents_are_rejected(pack, content, message):
    path = os.path.join(folder_paths.get_input_directory(), "broken.latent")
    if content is None:
        safetensors.torch.save_file({"weights": torch.zeros(1)}, path)
    else:
        with open(path, "wb") as file:
            file.write(content)
    with pytest.raises(ValueError, match=f"^Load Inverted Latent: broken.latent {message}"):
        pack.run("BIVDiffLoadLatent", latent="broken.latent")
    os.remove(path)
    assert "there is no file broken.latent" in pack.classes["BIVDiffLoadLatent"].validate_inputs("broken.latent")


@pytest.mark.parametrize(
    "samples", [torch.zeros(2, 4, 8, 8), tiny.make_latent(2, 4, 8, 8)["samples"]], ids=["empty", "clean"]
)
def test_clean_latents_are_not_saved_as_noise(pack, samples):
    with pytest.raises(ValueError, match="^Save Inverted Latent: this latent does not look like noise"):
        pack.run("BIVDiffSaveLatent", latent={"samples": samples}, filename_prefix="latents/clean")

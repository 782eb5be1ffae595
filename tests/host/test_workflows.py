"""The shipped workflows equal the tool's output, and their demo versions run in a real server.

The packaged clip is a toy world clip like those of the demo models' training, so the right results are known.
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from urllib.error import HTTPError

import av
import comfyui_workflow_templates
import folder_paths
import pytest
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from fixtures import tiny_models as tiny
from fixtures.video_model_folders import write_zeroscope_folder
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from bivdiff_core.demo.models import CONTEXT_DIM
from research import toy_metrics, toy_world
from research.demo_chain import add_colour_flicker
from tools import model_downloads, released_workflows, video_files, workflow_parts, write_workflows
from tools.environment import COMFYUI_RELEASE, is_release
from tools.in_process_comfyui import COMFYUI
from tools.recipes import one_node_flow
from tools.video_files import VIDEO_FPS, find_node_by_title, read_frames
from tools.workflow_graph import MUTED_MODE, WorkflowGraph
from tools.workflow_parts import ANIMATEDIFF_PLACEHOLDER, PACKAGED_CLIP
from tools.write_workflows import build_workflow

MODEL_FILES = {"ckpt_name", "control_net_name", "lora_name", "bg_removal_name"}
MODEL_FILES |= {"text_encoder", "unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "model_name"}
FILES = MODEL_FILES | {"file", "folder", "latent", "name"}
"""Inputs for file names, which exist only on the user's disk."""
PLACEHOLDERS = {ANIMATEDIFF_PLACEHOLDER, "your_style.safetensors"}
"""Placeholders for files of the user's choice."""
HUBS = ("https://huggingface.co/", "https://civitai.com/", "https://civitai.red/")
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")
"""Hosts and suffixes of models that the frontend (1.47) offers to download."""
EXPAND, BLUR = 2, 2
"""Growth and blur of the mask in the inpainting workflow's demo version, in pixels."""

GRAPHS = write_workflows.ALL_RECIPES
FIRST = "deflicker_demo"
ONE_NODE = {FIRST, "controlnet_node"}
"""Templates that show the chain as one node."""
SELF_CONTAINED = {FIRST, "stages_demo"}
"""Workflows that need no other clip or models."""
SAME_CHAIN_AS_OWN_FRAMES = {"saved_inversion", "folder"}
"""Workflows with the same chain as own_frames."""
SAME_CHAIN_AS_CONTROLNET = {*ONE_NODE, "stages_demo", "sweep"}

WITH_LARGE_MODELS = {"qwen_edit", "kontext", "wan_experts", "vace", "ltx2"}
"""Workflows for models that no demo model replaces: they run with tiny models (fixtures/packs)."""

every_workflow = pytest.mark.parametrize("name", GRAPHS)
every_chain = pytest.mark.parametrize("name", [name for name in GRAPHS if name not in ONE_NODE])


def shipped(name: str) -> str:
    """The shipped file of a workflow."""
    return write_workflows.FILES[name].read_text(encoding="utf-8")


def full_prompt(ui: dict, object_info: dict) -> dict:
    """The prompt of a workflow, including muted nodes."""
    return convert_ui_to_api({**ui, "nodes": [{**node, "mode": 0} for node in ui["nodes"]]}, object_info)


def with_changes(prompt: dict, **changes) -> dict:
    """Change settings of a prompt in place, in every node that has them."""
    for node in prompt.values():
        node["inputs"].update({name: value for name, value in changes.items() if name in node["inputs"]})
    return prompt


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return server.object_info()


@pytest.fixture(scope="module")
def clip() -> toy_world.ToyClip:
    return toy_world.packaged_clip()


@pytest.fixture(scope="module", autouse=True)
def inputs(server, clip):
    """Input files of the demo versions: a mask, frames with flickering colours, and a Wan with random weights."""
    video_files.write_demo_inputs(server.base / "input", clip)
    tiny.write_wan(server.base / "models", "wan2.1_t2v_1.3B_fp16", "wan_2.1_vae", text_dim=CONTEXT_DIM)


@pytest.fixture(scope="module")
def run_demo(server, object_info):
    """A function that runs a demo version with changed settings; it returns previews by title, and "video"."""
    done = {}

    def run(name: str, **changes) -> dict:
        changes = {"steps": 12, **changes}
        key = name, *changes.items()
        if key not in done:
            prompt = convert_ui_to_api(build_workflow(name, object_info, demo=True), object_info)
            result = server.run(with_changes(prompt, **changes))
            assert not result.error
            titles = [n["_meta"]["title"] for n in prompt.values() if n["class_type"] == "PreviewImage"]
            done[key] = {title: read_frames(server, result, prompt, title) for title in titles}
            (done[key]["video"],) = server.output_files(result.outputs[find_node_by_title(prompt, "Smoothed video")])
        return done[key]

    return run


# The files


def test_files_sort_and_are_in_the_readme():
    """The template browser shows and searches file names only."""
    names = list(write_workflows.TEMPLATES.values())
    assert sorted(path.stem for path in write_workflows.WORKFLOWS.glob("*.json")) == names
    assert sorted(path.stem for path in write_workflows.WORKFLOWS.glob("*.jpg")) == names
    readme = (write_workflows.ROOT / "README.md").read_text(encoding="utf-8")
    for number, name in enumerate(names, start=1):
        assert name.isascii() and "," not in name
        assert name.startswith(f"BIVDiff {number:02} ") and f"| {name.removeprefix('BIVDiff ')} |" in readme


@pytest.mark.skipif(
    not is_release(COMFYUI, COMFYUI_RELEASE), reason="the files are laid out for another ComfyUI's nodes"
)
@every_workflow
def test_a_shipped_file_equals_the_tools_output(object_info, name):
    assert shipped(name) == write_workflows.to_json(build_workflow(name, object_info, demo=False))


@pytest.mark.skipif(not is_release(COMFYUI, COMFYUI_RELEASE), reason="the file is laid out for another ComfyUI's nodes")
def test_the_blueprints_equal_the_tools_output(object_info):
    blueprints = write_workflows.build_blueprints(object_info)
    assert sorted(blueprints) == sorted(write_workflows.BLUEPRINTS.glob("*.json"))
    for file, blueprint in blueprints.items():
        assert file.read_text(encoding="utf-8") == write_workflows.to_json(blueprint)


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in SELF_CONTAINED])
def test_the_server_finds_only_missing_files(server, object_info, name):
    prompt = full_prompt(json.loads(shipped(name)), object_info)
    for node in prompt.values():
        if node["class_type"] == "LoadVideo":
            node["inputs"]["file"] = "missing.mp4"  # so that nothing runs if the models exist
    try:
        answer = server.request("/prompt", {"prompt": prompt})  # if an output needs no missing file
    except HTTPError as error:
        answer = json.loads(error.read())
    assert answer["node_errors"]
    for node in answer["node_errors"].values():
        for error in node["errors"]:
            assert error["extra_info"].get("input_name") in FILES, error


@every_chain
def test_every_node_leads_to_an_output(object_info, name):
    ui = json.loads(shipped(name))
    prompt = full_prompt(ui, object_info)
    assert len(prompt) == sum(node["type"] != "MarkdownNote" for node in ui["nodes"])
    wired = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    for key, node in prompt.items():
        assert key in wired or object_info[node["class_type"]]["output_node"], (
            f"{node['_meta']['title']} leads to no output"
        )


@every_workflow
def test_a_missing_model_is_offered_to_download(object_info, name):
    """As the frontend requires: with the widget's name, and a trusted host and suffix."""
    ui = json.loads(shipped(name))
    offered = [model for node in ui["nodes"] for model in node["properties"].get("models", [])]
    prompt = full_prompt(ui, object_info)
    chosen = {value for node in prompt.values() for key, value in node["inputs"].items() if key in MODEL_FILES}
    assert {model["name"] for model in offered} == chosen - PLACEHOLDERS
    for model in offered:
        assert model["url"].startswith(HUBS) and model["url"].endswith(f"/{model['name']}")
        assert model["name"].endswith(SUFFIXES) and model["directory"] in folder_paths.folder_names_and_paths


@pytest.mark.skipif(not is_release(COMFYUI, COMFYUI_RELEASE), reason="other releases have other templates")
def test_comfyuis_templates_name_the_same_files():
    packages = Path(comfyui_workflow_templates.__file__).parents[1].glob("comfyui_workflow_templates*")
    templates = [path.read_text(encoding="utf-8") for package in packages for path in package.rglob("*.json")]
    for path in (path for paths in model_downloads.FOLDERS.values() for path in paths):
        is_named = any(model_downloads.HUB + path in template for template in templates)
        assert is_named != path.startswith(model_downloads.UNVERIFIED), path


@pytest.mark.parametrize("name", [name for name in write_workflows.RECIPES if name != FIRST])
def test_a_saved_video_has_the_audio_and_frame_rate_of_the_selected_frames(object_info, name):
    prompt = full_prompt(json.loads(shipped(name)), object_info)
    videos = [node["inputs"] for node in prompt.values() if node["class_type"] == "CreateVideo"]
    assert videos
    for video in videos:
        selected = video["audio"][0]
        assert prompt[selected]["class_type"] == "BIVDiffSelectFrames"
        assert from_node(object_info, prompt, selected, "fps", "audio").items() <= video.items()
        clip = prompt[selected]["inputs"]["images"][0]
        assert prompt[clip]["class_type"] == "GetVideoComponents"
        parts = from_node(object_info, prompt, clip, "images", "fps", "audio")
        assert parts.items() <= prompt[selected]["inputs"].items()


@every_chain
def test_the_packaged_clip_is_long_enough(object_info, name):
    with av.open(str(write_workflows.WORKFLOWS / PACKAGED_CLIP)) as container:
        packaged = sum(1 for _ in container.decode(video=0))
    for node in full_prompt(json.loads(shipped(name)), object_info).values():
        if node["class_type"] == "BIVDiffSelectFrames":
            selection = node["inputs"]
            last = selection["start"] + (selection["count"] - 1) * selection["stride"]
            assert last < packaged


@every_workflow
def test_a_template_ends_in_a_comparison_and_skips_unused_branches(object_info, name):
    """Only saved_inversion has an output node after the video inversion, so that this branch always runs."""
    prompt = full_prompt(json.loads(shipped(name)), object_info)
    types = {node["class_type"] for node in prompt.values()}
    assert "BIVDiffCompareVideos" in types
    inverted = {key for key, node in prompt.items() if node["class_type"] == "BIVDiffInvertVideo"}
    for node in prompt.values():
        inverted_inputs = {wire[0] for wire in node["inputs"].values() if isinstance(wire, list)} & inverted
        assert not inverted_inputs or not object_info[node["class_type"]]["output_node"] or name == "saved_inversion"


def test_all_thumbnails_differ():
    small_thumbnails = [
        Image.open(path).convert("RGB").resize((24, 24)) for path in write_workflows.WORKFLOWS.glob("*.jpg")
    ]
    images = [to_tensor(thumbnail) for thumbnail in small_thumbnails]
    assert len(images) > 15
    assert all((a - b).abs().mean() > 0.015 for a, b in combinations(images, 2))


def from_node(object_info: dict, prompt: dict, key: str, *names: str) -> dict[str, list]:
    """Links from a node's outputs to inputs of the same names."""
    outputs = object_info[prompt[key]["class_type"]]["output_name"]
    return {name: [key, outputs.index(name)] for name in names}


@every_workflow
@pytest.mark.parametrize("demo", [False, True])
def test_nodes_do_not_overlap_and_are_inside_their_groups(object_info, name, demo):
    try:
        ui = build_workflow(name, object_info, demo)
    except KeyError as missing:
        if is_release(COMFYUI, COMFYUI_RELEASE):
            raise
        pytest.skip(f"this ComfyUI has no {missing}")
    for graph in (ui, *ui.get("definitions", {}).get("subgraphs", [])):
        sizes = [(node["size"][0], 0) if node["flags"].get("collapsed") else node["size"] for node in graph["nodes"]]
        boxes = [box(node["pos"], size, title=30) for node, size in zip(graph["nodes"], sizes, strict=True)]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:i]:
                assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
        groups = [box(group["bounding"][:2], group["bounding"][2:]) for group in graph["groups"]]
        for node, (left, top, right, bottom) in zip(graph["nodes"], boxes, strict=True):
            within = [g for g in groups if left > g[0] and top > g[1] and right < g[2] and bottom < g[3]]
            assert len(within) == (node["type"] != "MarkdownNote")


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in ONE_NODE | {"borrowed_control"}])
def test_a_group_is_a_stage(name):
    """Template 24 samples from noise, without the stages."""
    titles = [group["title"].split(":")[0] for group in json.loads(shipped(name))["groups"]]
    assert titles == ["Source and models", *(f"Stage {i + 1}" for i in range(4 if name == "animatediff" else 3))]


def box(at: list, size: list, title: int = 0) -> tuple:
    return at[0], at[1] - title, at[0] + size[0], at[1] + size[1]


def test_the_first_template_runs_as_shipped(server, object_info, clip):
    """Its video flickers less than its frames; both follow the clip's outlines."""
    prompt = convert_ui_to_api(json.loads(shipped(FIRST)), object_info)
    result = server.run(prompt)
    assert not result.error
    before, after = read_frames(server, result, prompt, "Before and after").chunk(2)
    for frames in (before, after):
        assert toy_metrics.shape_iou(frames, clip) > 0.6
    assert total_flicker(after, clip) < 0.6 * total_flicker(before, clip)
    assert server.output_files(result.outputs[find_node_by_title(prompt, "Smoothed video")])


# Demo versions


@pytest.mark.floats
@pytest.mark.parametrize(
    "name",
    sorted(set(write_workflows.RECIPES) - SAME_CHAIN_AS_CONTROLNET - SAME_CHAIN_AS_OWN_FRAMES - WITH_LARGE_MODELS),
)
def test_frames_in_batches_of_any_size_give_the_same_video(run_demo, name):
    whole = run_demo(name, steps=4, frames_per_batch=toy_world.FRAMES)
    for size in (1, 3):
        chunked = run_demo(name, steps=4, frames_per_batch=size)
        for title, frames in whole.items():
            if title != "video":
                torch.testing.assert_close(chunked[title], frames, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize("name", released_workflows.RECIPES)
def test_a_released_configuration_has_the_released_settings_and_runs(object_info, run_demo, name):
    every = {"steps": 50, "cfg": 7.5, "grid": "reference", "solver": "ddim", "strength": 1.0, "group_norms": "auto"}
    every |= {"frames_per_batch": 0, "stride": 4, "count": 8, "seed": 42, "noise_seed": 42, "crop": "disabled"}
    for node in convert_ui_to_api(json.loads(shipped(name)), object_info).values():
        set_here = {key: value for key, value in node["inputs"].items() if key in every}
        assert set_here == {key: every[key] for key in set_here}, node["_meta"]["title"]
    made = run_demo(name, steps=4, frames_per_batch=toy_world.FRAMES)
    assert made["Smoothed"].shape == (toy_world.FRAMES, toy_world.SIZE, toy_world.SIZE, 3)
    assert (made["Smoothed"] - made["Frame-wise"]).abs().mean() > 0.005


@pytest.mark.parametrize("name", ["controlnet", "t2i_adapter"])
def test_outlines_are_followed(run_demo, clip, name):
    """With frames that differ from each other, as real ones do."""
    made = run_demo(name)
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.shape_iou(made[row], clip) > 0.6
        assert toy_metrics.caption_accuracy(made[row], clip) > 0.8
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Frame-wise"], clip)


def total_flicker(frames: Tensor, clip: toy_world.ToyClip) -> float:
    flicker = toy_metrics.measure_flicker(frames, clip)
    return flicker.shape + flicker.ground


@pytest.mark.floats
def test_borrowed_control_keeps_the_shapes(run_demo, clip):
    """With frames that differ from each other, as real ones do."""
    overlaps = [toy_metrics.shape_iou(run_demo("controlnet", weight=weight)["Smoothed"], clip) for weight in (0, 3)]
    assert overlaps[1] > overlaps[0] + 0.02


def test_a_sweep_shows_the_frames_and_each_ratio_s_own_video(run_demo):
    sweep, single = run_demo("sweep", steps=4), run_demo("controlnet", steps=4, frames_per_batch=toy_world.FRAMES)
    caption, size = 24, 192

    def cell(row: int, column: int) -> Tensor:
        """One of the grid's videos at its original size."""
        top, left = row * (caption + size) + caption, column * size
        return sweep["Smoothed"][:, top : top + size : 3, left : left + size : 3]

    torch.testing.assert_close(cell(0, 0), sweep["Frame-wise"], atol=1.5 / 255, rtol=0)
    torch.testing.assert_close(
        cell(1, 2), single["Smoothed"], atol=1.5 / 255, rtol=0
    )  # ratio 1, as for task controlnet
    assert (cell(0, 1) - cell(1, 2)).abs().mean() > 0.005  # ratio 0
    assert sweep["Plot"].std() > 0.05


def test_own_frames_become_stable_and_keep_their_content(run_demo, clip):
    made = run_demo("own_frames")
    assert (made["Source"] - add_colour_flicker(clip.frames, seed=0)).abs().max() < 0.02
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Source"], clip)
    assert toy_metrics.shape_iou(made["Smoothed"], clip) > 0.6
    assert toy_metrics.caption_accuracy(made["Smoothed"], clip) > 0.8


def test_a_saved_inversion_gives_the_video_of_the_run_that_made_it(server, object_info, run_demo):
    ui = build_workflow("saved_inversion", object_info, demo=True)
    for run in ("save", "load"):
        prompt = convert_ui_to_api(ui, object_info)
        result = server.run(with_changes(prompt, steps=12))
        assert not result.error
        inverts = {"BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffSaveLatent"}
        smooths = {"BIVDiffLoadLatent", "BIVDiffMixedInversion", "BIVDiffTemporalSmoother"}
        classes = {node["class_type"] for node in prompt.values()} & (inverts | smooths)
        assert classes == (inverts if run == "save" else smooths)
        for node in ui["nodes"]:
            node["mode"] = MUTED_MODE if node["type"] in inverts else 0
    assert torch.equal(read_frames(server, result, prompt, "Smoothed"), run_demo("own_frames")["Smoothed"])


def test_every_clip_of_a_folder_gives_the_same_video_as_a_single_clip(server, object_info, run_demo):
    prompt = convert_ui_to_api(build_workflow("folder", object_info, demo=True), object_info)
    result = server.run(with_changes(prompt, steps=12))
    assert not result.error
    first, second = read_frames(server, result, prompt, "Smoothed").chunk(2)
    single = run_demo("own_frames", context_length=6, context_overlap=3)
    assert torch.equal(first, single["Smoothed"]) and (first - second).abs().mean() > 0.002
    assert len(server.output_files(result.outputs[find_node_by_title(prompt, "Smoothed video")])) == 2
    (compared,) = (key for key, node in prompt.items() if node["class_type"] == "BIVDiffCompareVideos")
    assert [len(after) for _, after in result.outputs[compared]["changes"]] == [toy_world.FRAMES - 1] * 2
    assert result.outputs[compared]["text"] == []


def test_the_video_has_the_clips_frame_rate_and_audio(run_demo):
    with av.open(str(run_demo("own_frames")["video"])) as container:
        assert container.streams.video[0].average_rate == VIDEO_FPS
        audio_seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
        assert audio_seconds == pytest.approx(toy_world.FRAMES / VIDEO_FPS, abs=0.1)
    with av.open(str(run_demo("own_frames", steps=4, stride=2, count=4)["video"])) as container:
        assert container.streams.video[0].average_rate == VIDEO_FPS / 2


def test_prompt2prompt_changes_the_word_and_keeps_the_rest(run_demo, clip):
    made = run_demo("prompt2prompt")
    source, edited, rebuilt = made["Source"], made["Frame-wise"], made["Reconstructed"]
    pink = replace(clip, caption="a pink sailboat over a blue sea, patterned")
    ground, shape = toy_metrics.erode_mask(clip.ground), toy_metrics.erode_mask(clip.masks[0])
    assert toy_metrics.caption_accuracy(rebuilt, clip) > 0.9
    assert toy_metrics.caption_accuracy(edited, pink) > 0.9
    assert toy_metrics.shape_iou(edited, clip) > 0.6
    change = (edited - rebuilt).abs().mean(dim=-1)
    assert change[ground].mean() < 0.2 * change[shape].mean()
    assert (rebuilt - source).abs().mean() < 0.1
    assert toy_metrics.caption_accuracy(made["Smoothed"], pink) > 0.8


def test_inpainting_changes_only_the_masked_area(run_demo, clip):
    made = run_demo("inpainting")
    mask = video_files.shape_mask(clip)
    # The mask grows by EXPAND pixels, and the blur has a radius of BLUR pixels: neither reaches further.
    outside = toy_metrics.dilate(mask, EXPAND + BLUR) == 0
    assert outside.any() and torch.equal(made["Smoothed"][outside], made["Source"][outside])
    change = (made["Smoothed"] - made["Source"]).abs().mean(dim=-1)
    assert change[mask > 0].mean() > 0.1
    _, green, blue = made["Smoothed"][toy_metrics.erode_mask(clip.masks[0], 6)].mean(dim=0)
    assert blue > green  # pink; the sailboat was yellow


def test_outpainting_keeps_the_middle_and_continues_it(run_demo, clip):
    made = run_demo("outpainting")
    assert made["Smoothed"].shape == clip.frames.shape
    margin, feathering = 16, 4
    kept = slice(margin + feathering, -margin - feathering)
    assert torch.equal(made["Smoothed"][:, :, kept], made["Padded"][:, :, kept])
    before, after = (made[row].diff(dim=2).abs().mean(dim=(0, 1, 3)) for row in ("Padded", "Smoothed"))
    for seam in (margin, toy_world.SIZE - margin):
        assert after[seam - 2 : seam + 1].max() < 0.5 * before[seam - 1]
    outpainted = torch.cat([made["Smoothed"][:, :, :margin], made["Smoothed"][:, :, -margin:]], dim=2)
    ground = clip.frames[toy_metrics.erode_mask(clip.ground)].mean(dim=0)
    assert (outpainted.mean(dim=(0, 1, 2)) - ground).abs().max() < 0.2


def test_a_style_draws_in_ink_and_keeps_the_outlines(run_demo, clip):
    made, plain = run_demo("style_lora"), run_demo("style_lora", strength_model=0.0)
    for row in ("Frame-wise", "Smoothed"):
        assert distance_from_ink(made[row]) < 0.25 * distance_from_ink(made["Source"])
        assert distance_from_ink(plain[row]) > 0.6 * distance_from_ink(made["Source"])
        assert toy_metrics.shape_iou(made[row], clip) > 0.6


def distance_from_ink(frames: Tensor) -> float:
    """Mean distance of the colours from mixtures of the style's ink and paper, 0..1."""
    ink, paper = torch.tensor(toy_world.INK), torch.tensor(toy_world.PAPER)
    along = (paper - ink) / (paper - ink).norm()
    offset = frames - ink
    return (offset - (offset @ along)[..., None] * along).norm(dim=-1).mean().item()


def test_an_upscaled_clip_is_larger_and_keeps_its_content(run_demo, clip):
    made = run_demo("tile_upscale")
    assert made["Source"].shape[1] == toy_world.SIZE // 2 and made["Smoothed"].shape == clip.frames.shape
    assert toy_metrics.shape_iou(made["Smoothed"], clip) > 0.6


def test_a_part_done_again_is_put_back_between_the_same_frames(run_demo):
    made = run_demo("part_again")
    source, smoothed = made["Source"], made["Smoothed"]
    assert torch.equal(smoothed[:2], source[:2]) and torch.equal(smoothed[6:], source[6:])
    assert (smoothed[2:6] - source[2:6]).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_matting_keeps_the_outlines(run_demo, clip):
    """For mattes without flicker, so the difference is the chain's error."""
    found, known = run_demo("matting")["Smoothed"][..., 0] > 0.5, clip.ground < 0.5
    assert (found & known).sum() / (found | known).sum() > 0.7


def test_an_instruction_is_followed_and_the_rest_is_kept(run_demo, clip):
    made = run_demo("instruct_pix2pix")
    pink = replace(clip, caption="a pink sailboat over a blue sea, patterned")
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.caption_accuracy(made[row], pink) > 0.8
        assert toy_metrics.shape_iou(made[row], clip) > 0.7


def test_a_clip_in_windows_keeps_its_content(run_demo, clip):
    made = run_demo("zeroscope")
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.shape_iou(made[row], clip) > 0.6
        assert toy_metrics.caption_accuracy(made[row], clip) > 0.8
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Frame-wise"], clip)


def test_the_zeroscope_workflow_runs_on_a_diffusers_folder(server, object_info):
    """With a small model of random weights. With single frames it also replaces Stable Diffusion 1.5."""
    write_zeroscope_folder(server.base / "models" / "diffusers" / "zeroscope_v2_576w")
    prompt = convert_ui_to_api(build_workflow("zeroscope", object_info, demo=False), object_info)
    small = {"steps": 3, "width": 64, "height": 32, "count": 6, "frames_per_batch": 1}
    small |= {"context_length": 4, "context_overlap": 2}
    for node in prompt.values():
        node["inputs"].update({key: value for key, value in small.items() if key in node["inputs"]})
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="BIVDiffVideoModelLoader", inputs={"name": "zeroscope_v2_576w"})
    result = server.run(prompt)
    assert not result.error
    assert read_frames(server, result, prompt, "Smoothed").shape == (6, 32, 64, 3)


def test_animatediff_s_outlines_are_followed(run_demo, clip):
    assert toy_metrics.shape_iou(run_demo("animatediff")["Smoothed"], clip) > 0.6


def test_wan_depends_on_both_branches(run_demo):
    ends = [run_demo("wan", steps=4, mixing_ratio=ratio)["Smoothed"] for ratio in (0.0, 1.0)]
    assert ends[0].shape == ends[1].shape == (5, toy_world.SIZE, toy_world.SIZE, 3)
    assert (ends[0] - ends[1]).abs().mean() > 0.01


# Workflows for large models, with tiny ones of the same classes


@pytest.fixture(scope="module")
def run_small(server, object_info):
    """A function that runs a workflow with tiny models at 64x64; it returns previews by title.

    It takes changed settings of all nodes, and of the node with a title.
    """

    def run(ui: dict, title: str = "", of_title: dict | None = None, **changes) -> dict[str, Tensor]:
        prompt = convert_ui_to_api(ui, object_info)
        for node in prompt.values():
            if f"Tiny{node['class_type']}" in object_info:
                node["class_type"] = f"Tiny{node['class_type']}"
        with_changes(prompt, **{"steps": 2, "width": 64, "height": 64, "count": 5, **changes})
        if of_title:
            prompt[find_node_by_title(prompt, title)]["inputs"].update(of_title)
        result = server.run(prompt)
        assert not result.error
        titles = [n["_meta"]["title"] for n in prompt.values() if n["class_type"] == "PreviewImage"]
        return {title: read_frames(server, result, prompt, title) for title in titles}

    return run


def mean_difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().mean().item()


@pytest.mark.parametrize("name", sorted(WITH_LARGE_MODELS))
def test_a_workflow_for_large_models_depends_on_both_branches(run_small, name):
    count = 9 if name == "ltx2" else 5
    ends = [run_small(json.loads(shipped(name)), mixing_ratio=ratio, count=count)["Smoothed"] for ratio in (0.0, 1.0)]
    assert ends[0].shape == ends[1].shape == (count, 64, 64, 3)
    assert mean_difference(*ends) > 0.01


@pytest.mark.parametrize("name", ["qwen_edit", "kontext"])
def test_each_frame_is_edited_alone(run_small, name):
    """From the same noise, the edit of a frame depends on that frame only, and differs from those of other frames."""
    runs = [run_small(json.loads(shipped(name)), frame_noise="shared", start=start) for start in (0, 2)]
    first, later = (run["Frame-wise"] for run in runs)
    torch.testing.assert_close(first[2:], later[:3], atol=1.5 / 255, rtol=0)
    assert mean_difference(first[2:], later[:3]) < 0.1 * mean_difference(first[3:], later[:2])


def test_both_experts_of_wan_take_part(run_small):
    """The high-noise expert changes the video above the boundary only."""
    ui, other = json.loads(shipped("wan_experts")), ("High-noise expert", {"unet_name": "wan2.2_t2v_low_noise"})
    for strength, is_used in ((1.0, True), (0.5, False)):
        videos = [run_small(ui, *change, strength=strength)["Smoothed"] for change in ((), other)]
        assert (mean_difference(*videos) > 0.005) == is_used


def test_vace_follows_the_source_of_the_frames(run_small):
    ui, other = json.loads(shipped("vace")), ("The source video of your frames", {"file": "bivdiff_mask.mp4"})
    videos = [run_small(ui, *change, mixing_ratio=0.0)["Smoothed"] for change in ((), other)]
    assert mean_difference(*videos) > 0.005


EXPERTS = [f"wan2.2_t2v_{level}_noise_14B_fp8_scaled.safetensors" for level in ("high", "low")]


@pytest.mark.parametrize("unets", [["wan2.1_t2v_1.3B_fp16.safetensors"], EXPERTS], ids=["one model", "two experts"])
def test_the_one_node_for_flow_models_equals_its_stages(object_info, run_small, unets):
    videos = []
    for as_one_node in (True, False):
        g = WorkflowGraph("flow", object_info, demo=False)
        g.group("Source and models", workflow_parts.SOURCE_COLOUR)
        clip, models = workflow_parts.load_own_frames(g, (64, 64), count=5), workflow_parts.load_wan(g, *unets)
        if as_one_node:
            chain = one_node_flow.build_flow_node(object_info)
            chain.add_definition(g)
            wires = {"image_model": models.image, "video_model": models.video, "low_noise_model": models.low_noise}
            wires |= {"clip": models.image_clip, "video_clip": models.video_clip, "vae": models.vae}
            result = g.add(chain.id, "One node", frames=clip.frames, prompt="a street", **wires)
            g.add("PreviewImage", "Smoothed", images=result["video"])
        else:
            texts = workflow_parts.add_prompts(g, models, "a street", "")
            workflow_parts.deflicker_packed_frames(g, clip, models, texts)
        videos.append(run_small(g.ui(), strength=1.0)["Smoothed"])
    assert torch.equal(*videos)

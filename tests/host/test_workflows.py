"""The shipped workflows: as the tool writes them, and each one's demo twin through a real server.

The packaged clip is of the demo models' own world, so that what a task has to keep and to change is known.
"""

import json
from dataclasses import replace
from itertools import combinations
from urllib.error import HTTPError

import av
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
from tools import released_workflows, thumbnails, write_workflows
from tools.environment import COMFYUI_RELEASE, is_release
from tools.in_process_comfyui import COMFYUI
from tools.video_files import VIDEO_FPS, find_node_by_title, read_frames
from tools.workflow_graph import MUTED_MODE
from tools.workflow_parts import ANIMATEDIFF_PLACEHOLDER, PACKAGED_CLIP

MODEL_FILES = {"ckpt_name", "control_net_name", "lora_name", "bg_removal_name"}
MODEL_FILES |= {"unet_name", "clip_name", "vae_name", "model_name"}
FILES = MODEL_FILES | {"file", "folder", "latent", "name"}
"""Inputs that name files which only the artist has."""
NOT_OFFERED = {ANIMATEDIFF_PLACEHOLDER, "your_style.safetensors"}
"""No files: they stand for an artist's own choice."""
HUBS = ("https://huggingface.co/", "https://civitai.com/", "https://civitai.red/")
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")
"""From where the page offers to download a missing model, and what (front end 1.47)."""
EXPAND, BLUR = 2, 2
"""Of the inpainting twin's mask, in pixels."""

GRAPHS = write_workflows.RECIPES | released_workflows.GRAPHS
FIRST = "deflicker_demo"
"""The template that shows the chain as one node."""
COMPLETE = {FIRST, "stages_demo"}
"""Those that come with their clip and their models."""
PASSING = {"stages_demo", "controlnet", "t2i_adapter", "style_lora", "tile_upscale", "animatediff", "sweep"}
"""Those whose frames a control holds to their shapes: they end with the structure pass."""

AS_OWN_FRAMES = {"saved_inversion", "folder"}
"""Those that run the chain of own_frames in another way."""
DRAWN_AS_CONTROLNET = {FIRST, "stages_demo", "sweep"}

every_workflow = pytest.mark.parametrize("name", GRAPHS)
every_chain = pytest.mark.parametrize("name", [name for name in GRAPHS if name != FIRST])


def shipped(name: str) -> str:
    """A workflow's file."""
    return (write_workflows.FILES | released_workflows.FILES)[name].read_text(encoding="utf-8")


def drawn(name: str, object_info: dict, demo: bool) -> dict:
    """A workflow or its twin as the tools make it."""
    return write_workflows.workflow(name, object_info, demo, GRAPHS)


def whole(ui: dict, object_info: dict) -> dict:
    """The prompt of a workflow with what is muted in it."""
    return convert_ui_to_api({**ui, "nodes": [{**node, "mode": 0} for node in ui["nodes"]]}, object_info)


def with_changes(prompt: dict, **changes) -> dict:
    """A prompt with settings changed in place, wherever a node has them."""
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
    """What the twins load: a mask around the shape, frames whose colours jump, and a Wan of random weights."""
    thumbnails.write_demo_inputs(server.base / "input", clip)
    tiny.write_wan(server.base / "models", "wan2.1_t2v_1.3B_fp16", "wan_2.1_vae", text_dim=CONTEXT_DIM)


@pytest.fixture(scope="module")
def twin(server, object_info):
    """Runs a workflow's twin, some settings changed wherever a node has them; its previews and its video by title."""
    done = {}

    def run(name: str, **changes) -> dict:
        changes = {"steps": 12, **changes}
        key = name, *changes.items()
        if key not in done:
            prompt = convert_ui_to_api(drawn(name, object_info, demo=True), object_info)
            ran = server.run(with_changes(prompt, **changes))
            assert not ran.error
            titles = [n["_meta"]["title"] for n in prompt.values() if n["class_type"] == "PreviewImage"]
            done[key] = {title: read_frames(server, ran, prompt, title) for title in titles}
            (done[key]["video"],) = server.files(ran.outputs[find_node_by_title(prompt, "Smoothed video")])
        return done[key]

    return run


# The files


def test_files_sort_and_are_in_the_readme():
    """The template browser shows and searches file names alone."""
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
def test_a_shipped_file_is_what_the_tool_writes(object_info, name):
    assert shipped(name) == write_workflows.to_json(drawn(name, object_info, demo=False))


@pytest.mark.skipif(not is_release(COMFYUI, COMFYUI_RELEASE), reason="the file is laid out for another ComfyUI's nodes")
def test_the_blueprint_is_what_the_tool_writes(object_info):
    assert write_workflows.BLUEPRINT.read_text(encoding="utf-8") == write_workflows.to_json(
        write_workflows.build_blueprint(object_info)
    )


@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in COMPLETE])
def test_the_server_finds_nothing_amiss_but_the_artists_files(server, object_info, name):
    prompt = whole(json.loads(shipped(name)), object_info)
    for node in prompt.values():
        if node["class_type"] == "LoadVideo":
            node["inputs"]["file"] = "missing.mp4"  # so that nothing runs where the models are there
    with pytest.raises(HTTPError) as refusal:
        server.request("/prompt", {"prompt": prompt})
    found = json.loads(refusal.value.read())["node_errors"]
    for node in found.values():
        for error in node["errors"]:
            assert error["extra_info"].get("input_name") in FILES, error


@every_chain
def test_every_node_leads_to_something_shown_or_saved(object_info, name):
    ui = json.loads(shipped(name))
    prompt = whole(ui, object_info)
    assert len(prompt) == sum(node["type"] != "MarkdownNote" for node in ui["nodes"])
    wired = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    for key, node in prompt.items():
        assert key in wired or object_info[node["class_type"]]["output_node"], f"{node['_meta']['title']} leads nowhere"


@every_workflow
def test_a_missing_model_is_offered_to_download(object_info, name):
    """As the page asks for it: under the name that the widget shows, from a host and with a suffix that it trusts."""
    ui = json.loads(shipped(name))
    offered = [model for node in ui["nodes"] for model in node["properties"].get("models", [])]
    prompt = whole(ui, object_info)
    chosen = {value for node in prompt.values() for key, value in node["inputs"].items() if key in MODEL_FILES}
    assert {model["name"] for model in offered} == chosen - NOT_OFFERED
    for model in offered:
        assert model["url"].startswith(HUBS) and model["url"].endswith(f"/{model['name']}")
        assert model["name"].endswith(SUFFIXES) and model["directory"] in folder_paths.folder_names_and_paths


@pytest.mark.parametrize("name", [name for name in write_workflows.RECIPES if name != FIRST])
def test_a_saved_video_has_the_sound_and_the_rate_of_the_frames_taken(object_info, name):
    prompt = whole(json.loads(shipped(name)), object_info)
    videos = [node["inputs"] for node in prompt.values() if node["class_type"] == "CreateVideo"]
    assert videos
    for video in videos:
        taken = video["audio"][0]
        assert prompt[taken]["class_type"] == "BIVDiffSelectFrames"
        assert from_node(object_info, prompt, taken, "fps", "audio").items() <= video.items()
        clip = prompt[taken]["inputs"]["images"][0]
        assert prompt[clip]["class_type"] == "GetVideoComponents"
        parts = from_node(object_info, prompt, clip, "images", "fps", "audio")
        assert parts.items() <= prompt[taken]["inputs"].items()


@every_chain
def test_the_packaged_clip_and_the_demo_clip_are_long_enough(object_info, name):
    with av.open(str(write_workflows.WORKFLOWS / PACKAGED_CLIP)) as container:
        packaged = sum(1 for _ in container.decode(video=0))
    (spec,) = object_info["BIVDiffDemoClip"]["input"]["required"].values()
    for node in whole(json.loads(shipped(name)), object_info).values():
        if node["class_type"] == "BIVDiffSelectFrames":
            taken = node["inputs"]
            last = taken["start"] + (taken["count"] - 1) * taken["stride"]
            assert last < packaged == spec[1]["default"]


@every_workflow
def test_a_template_ends_in_a_comparison_and_runs_what_it_needs(object_info, name):
    """What is saved of both branches keeps the video branch running; nothing else with an output of its own does."""
    prompt = whole(json.loads(shipped(name)), object_info)
    types = {node["class_type"] for node in prompt.values()}
    assert "BIVDiffCompareVideos" in types
    inverted = {key for key, node in prompt.items() if node["class_type"] == "BIVDiffInvertVideo"}
    for node in prompt.values():
        behind = {wire[0] for wire in node["inputs"].values() if isinstance(wire, list)} & inverted
        assert not behind or not object_info[node["class_type"]]["output_node"] or name == "saved_inversion"


def test_no_two_cards_look_the_same():
    cards = [Image.open(path).convert("RGB").resize((32, 16)) for path in write_workflows.WORKFLOWS.glob("*.jpg")]
    pictures = [to_tensor(card) for card in cards]
    assert len(pictures) > 15
    assert all((one - other).abs().mean() > 0.015 for one, other in combinations(pictures, 2))


def from_node(object_info: dict, prompt: dict, key: str, *names: str) -> dict[str, list]:
    """Wires from a node's outputs to the inputs of the same names."""
    outputs = object_info[prompt[key]["class_type"]]["output_name"]
    return {name: [key, outputs.index(name)] for name in names}


@every_workflow
@pytest.mark.parametrize("demo", [False, True])
def test_nodes_lie_side_by_side_in_their_groups(object_info, name, demo):
    try:
        ui = drawn(name, object_info, demo)
    except KeyError as missing:
        if is_release(COMFYUI, COMFYUI_RELEASE):
            raise
        pytest.skip(f"this ComfyUI has no {missing}")
    for graph in (ui, *ui.get("definitions", {}).get("subgraphs", [])):
        boxes = [box(node["pos"], node["size"], title=30) for node in graph["nodes"]]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:i]:
                assert left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
        groups = [box(group["bounding"][:2], group["bounding"][2:]) for group in graph["groups"]]
        for node, (left, top, right, bottom) in zip(graph["nodes"], boxes, strict=True):
            within = [g for g in groups if left > g[0] and top > g[1] and right < g[2] and bottom < g[3]]
            assert len(within) == (node["type"] != "MarkdownNote")


@every_chain
def test_a_group_is_a_stage(name):
    titles = [group["title"].split(":")[0] for group in json.loads(shipped(name))["groups"]]
    assert titles == ["Source and models", *(f"Stage {i + 1}" for i in range(4 if name in PASSING else 3))]


def box(at: list, size: list, title: int = 0) -> tuple:
    return at[0], at[1] - title, at[0] + size[0], at[1] + size[1]


def test_the_first_template_runs_as_shipped(server, object_info, clip):
    """And its video is steadier than its frames, which are held to the clip's outlines."""
    prompt = convert_ui_to_api(json.loads(shipped(FIRST)), object_info)
    ran = server.run(prompt)
    assert not ran.error
    before, after = read_frames(server, ran, prompt, "Before and after").chunk(2)
    for frames in (before, after):
        assert toy_metrics.shape_iou(frames, clip) > 0.6
    assert total_flicker(after, clip) < 0.6 * total_flicker(before, clip)
    assert server.files(ran.outputs[find_node_by_title(prompt, "Smoothed video")])


def test_without_its_structure_pass_the_one_node_does_not_run_it(server, object_info):
    ui = json.loads(shipped(FIRST))
    (chain,) = (node for node in ui["nodes"] if node.get("title") == "BIVDiff")
    names = [item["name"] for item in chain["inputs"] if "widget" in item]
    settings = dict(zip(names, chain["widgets_values"], strict=True)) | {"seed": 1, "steps": 3, "structure_pass": False}
    chain["widgets_values"] = list(settings.values())
    prompt = convert_ui_to_api(ui, object_info)
    ran = server.run(prompt)
    assert not ran.error and find_node_by_title(prompt, "Decode the video") in ran.executed
    assert not {find_node_by_title(prompt, title) for title in ("Invert a little way", "Draw the shapes back")} & {
        *ran.executed
    }


# The twins


@pytest.mark.floats
@pytest.mark.parametrize("name", sorted(set(write_workflows.RECIPES) - DRAWN_AS_CONTROLNET - AS_OWN_FRAMES))
def test_frames_in_batches_of_any_size_give_the_same_video(twin, name):
    whole = twin(name, steps=4, frames_per_batch=toy_world.FRAMES)
    for size in (1, 3):
        chunked = twin(name, steps=4, frames_per_batch=size)
        for title, frames in whole.items():
            if title != "video":
                torch.testing.assert_close(chunked[title], frames, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize("name", released_workflows.GRAPHS)
def test_a_released_configuration_has_the_released_settings_and_runs(object_info, twin, name):
    every = {"steps": 50, "cfg": 7.5, "grid": "reference", "solver": "ddim", "strength": 1.0, "group_norms": "auto"}
    every |= {"frames_per_batch": 0, "stride": 4, "count": 8, "seed": 42, "noise_seed": 42, "crop": "disabled"}
    for node in convert_ui_to_api(json.loads(shipped(name)), object_info).values():
        set_here = {key: value for key, value in node["inputs"].items() if key in every}
        assert set_here == {key: every[key] for key in set_here}, node["_meta"]["title"]
    made = twin(name, steps=4, frames_per_batch=toy_world.FRAMES)
    assert made["Smoothed"].shape == (toy_world.FRAMES, toy_world.SIZE, toy_world.SIZE, 3)
    assert (made["Smoothed"] - made["Frame-wise"]).abs().mean() > 0.005


@pytest.mark.parametrize("name", ["controlnet", "t2i_adapter"])
def test_outlines_are_followed(twin, clip, name):
    """On a clip whose frames disagree, as real ones do."""
    made = twin(name)
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.shape_iou(made[row], clip) > 0.6
        assert toy_metrics.caption_accuracy(made[row], clip) > 0.8
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Frame-wise"], clip)


def total_flicker(frames: Tensor, clip: toy_world.ToyClip) -> float:
    flicker = toy_metrics.measure_flicker(frames, clip)
    return flicker.shape + flicker.ground


@pytest.mark.floats
def test_a_sweep_shows_the_frames_and_each_ratio_s_own_video(twin):
    made, alone = twin("sweep", steps=4), twin("controlnet", steps=4, frames_per_batch=toy_world.FRAMES)
    caption, size = 24, 192

    def cell(row: int, column: int) -> Tensor:
        """One of the grid's videos at the size that it was made in."""
        top, left = row * (caption + size) + caption, column * size
        return made["Smoothed"][:, top : top + size : 3, left : left + size : 3]

    torch.testing.assert_close(cell(0, 0), made["Frame-wise"], atol=1.5 / 255, rtol=0)
    torch.testing.assert_close(cell(1, 2), alone["Smoothed"], atol=1.5 / 255, rtol=0)  # ratio 1, as task controlnet
    assert (cell(0, 1) - cell(1, 2)).abs().mean() > 0.005  # ratio 0
    assert made["Plot"].std() > 0.05


def test_own_frames_become_steady_and_keep_what_they_show(twin, clip):
    made = twin("own_frames")
    assert (made["Source"] - add_colour_flicker(clip.frames, seed=0)).abs().max() < 0.02
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Source"], clip)
    assert toy_metrics.shape_iou(made["Smoothed"], clip) > 0.6
    assert toy_metrics.caption_accuracy(made["Smoothed"], clip) > 0.8


def test_a_saved_inversion_gives_the_video_of_the_run_that_made_it(server, object_info, twin):
    ui = drawn("saved_inversion", object_info, demo=True)
    for day in ("today", "another day"):
        prompt = convert_ui_to_api(ui, object_info)
        ran = server.run(with_changes(prompt, steps=12))
        assert not ran.error
        inverts = {"BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffSaveLatent"}
        smooths = {"BIVDiffLoadLatent", "BIVDiffMixedInversion", "BIVDiffTemporalSmoother"}
        classes = {node["class_type"] for node in prompt.values()} & (inverts | smooths)
        assert classes == (inverts if day == "today" else smooths)
        for node in ui["nodes"]:
            node["mode"] = MUTED_MODE if node["type"] in inverts else 0
    assert torch.equal(read_frames(server, ran, prompt, "Smoothed"), twin("own_frames")["Smoothed"])


def test_every_clip_of_a_folder_becomes_the_video_that_it_becomes_alone(server, object_info, twin):
    prompt = convert_ui_to_api(drawn("folder", object_info, demo=True), object_info)
    ran = server.run(with_changes(prompt, steps=12))
    assert not ran.error
    first, second = read_frames(server, ran, prompt, "Smoothed").chunk(2)
    alone = twin("own_frames", context_length=6, context_overlap=3)
    assert torch.equal(first, alone["Smoothed"]) and (first - second).abs().mean() > 0.002
    assert len(server.files(ran.outputs[find_node_by_title(prompt, "Smoothed video")])) == 2
    (compared,) = (key for key, node in prompt.items() if node["class_type"] == "BIVDiffCompareVideos")
    assert [len(after) for _, after in ran.outputs[compared]["changes"]] == [toy_world.FRAMES - 1] * 2
    assert ran.outputs[compared]["text"] == []


def test_the_video_plays_at_the_clips_speed_with_its_sound(twin):
    with av.open(str(twin("own_frames")["video"])) as container:
        assert container.streams.video[0].average_rate == VIDEO_FPS
        sound = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
        assert sound == pytest.approx(toy_world.FRAMES / VIDEO_FPS, abs=0.1)
    with av.open(str(twin("own_frames", steps=4, stride=2, count=4)["video"])) as container:
        assert container.streams.video[0].average_rate == VIDEO_FPS / 2


def test_prompt2prompt_changes_the_word_and_keeps_the_rest(twin, clip):
    made = twin("prompt2prompt")
    source, edited, rebuilt = made["Source"], made["Frame-wise"], made["Reconstructed"]
    red = replace(clip, caption="a red square on a yellow background, patchy")
    ground, shape = toy_metrics.erode_mask(clip.ground), toy_metrics.erode_mask(clip.masks[0])
    assert toy_metrics.caption_accuracy(rebuilt, clip) > 0.9
    assert toy_metrics.caption_accuracy(edited, red) > 0.9
    assert toy_metrics.shape_iou(edited, clip) > 0.6
    change = (edited - rebuilt).abs().mean(dim=-1)
    assert change[ground].mean() < 0.2 * change[shape].mean()
    assert (rebuilt - source).abs().mean() < 0.1
    assert toy_metrics.caption_accuracy(made["Smoothed"], red) > 0.8


def test_inpainting_changes_what_the_mask_covers_and_nothing_else(twin, clip):
    made = twin("inpainting")
    mask = thumbnails.shape_mask(clip)
    # The mask grows by a cross at a time, the blur's kernel is square: neither reaches further than this.
    outside = toy_metrics.dilate(mask, EXPAND + BLUR) == 0
    assert outside.any() and torch.equal(made["Smoothed"][outside], made["Source"][outside])
    change = (made["Smoothed"] - made["Source"]).abs().mean(dim=-1)
    assert change[mask > 0].mean() > 0.1
    red, green, _ = made["Smoothed"][toy_metrics.erode_mask(clip.masks[0], 6)].mean(dim=0)
    assert red > green + 0.2  # the ground is yellow, the square was blue


def test_outpainting_keeps_the_middle_and_continues_it(twin, clip):
    made = twin("outpainting")
    assert made["Smoothed"].shape == clip.frames.shape
    margin, feathering = 16, 4
    kept = slice(margin + feathering, -margin - feathering)
    assert torch.equal(made["Smoothed"][:, :, kept], made["Padded"][:, :, kept])
    before, after = (made[row].diff(dim=2).abs().mean(dim=(0, 1, 3)) for row in ("Padded", "Smoothed"))
    for seam in (margin, toy_world.SIZE - margin):
        assert after[seam - 2 : seam + 1].max() < 0.5 * before[seam - 1]
    drawn = torch.cat([made["Smoothed"][:, :, :margin], made["Smoothed"][:, :, -margin:]], dim=2)
    ground = clip.frames[toy_metrics.erode_mask(clip.ground)].mean(dim=0)
    assert (drawn.mean(dim=(0, 1, 2)) - ground).abs().max() < 0.2


def test_a_style_takes_the_colours_and_keeps_the_outlines(twin, clip):
    made, plain = twin("style_lora"), twin("style_lora", strength_model=0.0)
    for row in ("Frame-wise", "Smoothed"):
        assert colourfulness(made[row]) < 0.25 * colourfulness(made["Source"])
        assert colourfulness(plain[row]) > 0.6 * colourfulness(made["Source"])
        assert toy_metrics.shape_iou(made[row], clip) > 0.6


def colourfulness(frames: Tensor) -> float:
    """How far the channels of a pixel lie apart, 0..1, on average."""
    return (frames.amax(dim=-1) - frames.amin(dim=-1)).mean().item()


def test_an_upscaled_clip_is_larger_and_shows_the_same(twin, clip):
    made = twin("tile_upscale")
    assert made["Source"].shape[1] == toy_world.SIZE // 2 and made["Smoothed"].shape == clip.frames.shape
    assert toy_metrics.shape_iou(made["Smoothed"], clip) > 0.6


def test_matting_keeps_the_outlines(twin, clip):
    """On mattes that do not flicker: what the chain costs them."""
    found, known = twin("matting")["Smoothed"][..., 0] > 0.5, clip.ground < 0.5
    assert (found & known).sum() / (found | known).sum() > 0.7


def test_an_instruction_is_followed_and_the_rest_is_kept(twin, clip):
    made = twin("instruct_pix2pix")
    red = replace(clip, caption="a red square on a yellow background, patchy")
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.caption_accuracy(made[row], red) > 0.8
        assert toy_metrics.shape_iou(made[row], clip) > 0.7


def test_a_clip_in_windows_keeps_what_it_shows(twin, clip):
    made = twin("zeroscope")
    for row in ("Frame-wise", "Smoothed"):
        assert toy_metrics.shape_iou(made[row], clip) > 0.6
        assert toy_metrics.caption_accuracy(made[row], clip) > 0.8
    assert total_flicker(made["Smoothed"], clip) < 0.6 * total_flicker(made["Frame-wise"], clip)


def test_zeroscope_s_own_graph_runs_on_a_folder_of_diffusers(server, object_info):
    """At a small size, on random weights; shown one frame at a time, they stand in for Stable Diffusion 1.5 as well."""
    write_zeroscope_folder(server.base / "models" / "diffusers" / "zeroscope_v2_576w")
    prompt = convert_ui_to_api(write_workflows.workflow("zeroscope", object_info, demo=False), object_info)
    small = {"steps": 3, "width": 64, "height": 32, "count": 6, "frames_per_batch": 1}
    small |= {"context_length": 4, "context_overlap": 2}
    for node in prompt.values():
        node["inputs"].update({key: value for key, value in small.items() if key in node["inputs"]})
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="BIVDiffVideoModelLoader", inputs={"name": "zeroscope_v2_576w"})
    ran = server.run(prompt)
    assert not ran.error
    assert read_frames(server, ran, prompt, "Smoothed").shape == (6, 32, 64, 3)


def test_animatediff_s_outlines_are_followed(twin, clip):
    assert toy_metrics.shape_iou(twin("animatediff")["Smoothed"], clip) > 0.6


def test_wan_hears_both_branches(twin):
    ends = [twin("wan", steps=4, mixing_ratio=ratio)["Smoothed"] for ratio in (0.0, 1.0)]
    assert ends[0].shape == ends[1].shape == (5, toy_world.SIZE, toy_world.SIZE, 3)
    assert (ends[0] - ends[1]).abs().mean() > 0.01

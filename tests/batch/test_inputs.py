"""The inputs of a batch (workflow, settings, seeds, clips), without a ComfyUI."""

import json
import os
import re
from fractions import Fraction

import av
import pytest
from fixtures.batch_folder import ROOT, WORKFLOW

from batch.clip_runner import find_warning
from batch.clips import Shard, find_clips, parse_shard
from batch.records import BatchError
from batch.saved_workflow import (
    apply_seeds,
    apply_settings,
    collect_strings,
    convert_workflow,
    find_text_inputs,
    read_workflow,
    strip_layout,
    texts_by_title,
)

LOAD, SAVE = {"type": "LoadVideo", "widgets_values": ["any.mp4"]}, {"type": "SaveVideo", "widgets_values": ["video"]}


def ui_workflow(*nodes: dict, subgraphs: tuple = ()) -> dict:
    return {"nodes": list(nodes), "links": [], "definitions": {"subgraphs": list(subgraphs)}}


def subgraph(name: str, *nodes: dict) -> dict:
    return {"id": name, "nodes": list(nodes)}


@pytest.fixture
def save_and_read(tmp_path):
    """Writes a workflow to a file and reads it with `read_workflow`."""

    def save_and_read(workflow: object) -> dict:
        path = tmp_path / "workflow.json"
        path.write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
        return read_workflow(path)

    return save_and_read


# Workflows


@pytest.mark.parametrize(
    "workflow",
    [
        WORKFLOW,
        ui_workflow(LOAD, SAVE),
        ui_workflow(LOAD, SAVE, {**SAVE, "mode": 2}, {**LOAD, "mode": 4}),
        ui_workflow({"type": "outer"}, LOAD, subgraphs=(subgraph("outer", {"type": "inner"}), subgraph("inner", SAVE))),
        ui_workflow({"type": "unused", "mode": 2}, LOAD, SAVE, subgraphs=(subgraph("unused", SAVE),)),
        {**WORKFLOW, "4": {"class_type": "Anything Everywhere", "inputs": {}}},
    ],
    ids=["API", "UI", "muted and bypassed", "in subgraphs", "muted subgraph", "API with Use Everywhere"],
)
def test_one_load_and_one_save_are_accepted(save_and_read, workflow):
    assert save_and_read(workflow) == workflow


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_all_shipped_workflows_but_seven_are_accepted(path):
    """Four bring their clips, inpainting loads its masks and VACE the source as a second video, one has its Save
    Video muted."""
    rejected = dict.fromkeys(("BIVDiff 01", "BIVDiff 02", "BIVDiff 03", "BIVDiff 18"), "found 0 Load Video")
    rejected |= dict.fromkeys(("BIVDiff 07", "BIVDiff 22"), "found 2 Load Video") | {"BIVDiff 17": "and 0 Save Video"}
    if path.stem[:10] in rejected:
        with pytest.raises(BatchError, match=rejected[path.stem[:10]]):
            read_workflow(path)
    else:
        read_workflow(path)


@pytest.mark.parametrize(
    ("workflow", "found"),
    [
        (ui_workflow(SAVE), "found 0 Load Video and 1 Save Video."),
        (ui_workflow(LOAD), "found 1 Load Video and 0 Save Video."),
        (ui_workflow(LOAD, LOAD, SAVE), "found 2 Load Video and 1 Save Video."),
        (
            ui_workflow(LOAD, SAVE, {"type": "twice"}, subgraphs=(subgraph("twice", SAVE),)),
            "found 1 Load Video and 2 Save Video.",
        ),
        (
            ui_workflow({"type": "VHS_LoadVideo"}, SAVE, {"type": "CreateVideo"}),
            "found 0 Load Video and 1 Save Video, and VHS_LoadVideo.",
        ),
        ({**WORKFLOW, "4": WORKFLOW["3"]}, "found 1 Load Video and 2 Save Video."),
        (
            ui_workflow(LOAD, SAVE, {"type": "workflow>upscale"}),
            "The workflow has legacy group nodes (workflow>upscale), which only the browser resolves: make them",
        ),
        (
            ui_workflow(
                LOAD, SAVE, {"type": "everywhere"}, subgraphs=(subgraph("everywhere", {"type": "Seed Everywhere"}),)
            ),
            "The workflow has links of Use Everywhere (Seed Everywhere), which only the browser resolves",
        ),
        ({"a": 1}, "is JSON but not a workflow: save it with ComfyUI's Save or Export (API)."),
        ("[1]", "is JSON but not a workflow"),
        ("not JSON", "is not JSON: give a workflow saved by ComfyUI."),
    ],
)
def test_the_error_says_what_was_found(save_and_read, workflow, found):
    with pytest.raises(BatchError) as error:
        save_and_read(workflow)
    assert found in str(error.value)


def test_moving_a_node_keeps_the_hash_and_changing_it_does_not():
    def node(scale=1, **changes):
        return ui_workflow({**LOAD, "pos": [1, 2], **changes}, SAVE) | {"extra": {"ds": {"scale": scale}}}

    assert strip_layout(node(pos=[3, 4], size=[5, 6], scale=2)) == strip_layout(node())
    assert strip_layout(node(mode=4)) != strip_layout(node())
    assert strip_layout(node(widgets_values=["other.mp4"])) != strip_layout(node())
    assert strip_layout(WORKFLOW) == WORKFLOW


def test_strings_are_collected_except_from_load_video():
    inner = {"type": "Loader", "widgets_values": {"name": "b.safetensors", "more": ["c.png", 3]}}
    workflow = ui_workflow(LOAD, SAVE, {"type": "inner"}, subgraphs=(subgraph("inner", inner),))
    assert collect_strings(workflow, ["Loader.name=d.ckpt"]) == {"b.safetensors", "c.png", "video", "d.ckpt"}
    assert collect_strings(WORKFLOW, []) >= {"tiny.safetensors", "style.png"}


# Settings and seeds


def test_a_setting_keeps_the_type_of_the_value():
    node = {"class_type": "N", "inputs": {"text": "a", "steps": 3, "cfg": 1.5, "on": True, "codec.mode": "x"}}
    settings = ["N.text=5", "N.steps=4", "N.cfg=2", "N.on=false", "N.codec.mode=a=b"]
    changed = apply_settings({"1": node}, settings)["1"]["inputs"]
    assert changed == {"text": "5", "steps": 4, "cfg": 2, "on": False, "codec.mode": "a=b"}
    assert node["inputs"]["steps"] == 3


def test_a_title_of_two_nodes_is_ambiguous():
    prompt = {key: {"class_type": "N", "inputs": {"steps": 3}} for key in "12"}
    with pytest.raises(BatchError, match="matches 2 nodes: give the node a unique title"):
        apply_settings(prompt, ["N.steps=4"])


def test_seeds_depend_on_saved_seeds_and_content():
    prompt = {
        key: {"class_type": key, "inputs": {"noise_seed" if key == "b" else "seed": seed}}
        for key, seed in {"a": 1, "b": 2, "c": 1, "d": ["a", 0]}.items()
    }
    _, seeds = apply_seeds(prompt, "content")
    assert seeds.keys() == {"a.seed", "b.noise_seed", "c.seed"}
    assert seeds["a.seed"] == seeds["c.seed"] != seeds["b.noise_seed"]
    assert all(0 <= seed < 2**32 for seed in seeds.values())
    assert apply_seeds(prompt, "other content")[1].values() != seeds.values()


def test_alternatives_in_a_prompt_depend_on_the_seed_alone():
    node = {"id": 1, "type": "Text", "inputs": [], "outputs": [], "widgets_values": ["{a|b|c|d|e|f|g|h} {i|j|k|l|m}"]}
    info = {"Text": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}], "any": "*"}}}}
    workflow = ui_workflow(node)

    def choose(seed: str) -> str:
        prompt = convert_workflow(workflow, info, seed)
        ((title, text),) = texts_by_title(prompt, find_text_inputs(info)).items()
        assert title == "Text.text" and re.fullmatch("[a-h] [i-m]", text)
        return text

    assert choose("one") == choose("one")
    assert len({choose(str(seed)) for seed in range(20)}) > 1


# Clips


@pytest.mark.parametrize(("ratio", "is_distorted"), [(None, False), (Fraction(1), False), (Fraction(16, 15), True)])
def test_a_clip_whose_pixels_are_not_square_gets_a_warning(tmp_path, ratio, is_distorted):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        for packet in [*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()]:
            container.mux(packet)
    assert ("pixels are not square (16:15)" in find_warning(tmp_path / "clip.mp4")) is is_distorted


def test_a_clip_that_is_no_video_gets_no_warning(tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video")
    assert find_warning(tmp_path / "notes.mp4") == ""


@pytest.fixture
def clips_folder(tmp_path, monkeypatch):
    """Clips and another file, in folders below the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("shots/b.mp4", "shots/a.MOV", "shots/night [1]/a.mp4", "shots/notes.txt", "more/c.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def clip_names(*sources: str) -> list[str]:
    clips = find_clips(list(sources), out=os.path.abspath("out"))
    assert all(os.path.isabs(clip.path) and os.path.isfile(clip.path) for clip in clips)
    return [clip.name for clip in clips]


def test_a_folder_a_glob_a_list_and_files(clips_folder):
    assert clip_names("shots") == ["a.MOV", "b.mp4", "night [1]/a.mp4"]
    assert clip_names("shots/night [1]") == ["a.mp4"]
    assert clip_names("shots/*.mp4") == ["b.mp4"]
    assert clip_names("*/*.*") == ["more/c.webm", "shots/a.MOV", "shots/b.mp4"]
    assert clip_names("shots/b.mp4", "more/c.webm") == ["b.mp4", "c.webm"]
    assert clip_names("shots/b.mp4", "shots").count("b.mp4") == 1
    (clips_folder / "shots" / "list.txt").write_text("b.mp4\n\nnight [1]/a.mp4\n../more/c.webm\n")
    assert clip_names("shots/list.txt") == ["b.mp4", "c.webm", "night [1]/a.mp4"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nowhere"], "nowhere does not exist: give a folder, a list or a glob of clips."),
        (["*.mp4"], "No clips in"),
        (["shots", "shots/night [1]/a.mp4", "more/a.mp4"], "would both become a.mp4 in OUT: rename one of them."),
        (["list.txt"], "list.txt lists 1 files that do not exist, the first is"),
        (["out"], "is inside OUT, so results would become clips: choose another folder for OUT."),
    ],
)
def test_wrong_clips(clips_folder, sources, message):
    (clips_folder / "more" / "a.mp4").touch()
    (clips_folder / "list.txt").write_text("gone.mp4\n")
    (clips_folder / "out").mkdir()
    (clips_folder / "out" / "a.mp4").touch()
    with pytest.raises(BatchError) as error:
        clip_names(*sources)
    assert message in str(error.value)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_split_the_clips(clips_folder, count):
    shards = [find_clips(["shots"], clips_folder / "out", Shard(i, count)) for i in range(count)]
    found = sorted((clip for shard in shards for clip in shard), key=lambda clip: clip.name)
    assert found == find_clips(["shots"], clips_folder / "out")
    assert parse_shard(f"{count - 1}/{count}") == Shard(count - 1, count)


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "1/0", "/"])
def test_a_wrong_shard(text):
    with pytest.raises(BatchError, match="expected I/N with I from 0 to N - 1"):
        parse_shard(text)

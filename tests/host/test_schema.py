"""Saved workflows rely on node ids, inputs, choices, defaults and outputs, so these are only ever appended."""

import json
import re
from pathlib import Path

import comfy.samplers

FROZEN = Path(__file__).with_name("schema.json")
COMFYUI_CHOICES = (list(comfy.samplers.SAMPLER_NAMES), list(comfy.samplers.SCHEDULER_NAMES))
FILES = ("name", "latent")
"""Inputs whose choices are files on the user's disk."""


def shape(schema) -> dict[str, list]:
    """The part of a schema that saved workflows refer to."""
    return {
        "inputs": [[item.id, item.get_io_type()] for item in schema.inputs],
        "outputs": [[item.display_name, item.get_io_type()] for item in schema.outputs],
        "choices": {item.id: item.options for item in schema.inputs if has_own_choices(item)},
        "defaults": {item.id: item.default for item in schema.inputs if getattr(item, "default", None) is not None},
    }


def has_own_choices(item) -> bool:
    """Whether an input is a list of choices defined by this pack, not ComfyUI's choices or files."""
    return item.get_io_type() == "COMBO" and item.options not in COMFYUI_CHOICES and item.id not in FILES


def test_every_change_is_an_append(schemas):
    """After an append, this updates schema.json and fails once. If it fails for another reason, undo the change."""
    frozen = json.loads(FROZEN.read_text())
    now = {node_id: shape(schema) for node_id, schema in schemas.items()}
    for node_id, before in frozen.items():
        assert node_id in now, f"{node_id} was removed"
        for side in ("inputs", "outputs"):
            kept = now[node_id][side][: len(before[side])]
            assert kept == before[side], f"{node_id}: {side} were renamed, reordered or removed"
        for name, options in before["choices"].items():
            kept = now[node_id]["choices"][name][: len(options)]
            assert kept == options, f"{node_id}: choices of {name} were renamed, reordered or removed"
        assert before["defaults"].items() <= now[node_id]["defaults"].items(), f"{node_id}: a default was changed"
    if now != frozen:
        FROZEN.write_text(format_schemas(frozen | now))
    assert now == frozen, f"{FROZEN.name} has been updated with the new parts; commit it"


def format_schemas(shapes: dict[str, dict]) -> str:
    """JSON with each innermost list on one line."""
    text = json.dumps(shapes, indent=2) + "\n"
    return re.sub(r"\[[^][{}]+]", lambda match: json.dumps(json.loads(match[0])), text)


def test_everything_is_explained(schemas):
    for node_id, schema in schemas.items():
        assert schema.display_name and schema.description and schema.search_aliases, node_id
        assert schema.category.split("/")[0] == "BIVDiff", node_id
        for item in [*schema.inputs, *schema.outputs]:
            assert item.tooltip, f"{node_id}: {item.id or item.display_name} has no tooltip"


ADVANCED = {"boundary", "grid", "group_norms", "context_overlap", "frames_per_batch"}
"""Inputs that most users do not change; the frontend hides them under "advanced"."""


def test_essentials_come_first(schemas):
    inputs = {(node_id, item.id): item for node_id, schema in schemas.items() for item in schema.inputs}
    hidden = {key for key in inputs if key[1] in ADVANCED} | {("BIVDiffTemporalSmoother", "strength")}
    hidden -= {("BIVDiffFrameChunks", "frames_per_batch")}  # its only control
    assert {key for key, item in inputs.items() if item.advanced} == hidden


def test_node_ids_have_the_packs_prefix(schemas):
    assert all(node_id.startswith("BIVDiff") for node_id in schemas)

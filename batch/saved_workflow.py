"""A saved workflow, in the format of ComfyUI's page or its API, made into the prompt for one clip."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from batch.records import BatchError

MUTED, BYPASSED = 2, 4
VIDEO_NODE_PATTERN = re.compile("load.*video|save.*video|video.*combine|save.*webm", re.IGNORECASE)
"""Nodes that an artist may have taken for the two."""
SEED_INPUTS = ("seed", "noise_seed")
LAYOUT_KEYS = {"bgcolor", "color", "extra", "flags", "groups", "order", "pos", "revision", "size", "version"}
LAYOUT_KEYS |= {"last_link_id", "last_node_id", "showAdvanced"}
"""What the page changes in its own format when nodes are only looked at or moved."""


def read_workflow(path: Path) -> dict:
    """A workflow from its file, refused if it has other than one Load Video and one Save Video."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BatchError(f"{path} cannot be read ({error.strerror}): give a workflow saved by ComfyUI.") from None
    except ValueError:
        raise BatchError(f"{path} is not JSON: give a workflow saved by ComfyUI.") from None
    if not isinstance(workflow, dict) or not (_is_ui(workflow) or _is_api(workflow)):
        raise BatchError(f"{path} is JSON but no workflow: save it with ComfyUI's Save or Export (API).")
    check_one_clip([kind for kind, _ in active_nodes(workflow)])
    return workflow


def _is_ui(workflow: dict) -> bool:
    return isinstance(workflow.get("nodes"), list)


def _is_api(workflow: dict) -> bool:
    return bool(workflow) and all(isinstance(node, dict) and "class_type" in node for node in workflow.values())


def active_nodes(workflow: dict) -> Iterator[tuple[str, object]]:
    """Each node's type and its settings: muted and bypassed nodes left out, subgraphs opened."""
    if _is_api(workflow):
        for node in workflow.values():
            yield node["class_type"], node["inputs"]
        return
    subgraphs = {graph["id"]: graph["nodes"] for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    waiting = [workflow["nodes"]]
    while waiting:
        for node in waiting.pop():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if node["type"] in subgraphs:
                waiting.append(subgraphs[node["type"]])
            yield node["type"], node.get("widgets_values")


def check_one_clip(types: list[str]) -> None:
    """Refuse node types with other than one Load Video and one Save Video among them."""
    loads, saves = types.count("LoadVideo"), types.count("SaveVideo")
    if (loads, saves) == (1, 1):
        return
    others = sorted({kind for kind in types if VIDEO_NODE_PATTERN.search(kind)} - {"LoadVideo", "SaveVideo"})
    found = f"{loads} Load Video and {saves} Save Video" + (f", beside {', '.join(others)}" if others else "")
    raise BatchError(f"A batch needs a workflow with one Load Video and one Save Video; found {found}.")


def strip_layout(workflow: dict) -> object:
    """A workflow without its layout: moving a node is no reason to do every clip again."""

    def strip(value: object) -> object:
        if isinstance(value, list):
            return [strip(part) for part in value]
        if isinstance(value, dict):
            return {k: v if k == "widgets_values" else strip(v) for k, v in value.items() if k not in LAYOUT_KEYS}
        return value

    return strip(workflow) if _is_ui(workflow) else workflow


def collect_strings(workflow: dict, settings: list[str]) -> set[str]:
    """Every string in the settings of a workflow's nodes that may name a file, but for the clip's own."""
    found = {setting.partition("=")[2] for setting in settings}

    def collect(value: object) -> None:
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, (list, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                collect(part)

    for kind, values in active_nodes(workflow):
        if kind != "LoadVideo":
            collect(values)
    return found


def node_title(node: dict) -> str:
    """What the page shows above a node of a prompt in API format."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def inputs_by_title(prompt: dict) -> dict[str, list[tuple[dict, str]]]:
    """The inputs of a prompt in API format by ``"Node title.input"``."""
    found: dict[str, list[tuple[dict, str]]] = {}
    for node in prompt.values():
        for name in node["inputs"]:
            found.setdefault(f"{node_title(node)}.{name}", []).append((node["inputs"], name))
    return found


def apply_settings(prompt: dict, settings: list[str]) -> dict:
    """A copy of a prompt in API format with every ``"Node title.input=value"`` in place."""
    prompt = copy.deepcopy(prompt)
    inputs = inputs_by_title(prompt)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BatchError(f'--set is "{setting}", expected "Node title.input=value".')
        if len(inputs.get(key, [])) != 1:
            raise BatchError(_unknown_input_error(key, inputs))
        ((values, name),) = inputs[key]
        if isinstance(values[name], list):
            raise BatchError(f'--set "{key}" is wired to another node, so that it has no value to set.')
        values[name] = _parse_value(key, values[name], text)
    return prompt


def _unknown_input_error(key: str, inputs: dict[str, list]) -> str:
    if key in inputs:
        return f'--set "{key}" fits {len(inputs[key])} nodes: give the one you mean a title of its own.'
    title = key.rpartition(".")[0]
    near = [found for found in inputs if found.startswith(f"{title}.")] or sorted(inputs)
    return f'--set "{key}" fits no node. There are: {", ".join(near)}.'


def _parse_value(key: str, old: object, text: str) -> object:
    """A value typed on the command line, of the kind that the workflow has there."""
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, bool) if isinstance(old, bool) else number:
        return value
    raise BatchError(f'--set "{key}" is "{text}", expected {"true or false" if isinstance(old, bool) else "a number"}.')


def apply_seeds(prompt: dict, clip_hash: str) -> tuple[dict, dict[str, int]]:
    """A copy of a prompt whose seeds follow from the clip's content and the saved seeds, and those seeds by title."""
    prompt = copy.deepcopy(prompt)
    seeds = {}
    for key, places in inputs_by_title(prompt).items():
        for values, name in places:
            if name in SEED_INPUTS and isinstance(values[name], int):
                digest = hashlib.sha256(f"{clip_hash} {values[name]}".encode()).hexdigest()
                seeds[key] = values[name] = int(digest[:8], 16)
    return prompt, seeds

"""Read a saved workflow, in UI or API format, and change its prompt for each clip."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from .records import BatchError

MUTED, BYPASSED = 2, 4
VIDEO_NODE_PATTERN = re.compile("load.*video|save.*video|video.*combine|save.*webm", re.IGNORECASE)
"""Node types that may have been used instead of Load Video and Save Video."""
GROUP_NODE_PATTERN = re.compile("^workflow[>/]")
USE_EVERYWHERE_PATTERN = re.compile("^(Anything|Prompts|Seed) Everywhere")
SEED_INPUTS = ("seed", "noise_seed")
LAYOUT_KEYS = {"bgcolor", "color", "extra", "flags", "groups", "order", "pos", "revision", "size", "version"}
LAYOUT_KEYS |= {"last_link_id", "last_node_id", "showAdvanced"}
"""Fields of the UI format that the frontend changes when nodes are only viewed or moved."""


def read_workflow(path: Path) -> dict:
    """Read a workflow; raise `BatchError` unless it has exactly one Load Video and one Save Video."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BatchError(f"{path} cannot be read ({error.strerror}): give a workflow saved by ComfyUI.") from None
    except ValueError:
        raise BatchError(f"{path} is not JSON: give a workflow saved by ComfyUI.") from None
    if not isinstance(workflow, dict) or not (is_ui(workflow) or _is_api(workflow)):
        raise BatchError(f"{path} is JSON but not a workflow: save it with ComfyUI's Save or Export (API).")
    types = [kind for kind, _ in active_nodes(workflow)]
    if is_ui(workflow):
        _check_convertible(types)
    check_one_clip(types)
    return workflow


def is_ui(workflow: dict) -> bool:
    """Whether a workflow is in the format of ComfyUI's Save, not of Export (API)."""
    return isinstance(workflow.get("nodes"), list)


def _is_api(workflow: dict) -> bool:
    return bool(workflow) and all(isinstance(node, dict) and "class_type" in node for node in workflow.values())


def active_nodes(workflow: dict) -> Iterator[tuple[str, object]]:
    """Yield each node's type and settings, also of nodes in subgraphs; skip muted and bypassed nodes."""
    if _is_api(workflow):
        for node in workflow.values():
            yield node["class_type"], node["inputs"]
        return
    subgraphs = {graph["id"]: graph["nodes"] for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    pending = [workflow["nodes"]]
    while pending:
        for node in pending.pop():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if node["type"] in subgraphs:
                pending.append(subgraphs[node["type"]])
            yield node["type"], node.get("widgets_values")


def check_one_clip(types: list[str]) -> None:
    """Raise `BatchError` unless node types contain exactly one Load Video and one Save Video."""
    loads, saves = types.count("LoadVideo"), types.count("SaveVideo")
    if (loads, saves) == (1, 1):
        return
    others = sorted({kind for kind in types if VIDEO_NODE_PATTERN.search(kind)} - {"LoadVideo", "SaveVideo"})
    found = f"{loads} Load Video and {saves} Save Video" + (f", and {', '.join(others)}" if others else "")
    raise BatchError(f"A batch needs a workflow with one Load Video and one Save Video; found {found}.")


def _check_convertible(types: list[str]) -> None:
    """Raise `BatchError` if a workflow in UI format has connections that only the frontend knows."""
    for pattern, what, remedy in (
        (GROUP_NODE_PATTERN, "legacy group nodes", "make them subgraphs in ComfyUI (convert to nodes first)"),
        (USE_EVERYWHERE_PATTERN, "links of Use Everywhere", "make them real links (in its menu on the canvas)"),
    ):
        if found := sorted(set(filter(pattern.search, types))):
            raise BatchError(
                f"The workflow has {what} ({', '.join(found)}), which only the browser resolves: {remedy} and save "
                "again, or use ComfyUI's Export (API)."
            )


def convert_workflow(workflow: dict, object_info: dict, seed: str) -> dict:
    """Return the prompt in API format.

    Args:
        object_info: the schemas of all nodes.
        seed: selects the alternatives of texts such as ``{a|b}``, so that all workers and later runs agree.
    """
    if not is_ui(workflow):
        return workflow
    from comfy_cli.workflow_to_api import WorkflowConversionError, convert_ui_to_api

    random.seed(seed)
    try:
        return convert_ui_to_api(workflow, object_info)
    except WorkflowConversionError as error:
        raise BatchError(f"The workflow cannot be converted ({error}): use ComfyUI's Export (API).") from None


def find_text_inputs(object_info: dict) -> set[tuple[str, str]]:
    """Return node type and name of each input that accepts alternatives such as ``{a|b}``: prompts."""
    return {
        (kind, name)
        for kind, schema in object_info.items()
        for section in ("required", "optional")
        for name, spec in (schema["input"].get(section) or {}).items()
        if any(isinstance(part, dict) and part.get("dynamicPrompts") for part in spec)
    }


def texts_by_title(prompt: dict, text_inputs: set[tuple[str, str]]) -> dict[str, str]:
    """Return the texts of a prompt's ``text_inputs`` by ``"Node title.input"``."""
    return {
        f"{node_title(node)}.{name}": value
        for node in prompt.values()
        for name, value in node["inputs"].items()
        if (node["class_type"], name) in text_inputs and isinstance(value, str)
    }


def strip_layout(workflow: dict) -> object:
    """Remove the layout from a workflow: moving a node must not process every clip again."""

    def strip(value: object) -> object:
        if isinstance(value, list):
            return [strip(part) for part in value]
        if isinstance(value, dict):
            return {k: v if k == "widgets_values" else strip(v) for k, v in value.items() if k not in LAYOUT_KEYS}
        return value

    return strip(workflow) if is_ui(workflow) else workflow


def collect_strings(workflow: dict, settings: list[str]) -> set[str]:
    """Collect all strings in node settings, since any may name a file; Load Video's are skipped."""
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
    """Return the title of a node of a prompt in API format."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def inputs_by_title(prompt: dict) -> dict[str, list[tuple[dict, str]]]:
    """Return the inputs of a prompt in API format by ``"Node title.input"``."""
    found: dict[str, list[tuple[dict, str]]] = {}
    for node in prompt.values():
        for name in node["inputs"]:
            found.setdefault(f"{node_title(node)}.{name}", []).append((node["inputs"], name))
    return found


def apply_settings(prompt: dict, settings: list[str]) -> dict:
    """Return a copy of a prompt in API format with every ``"Node title.input=value"`` applied."""
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
            raise BatchError(f'--set "{key}" is wired to another node, so it has no value to set.')
        values[name] = _parse_value(key, values[name], text)
    return prompt


def _unknown_input_error(key: str, inputs: dict[str, list]) -> str:
    if key in inputs:
        return f'--set "{key}" matches {len(inputs[key])} nodes: give the node a unique title.'
    title = key.rpartition(".")[0]
    similar = [found for found in inputs if found.startswith(f"{title}.")] or sorted(inputs)
    return f'--set "{key}" matches no input. Available: {", ".join(similar)}.'


def _parse_value(key: str, old: object, text: str) -> object:
    """Convert a value from the command line to the type of the workflow's value."""
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, bool) if isinstance(old, bool) else is_number:
        return value
    raise BatchError(f'--set "{key}" is "{text}", expected {"true or false" if isinstance(old, bool) else "a number"}.')


def apply_seeds(prompt: dict, clip_hash: str) -> tuple[dict, dict[str, int]]:
    """Return a copy of a prompt with seeds from the clip's hash and the saved seeds, and the new seeds by title."""
    prompt = copy.deepcopy(prompt)
    seeds = {}
    for key, inputs in inputs_by_title(prompt).items():
        for values, name in inputs:
            if name in SEED_INPUTS and isinstance(values[name], int):
                digest = hashlib.sha256(f"{clip_hash} {values[name]}".encode()).hexdigest()
                seeds[key] = values[name] = int(digest[:8], 16)
    return prompt, seeds

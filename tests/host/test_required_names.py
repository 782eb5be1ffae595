"""A ComfyUI that lacks a name which the pack imports: the log names it, and nodes that need it are not loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE_IDS = set(json.loads(Path(__file__).with_name("schema.json").read_text()))
LOAD = """
from tools.in_process_comfyui import use_comfyui
use_comfyui(cpu=True)
import asyncio, json, sys, nodes
import comfy.context_windows, comfy.diffusers_convert, comfy.sampler_helpers, comfy.t2i_adapter.adapter
{change}
before = set(nodes.NODE_CLASS_MAPPINGS)
asyncio.run(nodes.load_custom_node("."))
print(json.dumps(sorted(set(nodes.NODE_CLASS_MAPPINGS) - before)))
"""


def load_pack(change: str) -> tuple[set[str], str]:
    """Load the pack after a change of ComfyUI; return the loaded nodes and the log."""
    load = [sys.executable, "-c", LOAD.format(change=change)]
    finished = subprocess.run(load, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(finished.stdout.splitlines()[-1])), finished.stderr


def without(module: str) -> str:
    return f"del {module}; sys.modules[{module!r}] = None"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("del comfy.context_windows.IndexListCallbacks", "comfy.context_windows.IndexListCallbacks"),
        (without("comfy.sampler_helpers"), "comfy.sampler_helpers"),
    ],
    ids=["a name", "a module"],
)
def test_without_a_name_that_all_nodes_need_none_load(change, missing):
    nodes, log = load_pack(change)
    assert nodes == set()
    assert (
        f"ImportError: BIVDiff needs {missing}, which this ComfyUI does not have. Update ComfyUI; if it is up to date, "
        "update BIVDiff.\n"
    ) in log


@pytest.mark.parametrize(
    ("change", "missing", "file", "left_out"),
    [
        (
            "del comfy.diffusers_convert.convert_vae_state_dict",
            "comfy.diffusers_convert.convert_vae_state_dict",
            "video_model",
            ["BIVDiffVideoModelLoader"],
        ),
        (
            without("comfy.t2i_adapter.adapter"),
            "comfy.t2i_adapter.adapter",
            "demo_nodes",
            ["BIVDiffDemoModels", "BIVDiffDemoClip"],
        ),
    ],
    ids=["a name", "a module"],
)
def test_without_a_name_that_one_node_needs_the_others_load(change, missing, file, left_out):
    nodes, log = load_pack(change)
    assert nodes == NODE_IDS - set(left_out)
    assert (
        f"BIVDiff loads without the nodes of {file}.py. Missing in ComfyUI: {missing}. Update ComfyUI; if it is up to "
        "date, update BIVDiff.\n"
    ) in log

"""A ComfyUI that lacks something the pack takes from it: one sentence in the log, and no node at all."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOAD = """
from tools.host import use_comfyui
use_comfyui(cpu=True)
import asyncio, sys, nodes
import comfy.context_windows, comfy.t2i_adapter.adapter
{change}
before = set(nodes.NODE_CLASS_MAPPINGS)
assert not asyncio.run(nodes.load_custom_node("."))
assert set(nodes.NODE_CLASS_MAPPINGS) == before
"""


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("del comfy.context_windows.IndexListCallbacks", "comfy.context_windows.IndexListCallbacks"),
        ("del comfy.t2i_adapter.adapter; sys.modules['comfy.t2i_adapter.adapter'] = None", "comfy.t2i_adapter.adapter"),
    ],
    ids=["a name", "a module"],
)
def test_the_log_says_what_is_missing(change, missing):
    load = LOAD.format(change=change)
    log = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    assert (
        f"ImportError: BIVDiff needs {missing}, which this ComfyUI does not have. Update ComfyUI; if it is the newest, "
        "update BIVDiff.\n"
    ) in log

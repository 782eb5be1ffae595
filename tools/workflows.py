"""Writes the shipped workflows from their recipes, so that they stay consistent with the nodes and each other.

    python tools/workflows.py

Every recipe can also be built as its demo twin: the same graph on the demo models, at their size and number of steps,
which the tests run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tools.graph import Drawing, Graph  # noqa: E402
from tools.host import COMFYUI  # noqa: E402
from tools.server import Server  # noqa: E402

WORKFLOWS = ROOT / "workflows"
RECIPES = (
    "controlnet",
    "t2i_adapter",
    "instruct_pix2pix",
    "prompt2prompt",
    "inpainting",
    "outpainting",
    "style_lora",
    "tile_upscale",
    "matting",
    "own_frames",
    "zeroscope",
    "animatediff",
    "wan",
    "sweep",
)
GRAPHS: dict[str, Drawing] = {name: import_module(f"tools.recipes.{name}").draw for name in RECIPES}


def workflow(name: str, object_info: dict, demo: bool, graphs: dict[str, Drawing] = GRAPHS) -> dict:
    """A workflow in the frontend's format; ``demo`` for its twin on the demo models."""
    graph = Graph(f"{name}_demo" if demo else name, object_info, demo)
    graphs[name](graph)
    return graph.ui()


def write(folder: Path, graphs: dict[str, Drawing]) -> None:
    """Write workflows into a folder."""
    with tempfile.TemporaryDirectory() as base, Server(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        object_info = server.object_info()
    for name in graphs:
        text = as_text(workflow(name, object_info, demo=False, graphs=graphs))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def as_text(workflow: dict) -> str:
    """A workflow as its file holds it."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write(WORKFLOWS, GRAPHS)

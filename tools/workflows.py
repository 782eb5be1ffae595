"""Writes the shipped workflows and the blueprint from their recipes, consistent with the nodes and each other.

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
from tools.recipes.one_node import SEARCH_ALIASES, one_node  # noqa: E402
from tools.server import Server  # noqa: E402

WORKFLOWS = ROOT / "workflows"
BLUEPRINT = ROOT / "subgraphs" / "BIVDiff.json"
RECIPES = (
    "deflicker_demo",
    "bivdiff_demo",
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


def blueprint(object_info: dict) -> dict:
    """The chain as one node, in the frontend's format."""
    return one_node(object_info, demo=False).blueprint(SEARCH_ALIASES)


def as_text(workflow: dict) -> str:
    """A workflow as its file holds it."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path, graphs: dict[str, Drawing], object_info: dict) -> None:
    """Write workflows into a folder."""
    for name in graphs:
        text = as_text(workflow(name, object_info, demo=False, graphs=graphs))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def schemas() -> dict:
    """Those of all nodes of a ComfyUI with the pack."""
    with tempfile.TemporaryDirectory() as base, Server(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        return server.object_info()


if __name__ == "__main__":
    object_info = schemas()
    write(WORKFLOWS, GRAPHS, object_info)
    BLUEPRINT.write_text(as_text(blueprint(object_info)), encoding="utf-8")

"""Write the shipped workflows, the released configurations and the blueprints from their recipes.

    python -m tools.write_workflows

Recipes also have a demo version: the same graph with the demo models, at their size and number of steps. The tests run
it. Recipes of models that the demo models cannot replace have none.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from batch.comfyui_server import ComfyUIServer
from tools import released_workflows
from tools.in_process_comfyui import COMFYUI
from tools.recipes import one_node, one_node_flow
from tools.workflow_graph import GraphBuilder, WorkflowGraph

ROOT = Path(__file__).resolve().parents[1]

WORKFLOWS = ROOT / "workflows"
BLUEPRINTS = ROOT / "subgraphs"
TEMPLATES = {
    "deflicker_demo": "BIVDiff 01 Deflicker demo - no downloads",
    "stages_demo": "BIVDiff 02 Deflicker demo stage by stage - no downloads",
    "controlnet_node": "BIVDiff 03 ControlNet - new video from outlines",
    "t2i_adapter": "BIVDiff 04 T2I-Adapter - new video from outlines",
    "instruct_pix2pix": "BIVDiff 05 InstructPix2Pix - edit by instruction",
    "prompt2prompt": "BIVDiff 06 Prompt2Prompt - edit by changing words",
    "inpainting": "BIVDiff 07 Inpainting - redraw what a mask covers",
    "outpainting": "BIVDiff 08 Outpainting - beyond the edges",
    "style_lora": "BIVDiff 09 Style LoRA - redraw in a style",
    "tile_upscale": "BIVDiff 10 Tile upscale - enlarge and add detail",
    "matting": "BIVDiff 11 Matting - cut out the subject",
    "own_frames": "BIVDiff 12 Own frames - deflicker any video",
    "zeroscope": "BIVDiff 13 ZeroScope - repaint a long clip",
    "animatediff": "BIVDiff 14 AnimateDiff - new video from outlines",
    "wan": "BIVDiff 15 Wan - deflicker with one model",
    "sweep": "BIVDiff 16 Sweep - find your mixing ratio",
    "saved_inversion": "BIVDiff 17 Saved inversion - try settings another day",
    "folder": "BIVDiff 18 Folder - deflicker every clip in it",
    "qwen_edit": "BIVDiff 19 Qwen-Image-Edit and Wan - edit by instruction",
    "kontext": "BIVDiff 20 Flux Kontext and Wan - edit by instruction",
    "wan_experts": "BIVDiff 21 Wan 2.2 - deflicker with two experts",
    "vace": "BIVDiff 22 Wan VACE - deflicker along outlines",
    "ltx2": "BIVDiff 23 LTX-2 - deflicker with one model",
    "borrowed_control": "BIVDiff 24 Borrow Control - video from noise along outlines",
    "part_again": "BIVDiff 25 Part again - deflicker some frames and put them back",
    "controlnet": "BIVDiff 26 ControlNet stage by stage - new video from outlines",
}
"""The name of each recipe in the template browser, which sorts and searches by file name."""
RECIPES: dict[str, GraphBuilder] = {recipe: import_module(f"tools.recipes.{recipe}").build for recipe in TEMPLATES}
ALL_RECIPES = RECIPES | released_workflows.RECIPES
FILES = {recipe: WORKFLOWS / f"{name}.json" for recipe, name in TEMPLATES.items()}
FILES |= {recipe: WORKFLOWS / "released" / f"{recipe}.json" for recipe in released_workflows.RECIPES}


def build_workflow(name: str, object_info: dict, demo: bool) -> dict:
    """A workflow in the frontend's format; with ``demo`` its version for the demo models."""
    graph = WorkflowGraph(f"{name}_demo" if demo else name, object_info, demo)
    ALL_RECIPES[name](graph)
    return graph.ui()


def build_blueprints(object_info: dict) -> dict[Path, dict]:
    """The chains as one node, in the frontend's format, by file. It shows the files' names and searches only them."""
    chains = (one_node.build_one_node(object_info, demo=False), one_node_flow.build_flow_node(object_info))
    return {BLUEPRINTS / f"{chain.name}.json": chain.blueprint() for chain in chains}


def to_json(workflow: dict) -> str:
    """The content of a workflow's file."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file, with the schemas of a ComfyUI with the pack."""
    with tempfile.TemporaryDirectory() as base, ComfyUIServer(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        object_info = server.object_info()
    for name, file in FILES.items():
        file.write_text(to_json(build_workflow(name, object_info, demo=False)), encoding="utf-8")
    for file, blueprint in build_blueprints(object_info).items():
        file.write_text(to_json(blueprint), encoding="utf-8")


if __name__ == "__main__":
    main()

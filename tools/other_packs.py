"""Check this pack together with other packs: all still import, no node is lost, and the demo's frames are the same.

    python dev.py other-packs FOLDER

FOLDER contains the packs, like ComfyUI's custom_nodes; their requirements must be installed in ComfyUI's Python.
This starts ComfyUI three times: with only this pack, with only the others, and with all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from comfy_cli.workflow_to_api import convert_ui_to_api

from batch.comfyui_server import ComfyUIServer, ServerError
from tools.demo import VIDEO_TITLES, WORKFLOW
from tools.in_process_comfyui import COMFYUI
from tools.video_files import read_frames

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class LoadResult:
    """Result of a ComfyUI with some packs.

    nodes: the module of each node id. failed: packs that did not import. frames, error: result of the demo.
    """

    nodes: dict[str, str]
    failed: list[str]
    frames: dict[str, torch.Tensor] = field(default_factory=dict)
    error: str = ""


def load_packs(base: Path, cpu: bool, pack: Path = ROOT, extra_packs: Sequence[Path] = ()) -> LoadResult:
    """Start ComfyUI with a pack and the packs in the folders ``extra_packs``; run the demo if the pack is this one."""
    with ComfyUIServer(sys.executable, COMFYUI, base, cpu, pack=pack, extra_packs=extra_packs) as server:
        info = server.object_info()
        nodes = {node_id: node["python_module"] for node_id, node in info.items()}
        failed = re.findall(r"seconds \(IMPORT FAILED\): (.+)", server.log)
        if pack != ROOT:
            return LoadResult(nodes, failed)
        prompt = convert_ui_to_api(json.loads(WORKFLOW.read_text(encoding="utf-8")), info)
        try:
            run = server.run(prompt)
        except ServerError as error:
            return LoadResult(nodes, failed, error=str(error))
        if run.error:
            return LoadResult(nodes, failed, error=run.error)
        return LoadResult(nodes, failed, {row: read_frames(server, run, prompt, row) for row in VIDEO_TITLES})


def find_problems(ours: LoadResult, theirs: LoadResult, together: LoadResult) -> list[str]:
    """Problems with all packs loaded that are not there without this pack, one sentence each."""
    found = [f"{Path(pack).name} does not import" for pack in together.failed if pack not in theirs.failed]
    for node_id, module in sorted((theirs.nodes | ours.nodes).items()):
        if node_id not in together.nodes:
            found.append(f"{node_id} of {module} is lost")
        elif together.nodes[node_id] != module:
            found.append(f"{node_id} of {module} is replaced by that of {together.nodes[node_id]}")
    if ours.error or together.error:
        return [*found, f"the demo fails: {ours.error or together.error}"]
    changed = [row for row in VIDEO_TITLES if not torch.equal(ours.frames[row], together.frames[row])]
    return found + [f"the demo's frames change: {row}" for row in changed]


def main() -> int:
    """Run the three starts, print the problems, and return 1 if there is any."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    packs = sorted(entry for entry in folder.glob("*") if (entry / "__init__.py").is_file() and entry != ROOT)
    if not packs:
        sys.exit(f"There is no pack in {folder}: give the folder that contains the other packs, one folder each.")
    print(f"With {', '.join(pack.name for pack in packs)}", flush=True)
    with tempfile.TemporaryDirectory() as base:
        ours = load_packs(Path(base, "ours"), arguments.cpu)
        theirs = load_packs(Path(base, "theirs"), arguments.cpu, packs[0], extra_packs=[folder])
        together = load_packs(Path(base, "together"), arguments.cpu, extra_packs=[folder])
    for pack in theirs.failed:
        print(f"  {Path(pack).name} does not import in this ComfyUI, without this pack either")
    found = find_problems(ours, theirs, together)
    for problem in found:
        print(f"- {problem}")
    if not found:
        print("All packs import as without this one, no node id is lost, and the demo's frames are the same.")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(str(error))

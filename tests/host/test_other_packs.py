"""`dev.py other-packs` on packs that behave and packs that do not."""

import os
import subprocess
import sys
from pathlib import Path

from tools.in_process_comfyui import COMFYUI

ROOT = Path(__file__).resolve().parents[2]
PACK = """
class Node:
    RETURN_TYPES = ("INT",)
    FUNCTION = "give"
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{}}}})

    def give(self):
        return (1,)

NODE_CLASS_MAPPINGS = {{{node_id!r}: Node}}
"""
IMPORTS_ALONE = f"""
import sys

if {ROOT.name!r} in sys.argv:
    raise ImportError("this pack is loaded too")
NODE_CLASS_MAPPINGS = {{}}
"""
LOUDER_NOISE = """
import comfy.sample

whole = comfy.sample.prepare_noise
comfy.sample.prepare_noise = lambda *args, **kwargs: whole(*args, **kwargs) * 1.01
NODE_CLASS_MAPPINGS = {}
"""


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)


def run_with_packs(folder: Path) -> tuple[int, list[str]]:
    """Run the command; return its status and the lines after the packs' names."""
    command = [sys.executable, ROOT / "dev.py", "other-packs", folder]
    variables = {"COMFYUI_PATH": str(COMFYUI), "COMFYUI_PYTHON": sys.executable}
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=600)
    lines = ended.stdout.splitlines()
    names = ", ".join(sorted(pack.name for pack in folder.iterdir()))
    assert f"With {names}" in lines, ended.stdout + ended.stderr
    return ended.returncode, lines[lines.index(f"With {names}") + 1 :]


def test_a_pack_without_conflicts(tmp_path):
    write(tmp_path, "Good", PACK.format(node_id="NewNode"))
    status, (line,) = run_with_packs(tmp_path)
    assert status == 0
    assert line == "All packs import as without this one, no node id is lost, and the demo's frames are the same."


def test_conflicts_are_named(tmp_path):
    """One uses a node id of this pack, one does not import beside it, one changes the noise of every sampler.

    A pack that does not import alone is not a problem.
    """
    write(tmp_path, "Good", PACK.format(node_id="NewNode"))
    write(tmp_path, "SameNodeId", PACK.format(node_id="BIVDiffFrameNoise"))
    write(tmp_path, "Broken", "import no_such_module\n")
    write(tmp_path, "ImportsAlone", IMPORTS_ALONE)
    write(tmp_path, "LouderNoise", LOUDER_NOISE)
    status, lines = run_with_packs(tmp_path)
    assert status == 1
    assert lines.pop(0) == "  Broken does not import in this ComfyUI, without this pack either"
    assert "- ImportsAlone does not import" in lines
    (replaced,) = (line for line in lines if "BIVDiffFrameNoise" in line)
    assert "is replaced by that of" in replaced
    changed = [line for line in lines if "frames change" in line]
    assert [line.rpartition(": ")[2] for line in changed] == ["Frame-wise", "Smoothed"]
    assert len(lines) == 2 + len(changed)

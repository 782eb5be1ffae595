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
LOUDER_NOISE = """
import comfy.sample

whole = comfy.sample.prepare_noise
comfy.sample.prepare_noise = lambda *args, **kwargs: whole(*args, **kwargs) * 1.01
NODE_CLASS_MAPPINGS = {}
"""


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)


def run_command(folder: Path) -> tuple[int, list[str]]:
    """Run the command; return its status and the lines after the packs' names."""
    command = [sys.executable, ROOT / "dev.py", "other-packs", folder]
    own = {"COMFYUI_PATH": str(COMFYUI), "COMFYUI_PYTHON": sys.executable}
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, timeout=600)
    said = ended.stdout.splitlines()
    names = ", ".join(sorted(pack.name for pack in folder.iterdir()))
    assert f"With {names}" in said, ended.stdout + ended.stderr
    return ended.returncode, said[said.index(f"With {names}") + 1 :]


def test_a_pack_that_changes_nothing_passes(tmp_path):
    write(tmp_path, "Good", PACK.format(node_id="GoodNode"))
    status, (said,) = run_command(tmp_path)
    assert (
        status == 0
        and said.startswith("All packs import, none of ")
        and said.endswith("the demo's frames are the same.")
    )


def test_each_problem_is_named(tmp_path):
    """One uses a node id of this pack, one does not import, one changes the noise of every sampler."""
    write(tmp_path, "Good", PACK.format(node_id="GoodNode"))
    write(tmp_path, "Thief", PACK.format(node_id="BIVDiffFrameNoise"))
    write(tmp_path, "Broken", "import no_such_module\n")
    write(tmp_path, "Loud", LOUDER_NOISE)
    status, said = run_command(tmp_path)
    assert status == 1
    assert "- Broken does not import" in said
    (taken,) = (line for line in said if "BIVDiffFrameNoise" in line)
    assert "is replaced by that of" in taken
    changed = [line for line in said if "frames change" in line]
    assert [line.rpartition(": ")[2] for line in changed] == ["Frame-wise", "No structure pass", "Smoothed"]
    assert len(said) == 2 + len(changed)

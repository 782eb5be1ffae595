"""The archive that the registry and the Manager hand out, as comfy-cli packs it."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    "__init__.py",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "nodes/sampling.py",
    "bivdiff_core/host/sampling.py",
    "js/compare_videos.js",
    "js/docs/BIVDiffCompareVideos.md",
    "locales/zh/nodeDefs.json",
    "bivdiff_core/demo/weights/video_unet.safetensors",
    "workflows/bivdiff_demo.json",
    "workflows/bivdiff_demo.mp4",
}
FOLDERS = {"bivdiff_core", "js", "locales", "nodes", "subgraphs", "workflows"}
LARGEST = 24 * 2**20


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> zipfile.ZipFile:
    """What `comfy node pack` makes of the tree without what git ignores; it also validates pyproject.toml."""
    tree = tmp_path_factory.mktemp("package") / "bivdiff"
    shutil.copytree(
        ROOT,
        tree,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", ".host", "output", "__pycache__", ".pytest_cache", ".ruff_cache"
        ),
    )
    comfy = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node"]
    for command in ("pack", "validate"):  # validating leaves a cache behind
        subprocess.run([*comfy, command], cwd=tree, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(tree / "node.zip") as file:
        yield file


def test_it_holds_what_is_needed_and_nothing_more(archive):
    names = set(archive.namelist())
    assert names >= NEEDED
    assert {name.split("/")[0] for name in names if "/" in name} <= FOLDERS
    assert {name for name in names if "/" not in name} == {name for name in NEEDED if "/" not in name}
    assert not [name for name in names if name.endswith(("train.py", ".pt", ".pyc"))]
    assert sum(file.file_size for file in archive.infolist()) < LARGEST


def test_its_modules_find_each_other(archive):
    """Every relative import leads to a file in the archive."""
    names = set(archive.namelist())
    for name in names:
        if not name.endswith(".py"):
            continue
        folder = Path(name).parent
        for node in ast.walk(ast.parse(archive.read(name))):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            base = [folder, *folder.parents][node.level - 1].joinpath(*(node.module or "").split("."))
            modules = [base] if node.module else [base / alias.name for alias in node.names]
            for module in modules:
                found = {module.with_suffix(".py").as_posix(), (module / "__init__.py").as_posix()} & names
                assert found, f"{name} imports {module}, which is not in the archive"

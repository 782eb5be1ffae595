"""The archive that the registry and the Manager hand out, as comfy-cli packs it."""

import ast
import re
from pathlib import Path

NEEDED = {
    "__init__.py",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "nodes/sampling.py",
    "bivdiff_core/host/stages.py",
    "js/compare_videos.js",
    "js/docs/BIVDiffCompareVideos.md",
    "locales/zh/nodeDefs.json",
    "bivdiff_core/demo/weights/video_unet.safetensors",
    "workflows/BIVDiff 01 Deflicker demo - no downloads.json",
    "workflows/bivdiff_demo.mp4",
}
FOLDERS = {"bivdiff_core", "js", "locales", "nodes", "subgraphs", "workflows"}
LARGEST = 24 * 2**20


def test_it_holds_what_is_needed_and_nothing_more(archive):
    names = set(archive.namelist())
    assert names >= NEEDED
    assert {name.split("/")[0] for name in names if "/" in name} <= FOLDERS
    assert {name for name in names if "/" not in name} == {name for name in NEEDED if "/" not in name}
    assert not [name for name in names if name.endswith(("train.py", ".pt", ".pyc"))]
    assert sum(file.file_size for file in archive.infolist()) < LARGEST


def test_its_help_has_its_pictures(archive):
    """The page takes a picture from docs/, also for the pages in a node's folder."""
    names = set(archive.namelist())
    for page in names:
        if page.startswith("js/docs/") and page.endswith(".md"):
            (picture,) = re.findall(r"!\[.+]\((.+)\)", archive.read(page).decode())
            assert f"js/docs/{picture}" in names


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

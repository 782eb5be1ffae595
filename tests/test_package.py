"""The archive that comfy-cli packs for the registry and ComfyUI-Manager."""

import ast
import posixpath
import re
from pathlib import Path

import pytest
import tomlkit
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

REQUIRED_FILES = {
    "__init__.py",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "batch/__main__.py",
    "nodes/sampling.py",
    "bivdiff_core/host/stages.py",
    "js/compare_videos.js",
    "js/docs/BIVDiffCompareVideos.md",
    "locales/zh/nodeDefs.json",
    "bivdiff_core/demo/weights/video_unet.safetensors",
    "workflows/BIVDiff 01 Deflicker demo - no downloads.json",
    "workflows/bivdiff_demo.mp4",
}
FOLDERS = {"batch", "bivdiff_core", "docs", "js", "locales", "nodes", "subgraphs", "workflows"}
MAX_BYTES = 24 * 2**20


def test_it_holds_the_required_files_and_no_others(archive):
    names = set(archive.namelist())
    assert names >= REQUIRED_FILES
    assert {name.split("/")[0] for name in names if "/" in name} <= FOLDERS
    assert {name for name in names if "/" not in name} == {name for name in REQUIRED_FILES if "/" not in name}
    assert not [name for name in names if name.endswith(("train.py", ".pt", ".pyc"))]
    assert sum(file.file_size for file in archive.infolist()) < MAX_BYTES


def test_its_help_has_its_images(archive):
    """The frontend loads the images of help pages from js/docs/, also for pages in a node's folder."""
    names = set(archive.namelist())
    for page in names:
        if page.startswith("js/docs/") and page.endswith(".md"):
            (image,) = re.findall(r"!\[.+]\((.+)\)", archive.read(page).decode())
            assert f"js/docs/{image}" in names


def test_relative_links_lead_to_files_of_the_archive(archive):
    """Relative links of README, changelog and docs/."""
    names = set(archive.namelist())
    for page in names:
        if not page.endswith(".md") or page.startswith("js/"):
            continue
        for link in re.findall(r"]\(([^)]+)\)", archive.read(page).decode()):
            target = link.split("#")[0]
            if target and "://" not in target:
                assert posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) in names, f"{page}: {link}"


def test_it_holds_the_files_that_the_readme_names(archive):
    """Except those in the section "From a clone"."""
    names = archive.namelist()
    readme = archive.read("README.md").decode()
    before, clone, after = re.split(r"^## (?:From a clone|Licence.*)$", readme, flags=re.MULTILINE)
    assert "dev.py" in clone
    words = {word.strip("/") for code in re.findall(r"`+([^`]+)`+", before + after) for word in code.split()}
    named = {word for word in words if (ROOT / word.split("/")[0]).exists()}
    assert named
    for word in named:
        assert any(name == word or name.startswith(f"{word}/") for name in names), word


@pytest.fixture
def project(archive) -> dict:
    return tomlkit.parse(archive.read("pyproject.toml"))


def test_one_repository_and_one_version_are_named(archive, project):
    repository = project["project"]["urls"]["Repository"]
    host, account, name = repository.rsplit("/", 2)
    pages = archive.read("README.md").decode() + archive.read("pyproject.toml").decode()
    links = re.findall(rf"https://[\w.]+/[\w-]+/{name}\b", pages)
    raw = f"https://raw.githubusercontent.com/{account}/{name}"
    assert host == "https://github.com" and set(links) == {repository, raw}
    assert project["tool"]["comfy"]["PublisherId"] == account
    changes = archive.read("CHANGELOG.md").decode()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for newest in (
        re.search(r"^## (.+)$", changes, re.MULTILINE),
        re.search(r"^version: (.+)$", citation, re.MULTILINE),
    ):
        assert newest[1] == project["project"]["version"]


def test_its_icon_and_banner_are_there(archive, project):
    for kind in ("Icon", "Banner"):
        _, path = project["tool"]["comfy"][kind].split("/main/")
        with Image.open(archive.open(path)) as image:
            assert image.width <= 800 and image.height <= 400  # the registry's limits for an icon


def test_its_modules_find_each_other(archive):
    """Every relative import resolves to a file in the archive."""
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

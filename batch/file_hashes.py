"""Hashes of everything that a result depends on, and files that are never seen half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from batch.records import BatchError

ROOT = Path(__file__).resolve().parents[1]
HASH_CACHE = ROOT / "output" / "file_hashes.json"
CODE_SUFFIXES = {".py", ".safetensors", ".json"}
NOT_COMFYUI_CODE = {"custom_nodes", "input", "models", "output", "temp", "tests", "user", ".git"}


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_record(record: object) -> str:
    """SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def hash_folder(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of files, with their places in a folder."""
    return hash_record(sorted([path.relative_to(folder).as_posix(), hash_file(path)] for path in paths))


def hash_pack() -> str:
    """SHA-256 of the code and weights of this pack."""
    folders = (ROOT / "nodes", ROOT / "bivdiff_core")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in CODE_SUFFIXES]
    return hash_folder(ROOT, [ROOT / "__init__.py", *files])


def hash_comfyui(comfyui: Path) -> str:
    """SHA-256 of ComfyUI's own code, without the packs in custom_nodes."""
    tops = [entry for entry in comfyui.iterdir() if entry.name not in NOT_COMFYUI_CODE]
    tops = [top for top in tops if not (top / "pyvenv.cfg").exists()]
    files = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.suffix == ".py"]
    return hash_folder(comfyui, files)


def find_files(strings: set[str], python: str, comfyui: Path) -> dict[str, str]:
    """Paths of the models (``"checkpoints/name"``) and input files (``"input/name"``) that are among ``strings``."""
    command = [python, str(Path(__file__).with_name("find_workflow_files.py")), str(comfyui)]
    found = subprocess.run(command, input=json.dumps(sorted(strings)), capture_output=True, text=True)
    if found.returncode != 0:
        raise BatchError(f"{comfyui} does not say where its models are: {found.stderr.strip().splitlines()[-1]}")
    return json.loads(found.stdout)


def hash_files(paths: dict[str, str]) -> dict[str, str]:
    """SHA-256 of each file or folder, remembered until the size or time of a file changes: models are large."""
    try:
        remembered = json.loads(HASH_CACHE.read_text())
    except (OSError, ValueError):
        remembered = {}

    def remember(path: Path) -> str:
        state = path.stat()
        entry = remembered.get(str(path))
        if not entry or entry[:2] != [state.st_size, state.st_mtime_ns]:
            remembered[str(path)] = entry = [state.st_size, state.st_mtime_ns, hash_file(path)]
        return entry[2]

    hashes = {}
    for name, path in paths.items():
        if os.path.isdir(path):
            hashes[name] = hash_record([remember(file) for file in sorted(Path(path).rglob("*")) if file.is_file()])
        else:
            hashes[name] = remember(Path(path))
    if hashes:
        write_atomically(
            HASH_CACHE, json.dumps({path: entry for path, entry in remembered.items() if os.path.exists(path)})
        )
    return hashes


def write_atomically(path: Path, text: str) -> None:
    """Put a text file in place by a rename, so that nobody ever reads half of it."""
    part = _part(path)
    part.write_text(text, encoding="utf-8")
    _rename(part, path)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file to its place by a rename."""
    part = _part(path)
    shutil.copyfile(source, part)
    _rename(part, path)


def _part(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")


def _rename(part: Path, path: Path) -> None:
    try:
        os.replace(part, path)
    except FileNotFoundError:
        # Another worker had the same clip, after a node was thought lost: it came first and has cleaned up.
        if not path.exists():
            raise

"""Hash everything that a result depends on, and write files atomically."""

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
    """SHA-256 of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def hash_folder(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of files and their paths relative to a folder."""
    return hash_record(sorted([path.relative_to(folder).as_posix(), hash_file(path)] for path in paths))


def hash_pack() -> str:
    """SHA-256 of the code and weights of this pack."""
    folders = (ROOT / "nodes", ROOT / "bivdiff_core")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in CODE_SUFFIXES]
    return hash_folder(ROOT, [ROOT / "__init__.py", *files])


def hash_comfyui(comfyui: Path) -> str:
    """SHA-256 of ComfyUI's code, without the packs in custom_nodes and virtual environments."""
    files = list(comfyui.glob("*.py"))
    for folder in comfyui.iterdir():
        if folder.is_dir() and folder.name not in NOT_COMFYUI_CODE and not (folder / "pyvenv.cfg").exists():
            files += folder.rglob("*.py")
    return hash_folder(comfyui, files)


def find_files(strings: set[str], python: str, comfyui: Path) -> dict[str, str]:
    """Return the paths of models (``"checkpoints/name"``) and input files (``"input/name"``) named in ``strings``."""
    command = [python, str(Path(__file__).with_name("find_workflow_files.py")), str(comfyui)]
    found = subprocess.run(command, input=json.dumps(sorted(strings)), capture_output=True, text=True)
    if found.returncode != 0:
        raise BatchError(f"The model folders of {comfyui} cannot be read: {found.stderr.strip().splitlines()[-1]}")
    return json.loads(found.stdout)


def hash_files(paths: dict[str, str]) -> dict[str, str]:
    """SHA-256 of each file or folder. Hashes are cached until a file's size or time changes, since models are large."""
    try:
        cache = json.loads(HASH_CACHE.read_text())
    except (OSError, ValueError):
        cache = {}

    def hash_cached(path: Path) -> str:
        state = path.stat()
        entry = cache.get(str(path))
        if not entry or entry[:2] != [state.st_size, state.st_mtime_ns]:
            cache[str(path)] = entry = [state.st_size, state.st_mtime_ns, hash_file(path)]
        return entry[2]

    hashes = {}
    for name, path in paths.items():
        if os.path.isdir(path):
            hashes[name] = hash_record([hash_cached(file) for file in sorted(Path(path).rglob("*")) if file.is_file()])
        else:
            hashes[name] = hash_cached(Path(path))
    if hashes:
        write_atomically(HASH_CACHE, json.dumps({path: entry for path, entry in cache.items() if os.path.exists(path)}))
    return hashes


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so it is never read half-written."""
    temporary = _temporary_path(path)
    temporary.write_text(text, encoding="utf-8")
    _rename(temporary, path)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file under a temporary name and rename it."""
    temporary = _temporary_path(path)
    shutil.copyfile(source, temporary)
    _rename(temporary, path)


def _temporary_path(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        # Another worker had the same clip, because its node seemed lost. It finished first and cleaned up.
        if not path.exists():
            raise

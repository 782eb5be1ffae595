"""Hash everything that a result depends on, and write files atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .records import BatchError

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


def hash_files(paths: dict[str, str]) -> dict[str, str]:
    """SHA-256 of each file or folder. Hashes are cached until a file's size or time changes, since models are large.

    The cache is in the pack's folder; if that is read-only, every batch hashes the models.
    """
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
        with suppress(OSError):
            existing = {path: entry for path, entry in cache.items() if os.path.exists(path)}
            write_atomically(HASH_CACHE, json.dumps(existing))
    return hashes


@contextmanager
def writing_results(out: str | Path) -> Iterator[None]:
    """Turn an error of the block, which writes into OUT, into one that ends the batch: no clip is to blame for it."""
    try:
        yield
    except OSError as error:
        raise BatchError(
            f"{out} cannot be written to ({error.strerror}): free space or allow writing, then run the same command "
            "again to resume."
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so it is never read half-written."""
    with _temporary_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file under a temporary name and rename it."""
    with _temporary_file(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Give the block a path to write; rename it to ``path`` afterwards, or remove it if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # Another worker had the same clip, because its node seemed lost or because two batches share OUT. It finished
        # first and removed this file.
        if not (isinstance(error, FileNotFoundError) and path.exists()):
            raise

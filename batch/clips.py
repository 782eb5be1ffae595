"""Find the clips of a batch and their names in the results."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import NamedTuple

from .records import BatchClip, BatchError

VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm"}


class Shard(NamedTuple):
    """Part ``index``, from 0, of ``count`` parts of the clips."""

    index: int
    count: int


SINGLE_SHARD = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """Parse ``"I/N"``; ``"2/8"`` is the third of eight parts."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise BatchError(f"--shard is {text}, expected I/N with I from 0 to N - 1: 0/8 is the first of eight.")
    return Shard(int(index), int(count))


def find_clips(sources: list[str], out: Path, shard: Shard = SINGLE_SHARD) -> list[BatchClip]:
    """Find the clips of every folder, list, glob and file in ``sources``, sorted by name.

    The name of a clip is its path relative to the folder, to the fixed part of the glob, or to the list's folder.
    """
    clips: dict[str, Path] = {}
    for source in sources:
        found = [(path, root) for path, root in _expand_source(source) if path.suffix.lower() in VIDEO_SUFFIXES]
        if not found:
            suffixes = " ".join(sorted(VIDEO_SUFFIXES))
            raise BatchError(f"No clips in {source}: give a folder, glob or list of videos ({suffixes}).")
        for path, root in found:
            if path.is_relative_to(out):
                raise BatchError(f"{path} is inside OUT, so results would become clips: choose another folder for OUT.")
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
            if clips.setdefault(name, path) != path:
                raise BatchError(f"{clips[name]} and {path} would both become {name} in OUT: rename one of them.")
    names = sorted(clips)[shard.index :: shard.count]
    return [BatchClip(name, str(clips[name])) for name in names]


def _expand_source(source: str) -> list[tuple[Path, Path]]:
    """Return absolute paths of files, each with the folder that its name is relative to."""
    path = Path(source)
    if path.is_dir():
        return _match_glob(os.path.join(glob.escape(source), "**", "*"), path.absolute())
    if glob.has_magic(source) and not path.exists():
        fixed = path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))]
        return _match_glob(source, Path(*fixed).absolute())
    if not path.is_file():
        raise BatchError(f"{source} does not exist: give a folder, a list or a glob of clips.")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [(path.absolute(), path.absolute().parent)]
    return _read_list(path.absolute())


def _match_glob(pattern: str, root: Path) -> list[tuple[Path, Path]]:
    matches = (Path(match).absolute() for match in glob.glob(pattern, recursive=True))
    return [(match, root) for match in matches if match.is_file()]


def _read_list(path: Path) -> list[tuple[Path, Path]]:
    """Read a text file with one path per line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BatchError(f"{path} is neither a video nor a text file that lists clips.") from None
    paths = [Path(os.path.normpath(path.parent / line.strip())) for line in lines if line.strip()]
    missing = [str(clip) for clip in paths if not clip.is_file()]
    if missing:
        raise BatchError(f"{path} lists {len(missing)} files that do not exist, the first is {missing[0]}.")
    return [(clip, path.parent) for clip in paths]

"""Records exchanged as JSON between the driver of a batch and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class BatchError(RuntimeError):
    """An error of the whole batch, not of one clip. Its message is one sentence, and it ends the run."""


@dataclass(frozen=True)
class BatchClip:
    """A clip: its name in the results, with ``/`` between folders, and its path."""

    name: str
    path: str


@dataclass(frozen=True)
class Batch:
    """Settings shared by all clips of a run."""

    run: str
    """Unique id of the run; attempts are counted per run."""
    python: str
    comfyui: str
    arguments: list[str]
    """Further arguments of ComfyUI's main.py."""
    extra_packs: list[str] | None
    """Folders of custom nodes to load besides this pack. None: ComfyUI finds this pack and the others itself."""
    cpu: bool
    workflow: dict
    settings: list[str]
    """Each "Node title.input=value"."""
    seed: str
    """"per-clip" or "fixed"."""
    out: str
    hashes: dict[str, Any]
    """SHA-256 of "workflow" (with settings and seed), "pack" and "host" (ComfyUI); "files": one per named file."""
    inputs: dict[str, str]
    """Files of ComfyUI's input folder that the workflow names: paths by names."""
    attempts: int
    start_timeout: float
    """Seconds for ComfyUI's start."""
    timeout: float | None
    """Seconds for one clip."""
    retry_failed: bool

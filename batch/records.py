"""What travels between the driver of a batch and its workers, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class BatchError(RuntimeError):
    """Something that concerns the whole batch, not one clip: it is told in one sentence and ends the run."""


@dataclass(frozen=True)
class BatchClip:
    """A clip to do: its name in the results, with ``/`` between folders, and where it is."""

    name: str
    path: str


@dataclass(frozen=True)
class Batch:
    """What all clips of one run have in common."""

    run: str
    """A name for this run alone: attempts are counted for each run."""
    python: str
    comfyui: str
    cpu: bool
    workflow: dict
    settings: list[str]
    """Each "Node title.input=value"."""
    seed: str
    """"per-clip" or "fixed"."""
    out: str
    hashes: dict[str, Any]
    """SHA-256 of "workflow" (with settings and seed), "pack" and "host", and under "files" of each that it names."""
    inputs: dict[str, str]
    """Paths of the files of ComfyUI's input folder that the workflow names, by their names in it."""
    attempts: int
    timeout: float | None
    """Seconds for one clip."""
    retry_failed: bool

"""What every node of the pack has in common: how it says that something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy_api.latest import io

from ..bivdiff_core.host.errors import BIVDiffError

PACK_LOGGER = logging.getLogger(__name__.rsplit(".", 2)[0])
"""The pack's root logger."""


class PackNode(io.ComfyNode):
    """A node whose errors begin with its name, and whose warnings show on it and are part of its output.

    Subclasses define `run`, as nodes elsewhere define `execute`.
    """

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Run the node; the warnings that the pack logs meanwhile become part of its output."""
        with prefix_errors(cls), _WarningCollector() as warnings:
            output = cls.run(**inputs)
        # js/warnings.js shows them. The host joins what the runs of a list show, and wants the same kinds from each.
        if warnings.messages or output.ui:
            output.ui = {**(output.ui or {}), "text": warnings.messages}
        return output


PREFIXED: dict[type[Exception], type[Exception]] = {
    ValueError: BIVDiffError,
    FileNotFoundError: FileNotFoundError,
    torch.OutOfMemoryError: torch.OutOfMemoryError,
}
"""Errors that the work of a node raises with a message for the artist, and what they are raised as."""


@contextmanager
def prefix_errors(node: type[io.ComfyNode]) -> Iterator[None]:
    """Put a node's name before the errors of its work, which knows no nodes.

    Raises:
        BIVDiffError, FileNotFoundError, torch.OutOfMemoryError: as PREFIXED says of the class that the error derives
            from. A derived class may take other arguments than a message (UnicodeDecodeError, JSONDecodeError).
    """
    try:
        yield
    except tuple(PREFIXED) as error:
        kind = next(PREFIXED[kind] for kind in PREFIXED if isinstance(error, kind))
        message = f"{node.SCHEMA.display_name}: {error}"
        raise kind(message).with_traceback(error.__traceback__) from error.__cause__


class _WarningCollector(logging.Handler):
    """Collects what the pack warns of while it is open."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self.messages:
            self.messages.append(record.getMessage())

    def __enter__(self) -> _WarningCollector:
        PACK_LOGGER.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        PACK_LOGGER.removeHandler(self)

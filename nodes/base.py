"""Base class of the pack's nodes: errors name the node, and warnings show on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy_api.latest import io

from ..bivdiff_core.host.errors import BIVDiffError
from ..bivdiff_core.node_warnings import collect_warnings


class PackNode(io.ComfyNode):
    """A node that puts its name before its errors and shows its warnings.

    Subclasses define `run` instead of `execute`.
    """

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Run the node and add its warnings to its output."""
        with prefix_errors(cls), collect_warnings() as warnings:
            output = cls.run(**inputs)
        # For js/warnings.js. ComfyUI merges the ui output of a list's runs and expects the same keys from each run.
        if warnings or output.ui:
            output.ui = {**(output.ui or {}), "text": warnings}
        return output


ERROR_CLASSES: dict[type[Exception], type[Exception]] = {
    ValueError: BIVDiffError,
    FileNotFoundError: FileNotFoundError,
    torch.OutOfMemoryError: torch.OutOfMemoryError,
}
"""Classes of errors whose messages are for the artist, and the class that is raised in place of each."""


@contextmanager
def prefix_errors(node: type[io.ComfyNode]) -> Iterator[None]:
    """Put the node's name before the messages of errors raised inside; `bivdiff_core` does not know the node.

    Raises:
        BIVDiffError, FileNotFoundError, torch.OutOfMemoryError: by ERROR_CLASSES, which replaces a derived class by its
            base, because it may take other arguments than a message (UnicodeDecodeError, JSONDecodeError).
    """
    try:
        yield
    except tuple(ERROR_CLASSES) as error:
        error_class = next(new for old, new in ERROR_CLASSES.items() if isinstance(error, old))
        message = f"{node.SCHEMA.display_name}: {error}"
        raise error_class(message).with_traceback(error.__traceback__) from error.__cause__

"""Base class of the pack's nodes: errors name the node, and warnings show on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
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
            check_choices(cls, inputs)
            output = cls.run(**inputs)
        # For js/warnings.js. ComfyUI merges the ui output of a list's runs and expects the same keys from each run.
        if warnings or output.ui:
            output.ui = {**(output.ui or {}), "text": warnings}
        return output


MAX_NAMED_CHOICES = 15
"""Longer lists of choices are not repeated in messages."""


def check_choices(node: type[io.ComfyNode], inputs: dict[str, Any]) -> None:
    """Reject words that are not among a control's choices. ComfyUI checks those set on the node, but not linked ones.

    Inputs that `validate_inputs` takes are left to the node, as in ComfyUI.

    Raises:
        ValueError: a word is not among the choices, for instance a sampler of a pack that is not installed.
    """
    checked_by_node = signature(node.validate_inputs).parameters
    for control in node.define_schema().inputs:
        if not isinstance(control, io.Combo.Input) or control.id in checked_by_node or control.id not in inputs:
            continue
        if inputs[control.id] not in control.options:
            choices = ", ".join(control.options) if len(control.options) <= MAX_NAMED_CHOICES else "its choices"
            raise ValueError(
                f"{control.id} {inputs[control.id]} is not one of {choices}. Unlink it and choose one from the list, "
                "or install the pack that adds it."
            )


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

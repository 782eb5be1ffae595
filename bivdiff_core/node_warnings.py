"""Warnings for artists. The node that runs shows them, whatever the settings of the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)

_messages: ContextVar[list[str] | None] = ContextVar("_messages", default=None)
"""Warnings of the node that runs; None if no node collects them. Threads of a node need a copy of its context."""


def warn(message: str, *args: object) -> None:
    """Show a warning once on the node that runs, and log it.

    Args:
        message, args: format string and values, as in `logging`.
    """
    text = message % args if args else message
    messages = _messages.get()
    if messages is not None and text not in messages:
        messages.append(text)
    log.warning("%s", text)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect each different warning inside, in its order."""
    messages: list[str] = []
    token = _messages.set(messages)
    try:
        yield messages
    finally:
        _messages.reset(token)

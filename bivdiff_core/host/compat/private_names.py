"""Report a private name that no longer exists in plain words, instead of with an AttributeError."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BIVDiffError


@contextmanager
def private_api(owner: str) -> Iterator[None]:
    """Report private names that are missing in a block; as a decorator, in a function.

    Only look-ups in this package are reported. Errors raised inside called code (another pack, an object that another
    node has installed) pass unchanged.

    Args:
        owner: the pack, or ComfyUI, that has the names, with the version that they were taken from.

    Raises:
        BIVDiffError: a name does not exist.
    """
    try:
        yield
    except (AttributeError, KeyError) as error:
        *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
        if innermost.f_globals.get("__package__") != __package__:
            raise
        raise BIVDiffError(
            f"this pack does not yet support the installed version; it was made for {owner} ({error}). Update BIVDiff, "
            f"or install {owner}."
        ) from error

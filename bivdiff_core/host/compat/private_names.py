"""Tell in words that a name has moved, instead of ending a run with an AttributeError from deep inside."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BIVDiffError


@contextmanager
def private_api(owner: str) -> Iterator[None]:
    """Say whose name has moved; as a decorator, of everything in a function.

    Only look-ups of this package count. An error of what it calls (the code of another pack, a method of an object that
    another node has installed) says itself what is wrong, and passes.

    Args:
        owner: the pack or host that has the names, with the version that they are known from.

    Raises:
        BIVDiffError: a name is not where it was.
    """
    try:
        yield
    except (AttributeError, KeyError) as error:
        *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
        if innermost.f_globals.get("__package__") != __package__:
            raise
        raise BIVDiffError(
            f"this pack does not yet support the installed version of {owner} ({error}). Update BIVDiff, or "
            "install the version that it knows."
        ) from error

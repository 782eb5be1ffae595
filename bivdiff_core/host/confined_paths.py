"""Names of files that come from a wire or a configuration stay inside their folder."""

from pathlib import PureWindowsPath


def is_confined(name: object) -> bool:
    """Whether a name is a relative path that does not leave its folder, on any system.

    It looks at the text only: on Windows, merely looking for a UNC path (`//server/share`) makes the computer log in to
    that server. Links inside the folder may lead elsewhere, as in all of ComfyUI's folders.
    """
    if not isinstance(name, str):
        return False
    path = PureWindowsPath(name)  # also splits at "/"
    return not path.anchor and ".." not in path.parts

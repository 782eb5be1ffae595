"""Run this folder as a program: `python custom_nodes/bivdiff/batch FLOW.json CLIPS OUT`."""

import sys
from pathlib import Path
from types import ModuleType

if not __package__:
    # Python has put this folder on its path instead of importing a package. The pack's root must not take its place:
    # there `nodes` is the pack's, and ComfyUI's module has the same name.
    folder = Path(__file__).absolute().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != folder]
    package = ModuleType("batch")
    package.__path__ = [str(folder)]
    sys.modules["batch"] = package
    __package__ = "batch"

if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - an older Python can run up to here
        sys.exit(f"This is Python {sys.version.split()[0]}: use ComfyUI's Python, 3.10 or newer.")
    if sys.argv[1:2] == ["--worker"]:
        from .worker_process import main
    else:
        from .command import main
    sys.exit(main(sys.argv[1:]))

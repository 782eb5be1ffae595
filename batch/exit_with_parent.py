"""Run a Python script that ends when the process which started it does, however that one ended.

    python batch/exit_with_parent.py SCRIPT [ARGUMENTS ...]

Standard input is a pipe from that process. The operating system closes the pipe when its other end is gone, a kill -9
included, on Linux, macOS and Windows alike.
"""

import os
import runpy
import sys
import threading
from pathlib import Path


def exit_when_pipe_closes(pipe: int) -> None:
    """Wait until nobody holds the other end of a pipe, then end this process at once."""
    while os.read(pipe, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    pipe = os.dup(0)
    # What the script starts inherits an empty standard input, not the pipe.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=exit_when_pipe_closes, args=(pipe,), daemon=True).start()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")

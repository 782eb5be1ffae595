"""Run a Python script that ends when its parent process ends, for whatever reason.

    python batch/exit_with_parent.py SCRIPT [ARGUMENTS ...]

Standard input is a pipe from the parent. On Linux, macOS and Windows the operating system closes the pipe when the
parent ends, even after kill -9. On Linux and macOS, kill -USR1 makes a script that seems stuck print what each of its
threads does.
"""

import faulthandler
import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def exit_when_pipe_closes(pipe: int) -> None:
    """Wait until the other end of a pipe is closed, then exit this process immediately."""
    while os.read(pipe, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    pipe = os.dup(0)
    # Child processes of the script inherit an empty standard input instead of the pipe.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=exit_when_pipe_closes, args=(pipe,), daemon=True).start()
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        faulthandler.register(signal.SIGUSR1)
    del sys.argv[0]
    script = Path(sys.argv[0])
    # Not sys.path[0], which is this file's folder except in the portable ComfyUI's Python.
    sys.path[:] = [str(script.parent), *(entry for entry in sys.path if entry != str(Path(__file__).parent))]
    runpy.run_path(sys.argv[0], run_name="__main__")

"""The subprocess of a worker.

    COMFYUI'S-PYTHON batch --worker FOLDER

uses the folder for its ComfyUI and reads lines of JSON: a `Batch`, then clips. For each clip it prints lines
``{"stage": text}`` while it works, then ``{"report": report}``, or ``{"fault": text}`` if the batch cannot continue. It
exits when its standard input ends.
"""

from __future__ import annotations

import glob
import json
import os
import queue
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import psutil

from .clip_runner import ClipRunner
from .records import Batch, BatchClip
from .worker import folder_prefix


def remove_stale_folders(folders: Path) -> None:
    """Remove the folders of workers that were killed together with their parent process."""
    for folder in folders.glob(f"{glob.escape(folder_prefix())}*"):
        owner = folder.name.removeprefix(folder_prefix()).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Process the lines of standard input until it ends; ``arguments`` are ``--worker`` and the folder."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # keep other output out of the answers

    def send(kind: str, content: object) -> None:
        try:
            print(json.dumps({kind: content}), file=answers, flush=True)
        except BrokenPipeError:
            close_and_exit()

    def close_and_exit() -> None:
        runner.close()
        os._exit(0)

    base = Path(arguments[1])
    remove_stale_folders(base.parent)
    runner = ClipRunner(Batch(**json.loads(sys.stdin.readline())), base, partial(send, "stage"))
    clips: queue.SimpleQueue[BatchClip] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                send("report", runner.process_clip(clips.get()))
            except Exception as error:  # the driver waits for an answer
                send("fault", str(error) or repr(error))

    threading.Thread(target=work, daemon=True).start()
    for line in sys.stdin:
        clips.put(BatchClip(**json.loads(line)))
    close_and_exit()  # the driver has ended or stopped this worker: do not wait for a running clip

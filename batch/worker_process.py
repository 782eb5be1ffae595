"""The process of a unit, which a worker talks with.

    COMFYUI'S-PYTHON -m batch.worker_process FOLDER

keeps its ComfyUI in that folder and reads lines of JSON: a `Batch`, then clips. For each clip it answers with lines
``{"stage": text}`` while it works, then with ``{"report": report}``, or with ``{"fault": text}`` when the batch cannot
go on. It ends with its standard input.
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
from comfy_cli.workflow_to_api import WorkflowConversionError

from batch.clip_runner import ClipRunner
from batch.comfyui_server import ServerError
from batch.records import Batch, BatchClip, BatchError
from batch.worker import FOLDER_PREFIX


def remove_stale_folders(folders: Path) -> None:
    """Remove what workers have left here that were killed together with those who started them."""
    for folder in folders.glob(f"{glob.escape(FOLDER_PREFIX)}*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Take lines from standard input until it ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may get between the answers

    def say(kind: str, content: object) -> None:
        try:
            print(json.dumps({kind: content}), file=answers, flush=True)
        except BrokenPipeError:
            leave()

    def leave() -> None:
        unit.close()
        os._exit(0)

    base = Path(sys.argv[1])
    remove_stale_folders(base.parent)
    unit = ClipRunner(Batch(**json.loads(sys.stdin.readline())), base, partial(say, "stage"))
    clips: queue.SimpleQueue[BatchClip] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                say("report", unit.settle(clips.get()))
            except (BatchError, ServerError, WorkflowConversionError, OSError) as error:
                say("fault", str(error))

    threading.Thread(target=work, daemon=True).start()
    for line in sys.stdin:
        clips.put(BatchClip(**json.loads(line)))
    leave()  # the driver has gone, or wants no more: what is under way is not waited for


if __name__ == "__main__":
    main()

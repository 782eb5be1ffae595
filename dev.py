#!/usr/bin/env python3
"""Set up, run and test BIVDiff for ComfyUI, starting from nothing but Python 3.10 to 3.14.

The first command builds .venv and .host/ComfyUI beside this file: about 6 GB, a few minutes. Set COMFYUI_PATH to use
a ComfyUI that you have instead, with the Python of its own environment or that of COMFYUI_PYTHON; nothing is ever
installed into that one. What a run writes goes to output/. The tests make .ray as well, for `batch --ray` (600 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tools.environment import (
    OUTPUT,
    REQUIRED_DISK_GB,
    ROOT,
    ensure_chromium,
    ensure_ray_python,
    find_environment,
    print_status,
    read_development_requirements,
)


def demo(video: Path | None) -> int:
    """Run the whole chain through a real server and leave its video, contact sheet and figures."""
    if video and not video.is_file():
        sys.exit(f"There is no file {video}: give the path of a video.")
    host = find_environment("comfy-cli")
    arguments = [] if host.has_gpu() else ["--cpu"]
    return host.run("-m", "tools.demo", *arguments, *([video.resolve()] if video else []))


def batch(**options) -> int:
    """Run a saved workflow over many clips."""
    from batch.command import parse_request, run_batch
    from batch.records import BatchError

    try:
        order = parse_request(**options)
        host = find_environment("comfy-cli")
        return run_batch(order, host.python, host.comfyui, host.gpus())
    except BatchError as error:
        sys.exit(str(error))


def test() -> int:
    """Run the linter, the type checker and every test."""
    from tools.suite import ALL, BROWSER, run_tests

    host = find_environment(*read_development_requirements())
    tests = ALL if ensure_chromium(host) else [test for test in ALL if test != BROWSER]
    if python := ensure_ray_python():
        os.environ["BIVDIFF_RAY_PYTHON"] = str(python)
    checks = [["ruff", "check"], ["ruff", "format", "--check"], ["tools.typecheck"]]
    status = max([host.run("-m", *check) for check in checks])
    status = max(status, run_tests(host, OUTPUT / "tests", tests))
    if BROWSER not in tests:
        print_status(
            "browser tests not run: no Chromium on the path, and neither Playwright nor apt-get could install one"
        )
        status = max(status, int("CI" in os.environ))
    return status


def matrix(rows: list[str]) -> int:
    """Run the tests with other ComfyUIs, Pythons, packages and front ends."""
    from tools.matrix import run_rows

    return run_rows(rows)


def neighbours(folder: Path) -> int:
    """Run the demo beside other packs, and see that none loses anything."""
    host = find_environment("comfy-cli")
    return host.run("-m", "tools.other_packs", *([] if host.has_gpu() else ["--cpu"]), folder.resolve())


def serve() -> int:
    """Run ComfyUI with the pack for the browser."""
    from batch.comfyui_server import build_server_command, find_free_port

    host = find_environment()
    with socket.socket() as probe:
        port = find_free_port() if probe.connect_ex(("127.0.0.1", 8188)) == 0 else 8188
    return subprocess.call(
        build_server_command(host.python, host.comfyui, OUTPUT / "comfyui", port, not host.has_gpu())
    )


BENCHMARKS = (
    "alarm",
    "batch_overhead",
    "calls",
    "claims",
    "disagreement",
    "leak",
    "long_clips",
    "overhead",
    "precision",
    "released_way",
    "steadiness",
    "study",
    "versions",
    "video_models",
    "write_pages",
)
"""Modules of research/ that measure; the last writes every page of its rows."""


def bench() -> int:
    """Run every benchmark: hours, most of them the study."""
    host = find_environment("pandas", "tabulate", "comfy-cli")
    return max([host.run("-m", f"research.{name}") for name in BENCHMARKS])


def where() -> int:
    """Print where Python, ComfyUI and the pack are, as JSON on the last line."""
    host = find_environment()
    print(json.dumps({"python": str(host.python), "comfyui": str(host.comfyui), "pack": str(ROOT)}))
    return 0


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """What `batch` takes; docs/batch.md explains it."""
    add = parser.add_argument
    add("workflow", type=Path, help="a workflow saved by ComfyUI, with one Load Video and one Save Video")
    add("clips", nargs="+", help="a folder, a glob, a text file that lists clips, or clips")
    add("out", type=Path, help="the folder for videos and reports")
    add("--workers", default="auto", metavar="auto|N", help="ComfyUIs at a time (auto: one a GPU, else 1)")
    add("--ray", metavar="HOST:PORT", help="work on this Ray cluster")
    add("--shard", metavar="I/N", help="take only the part I, from 0, of N")
    add("--set", action="append", default=[], dest="settings", metavar='"Node title.input=value"', help="a change")
    add("--seed", choices=("per-clip", "fixed"), default="per-clip", help="from the clip's content, or as saved")
    add("--attempts", type=int, default=2, metavar="N", help="how often a clip may lose its ComfyUI (2)")
    add("--timeout", type=float, metavar="S", help="seconds that a clip may take (no limit)")
    add("--retry-failed", action="store_true", help="take failed clips again")
    add("--dry-run", action="store_true", help="only say what there is to do")


def main() -> int:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, batch, test, matrix, neighbours, serve, bench, where):
        commands.add_parser(command.__name__, help=command.__doc__).set_defaults(command=command)
    commands.choices["demo"].add_argument("video", nargs="?", type=Path, help="a clip to take the motion from")
    commands.choices["matrix"].add_argument("rows", nargs="*", metavar="ROW", help="rows of docs/versions.md (all)")
    commands.choices["neighbours"].add_argument("folder", type=Path, help="holds the other packs, as custom_nodes does")
    add_batch_arguments(commands.choices["batch"])
    arguments = vars(parser.parse_args())
    return arguments.pop("command")(**arguments)


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - an older Python gets this far
        sys.exit(f"This is Python {sys.version.split()[0]}: run dev.py with Python 3.10 or newer.")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; the same command goes on from here.")
    except OSError as error:
        sys.exit(
            f"{error}: make sure that {ROOT} can be written to and has {REQUIRED_DISK_GB} GB free, then run again."
        )

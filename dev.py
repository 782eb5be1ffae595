#!/usr/bin/env python3
"""Set up, run and test BIVDiff for ComfyUI. Only Python 3.10 to 3.14 is needed.

The first command builds .venv and .host/ComfyUI next to this file: about 6 GB, a few minutes. Set COMFYUI_PATH to use
your own ComfyUI instead, with its own Python or the one in COMFYUI_PYTHON; nothing is installed there. Results go to
output/. The tests also build .ray, for `batch --ray` (600 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tools.environment import OUTPUT, REQUIRED_DISK_GB, ROOT, find_environment, print_status


def run_tool(module: str, *arguments: Path) -> int:
    """Run a module of tools/ that starts ComfyUI servers, on the CPU if there is no GPU."""
    environment = find_environment("comfy-cli")
    return environment.run("-m", f"tools.{module}", *([] if environment.has_gpu() else ["--cpu"]), *arguments)


def demo(video: Path | None) -> int:
    """Run the whole chain on a real server, and save its video, contact sheet and figures."""
    if video and not video.is_file():
        sys.exit(f"{video} does not exist: give the path of a video.")
    return run_tool("demo", *([video.resolve()] if video else []))


def batch(**options) -> int:
    """Run a saved workflow over many clips."""
    from batch.command import parse_request, run_batch
    from batch.records import BatchError

    try:
        request = parse_request(**options)
        environment = find_environment("comfy-cli")
        return run_batch(request, environment.python, environment.comfyui, environment.gpus())
    except BatchError as error:
        sys.exit(str(error))


def test() -> int:
    """Run the linter, the type checker and every test."""
    from tools.suite import BROWSER, prepare_tests, run_tests

    environment, tests = prepare_tests()
    checks = [["ruff", "check"], ["ruff", "format", "--check"], ["tools.typecheck"]]
    status = max([environment.run("-m", *check) for check in checks])
    status = max(status, run_tests(environment, OUTPUT / "tests", tests))
    if BROWSER not in tests:
        print_status(
            "browser tests not run: Chromium is not on the path, and neither Playwright nor apt-get could install it"
        )
        status = max(status, int("CI" in os.environ))
    return status


def matrix(rows: list[str]) -> int:
    """Run the tests with other versions of ComfyUI, Python, packages and the front end."""
    from tools.matrix import run_rows

    return run_rows(rows)


def other_packs(folder: Path) -> int:
    """Run the demo together with other packs, and check that no node is lost and its frames stay the same."""
    return run_tool("other_packs", folder.resolve())


def serve() -> int:
    """Run ComfyUI with the pack, for use in the browser."""
    from batch.comfyui_server import build_server_command, find_free_port

    environment = find_environment()
    with socket.socket() as probe:
        port = find_free_port() if probe.connect_ex(("127.0.0.1", 8188)) == 0 else 8188
    return subprocess.call(
        build_server_command(
            environment.python, environment.comfyui, OUTPUT / "comfyui", port, not environment.has_gpu()
        )
    )


BENCHMARKS = (
    "calls",
    "claims",
    "costs",
    "disagreement",
    "leak",
    "precision",
    "steadiness",
    "study",
    "write_pages",
)
"""Modules of research/; the last writes all pages from the rows that the others measure."""


def bench() -> int:
    """Run every benchmark. This takes hours, most of them for the study."""
    environment = find_environment("pandas", "tabulate", "comfy-cli")
    return max([environment.run("-m", f"research.{name}") for name in BENCHMARKS])


def where() -> int:
    """Print the paths of Python, ComfyUI and the pack as JSON, on the last line."""
    environment = find_environment()
    print(json.dumps({"python": str(environment.python), "comfyui": str(environment.comfyui), "pack": str(ROOT)}))
    return 0


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `batch`, which docs/batch.md explains."""
    add = parser.add_argument
    add("workflow", type=Path, help="a workflow saved by ComfyUI, with one Load Video and one Save Video")
    add("clips", nargs="+", help="a folder, a glob, a text file that lists clips, or video files")
    add("out", type=Path, help="the folder for videos and reports")
    add("--workers", default="auto", metavar="auto|N", help="number of ComfyUIs (auto: one per GPU, else 1)")
    add("--ray", metavar="HOST:PORT", help="work on this Ray cluster")
    add("--shard", metavar="I/N", help="process only part I of N, counted from 0")
    add(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar='"Node title.input=value"',
        help="change an input; may be repeated",
    )
    add("--seed", choices=("per-clip", "fixed"), default="per-clip", help="seeds from the clip's content, or as saved")
    add("--attempts", type=int, default=2, metavar="N", help="attempts per clip if ComfyUI is lost (2)")
    add("--timeout", type=float, metavar="S", help="time limit per clip in seconds (no limit)")
    add("--retry-failed", action="store_true", help="try failed clips again")
    add("--dry-run", action="store_true", help="only list what is to be done")


def main() -> int:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, batch, test, matrix, other_packs, serve, bench, where):
        commands.add_parser(command.__name__.replace("_", "-"), help=command.__doc__).set_defaults(command=command)
    commands.choices["demo"].add_argument("video", nargs="?", type=Path, help="a clip to take the motion from")
    commands.choices["matrix"].add_argument("rows", nargs="*", metavar="ROW", help="rows of docs/versions.md (all)")
    commands.choices["other-packs"].add_argument("folder", type=Path, help="folder of other packs, like custom_nodes")
    add_batch_arguments(commands.choices["batch"])
    arguments = vars(parser.parse_args())
    return arguments.pop("command")(**arguments)


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - an older Python can run up to here
        sys.exit(f"This is Python {sys.version.split()[0]}: run dev.py with Python 3.10 or newer.")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; run the same command again to resume.")
    except OSError as error:
        sys.exit(
            f"{error}: make sure that {ROOT} can be written to and has {REQUIRED_DISK_GB} GB free, then run again."
        )

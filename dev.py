#!/usr/bin/env python3
"""Set up, run and test BIVDiff for ComfyUI. Only Python 3.10 to 3.14 is needed.

The first command builds .venv and .host/ComfyUI next to this file: about 6 GB, a few minutes. Set COMFYUI_PATH to use
your own ComfyUI instead, with its own Python or the one in COMFYUI_PYTHON; nothing is installed there. Results go to
output/. The tests also build .ray, for batch's --ray (600 MB).
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
    """Check that the pack works beside other packs, and test it on those that it knows."""
    from tests.fixtures.fake_packs import STANDS_FOR
    from tools.suite import OTHER_PACK_TESTS, prepare_tests, run_tests

    folder = folder.resolve()
    status = run_tool("other_packs", folder)
    known = [pack.folder for pack in STANDS_FOR.values() if (folder / pack.folder).is_dir()]
    if not known:
        return status
    print_status(f"testing on {', '.join(known)} instead of their stand-ins")
    environment, _ = prepare_tests()
    variables = {"OTHER_PACKS_FOLDER": str(folder)}
    return max(status, run_tests(environment, OUTPUT / "other-packs", OTHER_PACK_TESTS, variables))


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
    "costs",
    "disagreement",
    "evidence",
    "precision",
    "write_pages",
)
"""Modules of research/; the last writes all pages from the rows that the others measure."""


def bench() -> int:
    """Run every benchmark. This takes hours, most of them for the evidence."""
    environment = find_environment("pandas", "tabulate", "comfy-cli")
    return max([environment.run("-m", f"research.{name}") for name in BENCHMARKS])


def where() -> int:
    """Print the paths of Python, ComfyUI and the pack as JSON, on the last line."""
    environment = find_environment()
    print(json.dumps({"python": str(environment.python), "comfyui": str(environment.comfyui), "pack": str(ROOT)}))
    return 0


def main() -> int:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, test, matrix, other_packs, serve, bench, where):
        commands.add_parser(command.__name__.replace("_", "-"), help=command.__doc__).set_defaults(command=command)
    commands.choices["demo"].add_argument("video", nargs="?", type=Path, help="a clip to take the motion from")
    commands.choices["matrix"].add_argument("rows", nargs="*", metavar="ROW", help="rows of docs/versions.md (all)")
    commands.choices["other-packs"].add_argument("folder", type=Path, help="folder of other packs, like custom_nodes")
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

"""Run a batch: parse the command line, find the clips that are already done, process the others."""

from __future__ import annotations

import argparse
import signal
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .clip_reports import FAILED, MANIFEST, find_valid_report, write_manifest
from .clips import SINGLE_SHARD, find_clips, parse_shard
from .file_hashes import hash_comfyui, hash_files, hash_pack, hash_record
from .installation import Installation, find_installation, inspect_comfyui, list_gpus
from .local_engine import run_local
from .progress import Progress
from .ray_engine import run_ray
from .records import Batch, BatchClip, BatchError
from .saved_workflow import collect_strings, is_ui, read_workflow, strip_layout

START_TIMEOUT = 1800.0
"""Seconds; a ComfyUI with many packs and large model folders on slow storage can take long."""
CONVERTER_REQUIREMENT = "comfy-cli==1.23.0"


@dataclass(frozen=True)
class BatchRequest:
    """A validated command line; validating it starts no process."""

    workflow: dict
    clips: list[BatchClip]
    out: Path
    installation: Installation
    workers: int | None
    ray: str | None
    settings: list[str]
    seed: str
    attempts: int
    start_timeout: float
    timeout: float | None
    retry_failed: bool
    dry_run: bool


def main(words: list[str]) -> int:
    """Run the batch of a command line and return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        request = parse_request(words)
        without_gpus = request.ray is not None or request.dry_run or "--cpu" in request.installation.arguments
        return run_batch(request, [] if without_gpus else list_gpus(request.installation.python))
    except BatchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; run the same command again to resume.")


def parse_request(words: list[str]) -> BatchRequest:
    """Parse and validate a command line; raise `BatchError` if an argument is wrong."""
    end = words.index("--") if "--" in words else len(words)
    options = make_parser().parse_args(words[:end])
    if options.workers != "auto" and not (options.workers.isdigit() and int(options.workers)):
        raise BatchError(f"--workers is {options.workers}, expected auto or a number of 1 or more.")
    if options.attempts < 1:
        raise BatchError(f"--attempts is {options.attempts}, expected 1 or more.")
    out = options.out.absolute()
    return BatchRequest(
        clips=find_clips(options.clips, out, parse_shard(options.shard) if options.shard else SINGLE_SHARD),
        workflow=read_workflow(options.workflow),
        out=out,
        installation=find_installation(options.comfyui, options.python, words[end + 1 :]),
        workers=None if options.workers == "auto" else int(options.workers),
        ray=options.ray,
        settings=options.settings,
        seed=options.seed,
        attempts=options.attempts,
        start_timeout=options.start_timeout,
        timeout=options.timeout,
        retry_failed=options.retry_failed,
        dry_run=options.dry_run,
    )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments, which docs/batch.md explains."""
    parser = argparse.ArgumentParser(
        prog="python batch",
        description="Run a saved workflow over many clips, in the ComfyUI that this pack lies in.",
        epilog="After -- follow arguments of ComfyUI, such as --lowvram.",
    )
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
    add(
        "--start-timeout",
        type=float,
        default=START_TIMEOUT,
        metavar="S",
        help=f"time limit for ComfyUI's start in seconds ({START_TIMEOUT:g})",
    )
    add("--retry-failed", action="store_true", help="try failed clips again")
    add("--dry-run", action="store_true", help="only list what is to be done")
    add("--comfyui", type=Path, metavar="FOLDER", help="the folder of ComfyUI's main.py (two folders above the pack)")
    add("--python", type=Path, metavar="FILE", help="ComfyUI's Python (the one that runs this program)")
    return parser


def run_batch(request: BatchRequest, gpus: list[dict[str, str]]) -> int:
    """Process every clip of a request and return the exit status: 1 if a clip has failed.

    ``gpus`` has the environment variables that select each GPU of this machine.
    """
    batch = make_batch(request, cpu=not gpus)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(request.clips, pool.map(partial(find_valid_report, batch), request.clips), strict=True))
    reports = {clip.name: report for clip, report in found.items() if report}
    todo = [clip for clip, report in found.items() if not report]
    print(f"[batch] {len(request.clips)} clips: {len(todo)} to do, {len(reports)} already finished", flush=True)
    if request.dry_run:
        for clip in request.clips:
            print(f"{clip.name}: {reports[clip.name]['status'] if clip.name in reports else 'to do'}")
        return 0
    progress = Progress(len(request.clips), len(reports))
    try:
        for report in run_engine(request, batch, todo, gpus, progress) if todo else ():
            reports[report["clip"]] = report
            progress.show_report(report)
    finally:
        progress.end()
        write_manifest(request.out)
    failed = [report for report in reports.values() if report["status"] == FAILED]
    print(f"[batch] {len(reports) - len(failed)} done, {len(failed)} failed: {request.out / MANIFEST}")
    if failed:
        print("[batch] failed clips are skipped until --retry-failed, or until the clip, workflow or pack changes")
    return 1 if failed else 0


def make_batch(request: BatchRequest, cpu: bool) -> Batch:
    """Collect what the workers need, with hashes of everything that the results depend on."""
    python, comfyui, arguments = request.installation
    folders = inspect_comfyui(request.installation, collect_strings(request.workflow, request.settings))
    if is_ui(request.workflow) and not folders.has_converter:
        raise BatchError(
            "The workflow is in the format of ComfyUI's Save, and ComfyUI's Python lacks the converter: save it with "
            f"Export (API) instead, or install the converter with {python} -m pip install {CONVERTER_REQUIREMENT}"
        )
    prefix = "input/"
    return Batch(
        run=uuid.uuid4().hex[:12],
        python=str(python),
        comfyui=str(comfyui),
        arguments=arguments,
        extra_packs=folders.extra_packs,
        cpu=cpu,
        workflow=request.workflow,
        settings=request.settings,
        seed=request.seed,
        out=str(request.out),
        hashes={
            "workflow": hash_record([strip_layout(request.workflow), request.settings, request.seed]),
            "pack": hash_pack(),
            "host": hash_comfyui(comfyui),
            "files": hash_files(folders.files),
        },
        inputs={name.removeprefix(prefix): path for name, path in folders.files.items() if name.startswith(prefix)},
        attempts=request.attempts,
        start_timeout=request.start_timeout,
        timeout=request.timeout,
        retry_failed=request.retry_failed,
    )


def run_engine(
    request: BatchRequest, batch: Batch, todo: list[BatchClip], gpus: list[dict[str, str]], progress: Progress
) -> Iterator[dict]:
    """Process clips with the engine of the request; yield each report when its clip is finished."""
    if request.ray is not None:
        return run_ray(batch, todo, request.ray, request.workers, progress.show_stage)
    return run_local(batch, todo, request.workers or len(gpus) or 1, gpus, progress.show_stage)

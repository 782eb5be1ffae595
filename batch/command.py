"""Run a batch: parse the command line, find the clips that are already done, process the others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batch.clip_reports import FAILED, MANIFEST, find_valid_report, write_manifest
from batch.clips import SINGLE_SHARD, find_clips, parse_shard
from batch.file_hashes import find_files, hash_comfyui, hash_files, hash_pack, hash_record
from batch.local_engine import run_local
from batch.progress_bar import ProgressBar
from batch.ray_engine import run_ray
from batch.records import Batch, BatchClip, BatchError
from batch.saved_workflow import collect_strings, read_workflow, strip_layout


@dataclass(frozen=True)
class BatchRequest:
    """A validated command line; validating it needs no ComfyUI."""

    workflow: dict
    clips: list[BatchClip]
    out: Path
    workers: int | None
    ray: str | None
    settings: list[str]
    seed: str
    attempts: int
    timeout: float | None
    retry_failed: bool
    dry_run: bool


def parse_request(
    workflow: Path, clips: list[str], out: Path, workers: str, shard: str | None, attempts: int, **options
) -> BatchRequest:
    """Validate dev.py's arguments; raise `BatchError` if one is wrong."""
    if workers != "auto" and not (workers.isdigit() and int(workers)):
        raise BatchError(f"--workers is {workers}, expected auto or a number of 1 or more.")
    if attempts < 1:
        raise BatchError(f"--attempts is {attempts}, expected 1 or more.")
    out = out.absolute()
    found = find_clips(clips, out, parse_shard(shard) if shard else SINGLE_SHARD)
    count = None if workers == "auto" else int(workers)
    return BatchRequest(read_workflow(workflow), found, out, workers=count, attempts=attempts, **options)


def run_batch(request: BatchRequest, python: Path, comfyui: Path, gpus: list[str]) -> int:
    """Process every clip of a request and return the exit status: 1 if a clip has failed."""
    batch = make_batch(request, python, comfyui, cpu=not gpus)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(request.clips, pool.map(partial(find_valid_report, batch), request.clips), strict=True))
    reports = {clip.name: report for clip, report in found.items() if report}
    todo = [clip for clip, report in found.items() if not report]
    print(f"[batch] {len(request.clips)} clips: {len(todo)} to do, {len(reports)} already finished", flush=True)
    if request.dry_run:
        for clip in request.clips:
            print(f"{clip.name}: {reports[clip.name]['status'] if clip.name in reports else 'to do'}")
        return 0
    progress = ProgressBar(len(request.clips), len(reports))
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


def make_batch(request: BatchRequest, python: Path, comfyui: Path, cpu: bool) -> Batch:
    """Collect what the workers need, with hashes of everything that the results depend on."""
    files = find_files(collect_strings(request.workflow, request.settings), str(python), comfyui)
    prefix = "input/"
    return Batch(
        run=uuid.uuid4().hex[:12],
        python=str(python),
        comfyui=str(comfyui),
        cpu=cpu,
        workflow=request.workflow,
        settings=request.settings,
        seed=request.seed,
        out=str(request.out),
        hashes={
            "workflow": hash_record([strip_layout(request.workflow), request.settings, request.seed]),
            "pack": hash_pack(),
            "host": hash_comfyui(comfyui),
            "files": hash_files(files),
        },
        inputs={name.removeprefix(prefix): path for name, path in files.items() if name.startswith(prefix)},
        attempts=request.attempts,
        timeout=request.timeout,
        retry_failed=request.retry_failed,
    )


def run_engine(
    request: BatchRequest, batch: Batch, todo: list[BatchClip], gpus: list[str], progress: ProgressBar
) -> Iterator[dict]:
    """Process clips with the engine of the request; yield each report when its clip is finished."""
    if request.ray is not None:
        return run_ray(batch, todo, request.ray, request.workers, progress.show_stage)
    return run_local(batch, todo, request.workers or len(gpus) or 1, gpus, progress.show_stage)

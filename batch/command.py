"""A batch from its command line to its last report: what is asked for, what is done already, the rest."""

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
    """What the command line asks for, found sound: nothing of it needs a ComfyUI."""

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
    """The order that dev.py's arguments make; `BatchError` says what is wrong with them."""
    if workers != "auto" and not (workers.isdigit() and int(workers)):
        raise BatchError(f"--workers is {workers}, expected auto or a number from 1.")
    if attempts < 1:
        raise BatchError(f"--attempts is {attempts}, expected a number from 1.")
    out = out.absolute()
    found = find_clips(clips, out, parse_shard(shard) if shard else SINGLE_SHARD)
    number = None if workers == "auto" else int(workers)
    return BatchRequest(read_workflow(workflow), found, out, workers=number, attempts=attempts, **options)


def run_batch(order: BatchRequest, python: Path, comfyui: Path, gpus: list[str]) -> int:
    """Settle every clip of an order and return the exit status: 1 if one of them has failed."""
    batch = make_batch(order, python, comfyui, cpu=not gpus)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(order.clips, pool.map(partial(find_valid_report, batch), order.clips), strict=True))
    reports = {clip.name: report for clip, report in found.items() if report}
    todo = [clip for clip, report in found.items() if not report]
    print(f"[batch] {len(order.clips)} clips: {len(todo)} to do, {len(reports)} settled before", flush=True)
    if order.dry_run:
        for clip in order.clips:
            print(f"{clip.name}: {reports[clip.name]['status'] if clip.name in reports else 'to do'}")
        return 0
    progress = ProgressBar(len(order.clips), len(reports))
    try:
        for report in run_engine(order, batch, todo, gpus, progress) if todo else ():
            reports[report["clip"]] = report
            progress.show_report(report)
    finally:
        progress.end()
        write_manifest(order.out)
    failed = [report for report in reports.values() if report["status"] == FAILED]
    print(f"[batch] {len(reports) - len(failed)} done, {len(failed)} failed: {order.out / MANIFEST}")
    if failed:
        print("[batch] failed clips wait for --retry-failed, or for a change in clip, workflow or pack")
    return 1 if failed else 0


def make_batch(order: BatchRequest, python: Path, comfyui: Path, cpu: bool) -> Batch:
    """What the workers need to know, with the hashes of everything that the results depend on."""
    named = find_files(collect_strings(order.workflow, order.settings), str(python), comfyui)
    prefix = "input/"
    return Batch(
        run_engine=uuid.uuid4().hex[:12],
        python=str(python),
        comfyui=str(comfyui),
        cpu=cpu,
        workflow=order.workflow,
        settings=order.settings,
        seed=order.seed,
        out=str(order.out),
        hashes={
            "workflow": hash_record([strip_layout(order.workflow), order.settings, order.seed]),
            "pack": hash_pack(),
            "host": hash_comfyui(comfyui),
            "files": hash_files(named),
        },
        inputs={name.removeprefix(prefix): path for name, path in named.items() if name.startswith(prefix)},
        attempts=order.attempts,
        timeout=order.timeout,
        retry_failed=order.retry_failed,
    )


def run_engine(
    order: BatchRequest, batch: Batch, todo: list[BatchClip], gpus: list[str], progress: ProgressBar
) -> Iterator[dict]:
    """The reports of clips from the engine that the order names, as they come."""
    if order.ray is not None:
        return run_ray(batch, todo, order.ray, order.workers, progress.show_stage)
    return run_local(batch, todo, order.workers or len(gpus) or 1, gpus, progress.show_stage)

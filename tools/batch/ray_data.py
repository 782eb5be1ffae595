"""The engine for a cluster, or for one big machine: Ray Data, one actor a worker. Ray is imported only here."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tools.batch.records import Batch, BatchError, Clip
from tools.batch.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
# Ray Data's retries and its scheduling of actors differ from release to release: this one is tested.
RAY = "ray[data]==2.60.0"


class Actor:
    """A worker somewhere in the cluster, with the GPU that Ray gives it."""

    def __init__(self, batch: Batch) -> None:
        self._worker = Worker(batch)

    def __call__(self, row: dict) -> dict:
        """Settle a clip. What ends the batch is an answer too: Ray would try an exception again without end."""
        try:
            answer = {"report": self._worker.settle(Clip(**row))}
        except BatchError as error:
            answer = {"fault": f"On {socket.gethostname()}: {error}"}
        return {"answer": json.dumps(answer)}

    def __del__(self) -> None:
        """Ray Data's way to end an actor; without it Ray kills the worker's processes and their folder stays."""
        self._worker.stop()


def run_ray(batch: Batch, clips: list[Clip], address: str, workers: int | None) -> Iterator[dict]:
    """Reports as they come, from a running Ray cluster; ``workers`` is one a GPU of the cluster if None, else 1."""
    if "://" in address or ":" not in address:
        raise BatchError(f"--ray is {address}, expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379.")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BatchError(
            f"--ray needs Ray, which {sys.executable} does not have: run {sys.executable} -m pip install "
            f'"{RAY}" (or the version of your cluster), or run dev.py with a Python that has it.'
        ) from None
    try:
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(address=address, runtime_env=environment, logging_level="error", log_to_driver=False)
    except ConnectionError as error:
        raise BatchError(f"No Ray answers at {address} ({error}): start one with ray start --head.") from None
    try:
        yield from _answers(ray, batch, clips, workers)
    finally:
        ray.shutdown()


def _answers(ray, batch: Batch, clips: list[Clip], workers: int | None) -> Iterator[dict]:
    gpus = ray.cluster_resources().get("GPU", 0)
    size = workers or int(gpus) or 1
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A block for each clip and one clip at a time with each actor: a clip that kills its worker takes no other along.
    answers = ray.data.from_items([asdict(clip) for clip in clips], override_num_blocks=len(clips)).map(
        Actor,
        fn_constructor_args=(replace(batch, cpu=not gpus),),
        compute=ray.data.ActorPoolStrategy(size=min(size, len(clips)), max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=min(1, gpus / size),
    )
    for row in answers.iter_rows():
        ((kind, content),) = json.loads(row["answer"]).items()
        if kind == "fault":
            raise BatchError(content)
        yield content

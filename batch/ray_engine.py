"""The engine for a cluster, or for one big machine: Ray Data, one actor a worker. Ray is imported only here."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from batch.records import Batch, BatchClip, BatchError
from batch.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
# Ray Data's retries and its scheduling of actors differ from release to release: this one is tested.
RAY_REQUIREMENT = "ray[data]==2.60.0"
STAGE_POLL_SECONDS = 0.5
"""Seconds between two looks at what the workers do."""


class StageStore:
    """What each worker of the cluster does now, in an actor of its own."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}

    def tell(self, worker: str, stage: str) -> None:
        """Note what a worker does."""
        self._stages[worker] = stage

    def read(self) -> dict[str, str]:
        """Everything told so far."""
        return self._stages


class RayWorker:
    """A worker somewhere in the cluster, with the GPU that Ray gives it; ``stages`` is the handle of a `StageStore`."""

    def __init__(self, batch: Batch, stages) -> None:
        self._worker = Worker(batch)
        self._stages = stages
        self._name = f"{socket.gethostname()} {os.getpid()}"

    def __call__(self, row: dict) -> dict:
        """Settle a clip. What ends the batch is an answer too: Ray would try an exception again without end."""
        try:
            answer = {"report": self._worker.settle(BatchClip(**row), partial(self._stages.tell.remote, self._name))}
        except BatchError as error:
            answer = {"fault": f"On {socket.gethostname()}: {error}"}
        return {"answer": json.dumps(answer)}

    def __del__(self) -> None:
        """Ray Data's way to end an actor; without it Ray kills the worker's processes and their folder stays."""
        self._worker.stop()


def run_ray(
    batch: Batch, clips: list[BatchClip], address: str, workers: int | None, tell_stage: Callable[[str, str], None]
) -> Iterator[dict]:
    """Reports as they come, from a running Ray cluster; ``workers`` is one a GPU of the cluster if None, else 1."""
    if "://" in address or ":" not in address:
        raise BatchError(f"--ray is {address}, expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379.")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BatchError(
            f"--ray needs Ray, which {sys.executable} does not have: run {sys.executable} -m pip install "
            f'"{RAY_REQUIREMENT}" (or the version of your cluster), or run dev.py with a Python that has it.'
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(address=address, runtime_env=environment, logging_level="error", log_to_driver=False)
    except ConnectionError as error:
        raise BatchError(f"No Ray answers at {address} ({error}): start one with ray start --head.") from None
    ended = threading.Event()
    stages = ray.remote(num_cpus=0)(StageStore).remote()

    def follow() -> None:
        with suppress(ray.exceptions.RayError):  # stages are for show: a batch outlives the node that keeps them
            while not ended.wait(STAGE_POLL_SECONDS):
                for worker, stage in ray.get(stages.read.remote(), timeout=10).items():
                    tell_stage(worker, stage)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield from _answers(ray, batch, clips, workers, stages)
    finally:
        ended.set()
        follower.join()  # a call of Ray after its end would start a new one
        ray.shutdown()


def _answers(ray, batch: Batch, clips: list[BatchClip], workers: int | None, stages) -> Iterator[dict]:
    gpus = ray.cluster_resources().get("GPU", 0)
    size = workers or int(gpus) or 1
    ray.data.DataContext.get_current().enable_progress_bars = False
    # A block for each clip and one clip at a time with each actor: a clip that kills its worker takes no other along.
    answers = ray.data.from_items([asdict(clip) for clip in clips], override_num_blocks=len(clips)).map(
        RayWorker,
        fn_constructor_args=(replace(batch, cpu=not gpus), stages),
        compute=ray.data.ActorPoolStrategy(size=min(size, len(clips)), max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=min(1, gpus / size),
    )
    for row in answers.iter_rows():
        ((kind, content),) = json.loads(row["answer"]).items()
        if kind == "fault":
            raise BatchError(content)
        yield content

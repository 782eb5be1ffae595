"""The engine for a cluster or one large machine: Ray Data, with one actor per worker. Only this module imports Ray."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

from .records import Batch, BatchClip, BatchError
from .worker import Worker

# Ray Data's retries and actor scheduling differ between releases; this one is tested.
RAY_REQUIREMENT = "ray[data]==2.60.0"
STAGE_POLL_SECONDS = 0.5
"""Seconds between queries of the workers' stages."""
STOP_SECONDS = 30.0
"""How long the driver waits for workers that stop; a worker whose node is lost never reports that it has stopped."""


class StageStore:
    """Actor that holds the current stage of each worker of the cluster, from its start until it has stopped."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}

    def set_stage(self, worker: str, stage: str) -> None:
        """Store a worker's stage."""
        self._stages[worker] = stage

    def remove(self, worker: str) -> None:
        """Forget a worker."""
        self._stages.pop(worker, None)

    def read(self) -> dict[str, str]:
        """Return the stage of each worker."""
        return self._stages


class RayWorker:
    """A worker on a node of the cluster, with the GPU assigned by Ray; ``stages`` is the handle of a `StageStore`."""

    def __init__(self, batch: Batch, stages) -> None:
        import ray

        self._worker = Worker(batch)
        self._stages = stages
        self._name = ray.get_runtime_context().get_actor_id()  # of a restarted actor too
        stages.set_stage.remote(self._name, "starting")

    def __call__(self, row: dict) -> dict:
        """Process a clip. An error that ends the batch is returned, since Ray would retry an exception forever."""
        on_stage = partial(self._stages.set_stage.remote, self._name)
        try:
            answer = {"report": self._worker.process_clip(BatchClip(**row), on_stage)}
        except BatchError as error:
            answer = {"fault": f"On {socket.gethostname()}: {error}"}
        return {"answer": json.dumps(answer)}

    def __del__(self) -> None:
        """Stop the worker when Ray Data ends the actor. Otherwise Ray kills its processes and their folder stays."""
        import ray

        self._worker.stop()
        with suppress(ray.exceptions.RayError):  # its node is lost, or the driver was killed
            ray.get(self._stages.remove.remote(self._name))


def run_ray(
    batch: Batch, clips: list[BatchClip], address: str, workers: int | None, on_stage: Callable[[str, str], None]
) -> Iterator[dict]:
    """Process clips on a running Ray cluster; yield each report when its clip is finished.

    Args:
        workers: number of workers. None: one per GPU of the cluster, or 1 without GPUs.
        on_stage: called with a worker and its stage, from another thread.
    """
    if "://" in address or ":" not in address:
        raise BatchError(f"--ray is {address}, expected HOST:PORT of the cluster's head, such as 10.0.0.1:6379.")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise BatchError(
            f"--ray needs Ray, which {sys.executable} does not have: run {sys.executable} -m pip install "
            f'"{RAY_REQUIREMENT}" (or the version of your cluster), or use a Python that has it and '
            "name ComfyUI's with --python."
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False)
    except ConnectionError as error:
        raise BatchError(f"No Ray cluster at {address} ({error}): start one with ray start --head.") from None
    except RuntimeError as error:
        raise BatchError(
            f"Ray cannot use the cluster at {address}: {' '.join(str(error).split())} (The batch needs the cluster's "
            "versions of Ray and Python.)"
        ) from None
    signal.signal(signal.SIGTERM, stop)  # Ray has replaced it
    # The nodes' Pythons need not find this package: its code is sent.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__package__])
    ended = threading.Event()
    stages = ray.remote(num_cpus=0)(StageStore).remote()

    def poll_stages() -> None:
        with suppress(ray.exceptions.RayError):  # stages are only shown: the batch continues if their node is lost
            while not ended.wait(STAGE_POLL_SECONDS):
                for worker, stage in ray.get(stages.read.remote(), timeout=10).items():
                    on_stage(worker, stage)

    poller = threading.Thread(target=poll_stages, daemon=True)
    poller.start()
    try:
        yield from _process_clips(ray, batch, clips, workers, stages)
        _wait_until_stopped(ray, stages)
    finally:
        ended.set()
        poller.join()  # a call after ray.shutdown would start Ray again
        ray.shutdown()


def _wait_until_stopped(ray, stages) -> None:
    """Wait for the workers, which Ray Data has told to stop: ray.shutdown would kill those that have not begun to."""
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ray.exceptions.RayError):  # their node is lost
        while ray.get(stages.read.remote(), timeout=10) and time.monotonic() < deadline:
            time.sleep(0.1)


def _process_clips(ray, batch: Batch, clips: list[BatchClip], workers: int | None, stages) -> Iterator[dict]:
    gpus = ray.cluster_resources().get("GPU", 0)
    size = workers or int(gpus) or 1
    ray.data.DataContext.get_current().enable_progress_bars = False
    # One block per clip and one clip at a time per actor: a clip that kills its worker affects no other.
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

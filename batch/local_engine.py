"""The local engine: workers on this machine, one thread each, without further dependencies."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .records import Batch, BatchClip
from .worker import Worker


def run_local(
    batch: Batch, clips: list[BatchClip], count: int, gpus: list[dict[str, str]], on_stage: Callable[[str, str], None]
) -> Iterator[dict]:
    """Process clips with ``count`` workers; yield each report when its clip is finished.

    ``gpus`` has the environment variables that select each GPU.
    ``on_stage(worker, stage)`` is called from other threads.
    """
    todo: queue.SimpleQueue[BatchClip] = queue.SimpleQueue()
    for clip in clips:
        todo.put(clip)
    results: queue.SimpleQueue[dict | BaseException] = queue.SimpleQueue()
    workers = [Worker(batch, gpus[i % len(gpus)] if gpus else None) for i in range(min(count, len(clips)))]

    def work(number: int) -> None:
        try:
            while True:
                results.put(workers[number].process_clip(todo.get_nowait(), partial(on_stage, str(number))))
        except queue.Empty:
            workers[number].stop()
        except BaseException as error:
            results.put(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(workers))]
    try:
        for thread in threads:
            thread.start()
        for _ in clips:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Worker.stop, workers))

"""The overhead of batches: one and two workers, with the plain loop and with Ray.

First, the demo workflow on a few clips of the toy world, in the real ComfyUI. Then, in the fake ComfyUI of the tests,
clips that only wait, to measure how workers share them without sharing a processor; and clips that take no time, so
that the rest is overhead: hashes, copies, reports, prompts, Ray's scheduling.
Ray is measured if `python dev.py test` has installed its environment. Run it with `python dev.py bench`, or

    python -m research.batch_overhead [--clips N] [--waiting N] [--empty N ...]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from batch.clip_reports import read_report
from batch.file_hashes import write_atomically
from research import toy_world
from tools.demo import load_demo_workflow
from tools.environment import RAY_PYTHON
from tools.in_process_comfyui import COMFYUI
from tools.video_files import write_video

ROOT = Path(__file__).resolve().parents[1]

FAKE_COMFYUI = ROOT / "tests" / "fixtures" / "fake_comfyui"
EMPTY_WORKFLOW = """{
    "1": {"class_type": "LoadVideo", "inputs": {"file": ""}},
    "2": {"class_type": "Work", "inputs": {"video": ["1", 0], "seed": 0, "steps": 1}},
    "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": ""}}
}"""
WORKERS = (1, 2)


@contextmanager
def ray_cluster(python: Path) -> Iterator[str]:
    """Start a cluster of two nodes with one CPU each on this machine; gives its address."""
    command = [python, ROOT / "tests" / "fixtures" / "ray_cluster.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


class Bench:
    """Runs batches in a folder."""

    def __init__(self, folder: Path, ray_python: Path) -> None:
        self.folder = folder
        self.ray_python = ray_python
        self.with_ray = ray_python.exists()

    def seconds(self, comfyui: Path, workflow: Path, clips: Path, *options: str, python: Path) -> float:
        """Wall-clock time of dev.py batch, starting with an empty output folder."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "COMFYUI_PYTHON": sys.executable}
        start = time.perf_counter()
        command = [python, ROOT / "dev.py", "batch", workflow, clips, out, *options]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    def engines(self, comfyui: Path, workflow: Path, clips: Path) -> Iterator[tuple[str, int, float]]:
        """Run every engine; gives its name, number of workers and seconds."""
        for workers in WORKERS:
            options = ["--workers", str(workers)]
            yield "loop", workers, self.seconds(comfyui, workflow, clips, *options, python=Path(sys.executable))
        if not self.with_ray:
            return
        for workers in WORKERS:
            # A new cluster for each run, because Ray keeps warm processes for the next run.
            with ray_cluster(self.ray_python) as address:
                options = ["--workers", str(workers), "--ray", address]
                yield "Ray Data", workers, self.seconds(comfyui, workflow, clips, *options, python=self.ray_python)

    def measure_demo(self, count: int) -> None:
        """Print the times of the demo workflow on ``count`` clips."""
        clips = self.folder / "clips"
        clips.mkdir()
        for seed in range(count):
            write_video(clips / f"{seed}.mp4", toy_world.generate_clip(seed).frames)
        print(f"\nThe demo workflow on {count} clips of {toy_world.FRAMES} frames, {os.cpu_count()} CPU cores")
        print(f"{'engine':10}{'workers':>8}{'seconds':>9}{'of the loop':>13}{'first clip':>12}{'others':>8}")
        plain = None
        workflow = self.folder / "demo.json"
        write_atomically(workflow, json.dumps(load_demo_workflow("any.mp4")))
        for engine, workers, seconds in self.engines(COMFYUI, workflow, clips):
            plain = plain or seconds
            reports = [read_report(path) for path in (self.folder / "out").glob("*.json")]
            times = sorted(report["seconds"] for report in reports)
            first, rest = median(times[-workers:]), median(times[:-workers])
            print(f"{engine:10}{workers:8}{seconds:9.1f}{seconds / plain:13.2f}{first:12.2f}{rest:8.2f}", flush=True)

    def write_texts(self, name: str, texts: list[str]) -> Path:
        """Write a folder of clips for the fake ComfyUI, which follows the text in them."""
        clips = self.folder / name
        clips.mkdir()
        for index, text in enumerate(texts):
            (clips / f"{index:04}.mp4").write_text(text)
        return clips

    def measure_waiting(self, count: int) -> None:
        """Print how workers share clips that wait for half a second each and compute nothing."""
        clips = self.write_texts("waiting", [f"slow {index}" for index in range(count)])
        print(f"\n{count} clips that wait half a second each")
        print(f"{'engine':10}{'workers':>8}{'seconds':>9}{'of the loop':>13}")
        plain = None
        for engine, workers, seconds in self.engines(FAKE_COMFYUI, self.empty_workflow(), clips):
            plain = plain or seconds
            print(f"{engine:10}{workers:8}{seconds:9.1f}{seconds / plain:13.2f}", flush=True)

    def empty_workflow(self) -> Path:
        """Write the workflow for the fake ComfyUI."""
        path = self.folder / "empty.json"
        write_atomically(path, EMPTY_WORKFLOW)
        return path

    def measure_empty(self, counts: list[int]) -> None:
        """Print the overhead of clips that take no time, for several numbers of clips."""
        print("\nClips that take no time: total seconds, and seconds per additional clip")
        print(f"{'clips':>6} {'engine':10}{'workers':>8}{'seconds':>9}{'a clip':>9}")
        fewest: dict[tuple[str, int], float] = {}
        for count in counts:
            clips = self.write_texts(f"empty{count}", [str(index) for index in range(count)])
            for engine, workers, seconds in self.engines(FAKE_COMFYUI, self.empty_workflow(), clips):
                base = fewest.setdefault((engine, workers), seconds)
                cost = f"{(seconds - base) / (count - counts[0]):9.3f}" if count > counts[0] else " " * 9
                print(f"{count:6} {engine:10}{workers:8}{seconds:9.1f}{cost}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--waiting", type=int, default=40)
    parser.add_argument("--empty", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FAKE_COMFYUI_JOURNAL"] = str(Path(folder, "journal"))
        bench = Bench(Path(folder), Path(os.environ.get("BIVDIFF_RAY_PYTHON", RAY_PYTHON)))
        bench.measure_demo(arguments.clips)
        bench.measure_waiting(arguments.waiting)
        bench.measure_empty(arguments.empty)


if __name__ == "__main__":
    main()

"""What other precisions, and other flags of ComfyUI, change in the results of every node.

    python -m research.precision

Each mode runs all nodes on the demo models in a process of its own, on a device that keeps a GPU's rules and computes
on the CPU (tests/fixtures/fake_gpu), and is compared with float32 on the CPU. Measures the modes that
research/rows/precision.jsonl lacks, and fills the section Precision of docs/versions.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures.fake_gpu.comfyui_with_fake_gpu import FP32
from fixtures.fake_gpu.run_scripts import Run, chain, distances, kind

from research.page_tables import markdown, run_line, write
from research.rows_and_jobs import measure

REST = ("--fp32-vae", "--fp32-text-enc")
MODES = {
    "no flags: fp16, the VAE in bf16": (),
    "fp16 models": ("--fp16-unet", *REST),
    "bf16 models": ("--bf16-unet", *REST),
    "fp8 (e4m3) weights, computed in fp16": ("--fp8_e4m3fn-unet", *REST),
    "fp8 (e5m2) weights, computed in fp16": ("--fp8_e5m2-unet", *REST),
    "bf16 weights, computed in fp32": ("--bf16-unet", *FP32),
    "fp16 weights, computed in fp32": ("--fp16-unet", *FP32),
    "fp16 VAE": ("--fp16-vae", *FP32),
    "bf16 VAE": ("--bf16-vae", *FP32),
    "fp16 between nodes": ("--fp16-intermediates", *FP32),
    "PyTorch's attention": ("--use-pytorch-cross-attention", *FP32),
    "split attention": ("--use-split-cross-attention", *FP32),
    "sub-quadratic attention": ("--use-quad-cross-attention", *FP32),
    "--lowvram": ("--lowvram", *FP32),
    "--novram": ("--novram", *FP32),
    "--deterministic": ("--deterministic", *FP32),
    "--fast": ("--fast", *FP32),
}
KINDS = {
    "encode": "encoded",
    "draw": "generated",
    "bridge": "bridged",
    "invert": "inverted",
    "blend": "blended",
    "smooth": "smoothed",
    "edit": "edited",
    "decode": "decoded",
}
"""Results by what was done, and how the page calls them."""
SAME = 0.00001
"""Relative RMS below which only the order of float32's roundings differs."""


def furthest(run: Run, expected: Run) -> dict[str, float]:
    """The largest relative RMS among the results of each kind."""
    found = distances(run, expected)
    return {done: max(distance for name, distance in found.items() if kind(name) == done) for done in KINDS}


def cell(distance: float) -> str:
    """A distance as the table has it."""
    return "same" if distance < SAME else f"{100 * distance:.2g}%"


def run_mode(*flags: str) -> Run:
    """The chain under flags of ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        return chain(Path(folder), *flags)


def begin() -> None:
    """Run the chain in float32."""
    global full
    full = run_mode("--cpu", *FP32)


def work(job: dict) -> dict:
    """A row: how far off a mode's results are."""
    return {"distances": furthest(run_mode(*MODES[job["mode"]]), full)}


def blocks(rows: list[dict]) -> dict[str, str]:
    """What the page's generated blocks hold."""
    changed = [row for row in rows if max(row["distances"].values()) >= SAME]
    lines = [
        {"": row["mode"]} | {KINDS[done]: cell(distance) for done, distance in row["distances"].items()}
        for row in changed
    ]
    return {
        "run": run_line(rows, f"{len(rows)} modes."),
        "distances": markdown(lines),
        "same": f"Every result is the same with: {'; '.join(row['mode'] for row in rows if row not in changed)}.",
    }


def main() -> None:
    """Measure what is missing and fill the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    write("docs/versions.md", blocks(measure("precision", [{"mode": mode} for mode in MODES], work, begin)))


if __name__ == "__main__":
    main()

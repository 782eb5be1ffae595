"""How much the results of every node change with other precisions and other flags of ComfyUI.

    python -m research.precision

Each mode runs all nodes on the demo models in a new process, on a fake GPU that computes on the CPU
(tests/fixtures/fake_gpu), and is compared with float32 on the CPU. Measures the modes that are missing in
research/rows/precision.jsonl, and fills the section Precision of docs/versions.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures.fake_gpu.comfyui_with_fake_gpu import FP32_FLAGS
from fixtures.fake_gpu.run_scripts import NodeResults, relative_distances, result_kind, run_all_nodes

from research.page_tables import describe_run, markdown_table
from research.rows_and_jobs import run_study

FP32_VAE_AND_TEXT = ("--fp32-vae", "--fp32-text-enc")
MODES = {
    "no flags: fp16, the VAE in bf16": (),
    "fp16 models": ("--fp16-unet", *FP32_VAE_AND_TEXT),
    "bf16 models": ("--bf16-unet", *FP32_VAE_AND_TEXT),
    "fp8 (e4m3) weights, computed in fp16": ("--fp8_e4m3fn-unet", *FP32_VAE_AND_TEXT),
    "fp8 (e5m2) weights, computed in fp16": ("--fp8_e5m2-unet", *FP32_VAE_AND_TEXT),
    "bf16 weights, computed in fp32": ("--bf16-unet", *FP32_FLAGS),
    "fp16 weights, computed in fp32": ("--fp16-unet", *FP32_FLAGS),
    "fp16 VAE": ("--fp16-vae", *FP32_FLAGS),
    "bf16 VAE": ("--bf16-vae", *FP32_FLAGS),
    "fp16 between nodes": ("--fp16-intermediates", *FP32_FLAGS),
    "PyTorch's attention": ("--use-pytorch-cross-attention", *FP32_FLAGS),
    "split attention": ("--use-split-cross-attention", *FP32_FLAGS),
    "sub-quadratic attention": ("--use-quad-cross-attention", *FP32_FLAGS),
    "--lowvram": ("--lowvram", *FP32_FLAGS),
    "--novram": ("--novram", *FP32_FLAGS),
    "--deterministic": ("--deterministic", *FP32_FLAGS),
    "--fast": ("--fast", *FP32_FLAGS),
}
COLUMNS = {
    "encode": "encoded",
    "draw": "generated",
    "bridge": "bridged",
    "invert": "inverted",
    "blend": "blended",
    "smooth": "smoothed",
    "edit": "edited",
    "decode": "decoded",
}
"""Kinds of results, and their column titles in the page."""
ROUNDING_LIMIT = 0.00001
"""Relative RMS below which only float32 rounding differs."""


def max_distances(run: NodeResults, expected: NodeResults) -> dict[str, float]:
    """The largest relative RMS among the results of each kind."""
    found = relative_distances(run, expected)
    return {kind: max(distance for name, distance in found.items() if result_kind(name) == kind) for kind in COLUMNS}


def format_distance(distance: float) -> str:
    """A distance as text for the table."""
    return "same" if distance < ROUNDING_LIMIT else f"{100 * distance:.2g}%"


def run_mode(*flags: str) -> NodeResults:
    """Run all nodes with flags of ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        return run_all_nodes(Path(folder), *flags)


def run_in_float32() -> NodeResults:
    """Run all nodes in float32 on the CPU."""
    return run_mode("--cpu", *FP32_FLAGS)


def make_jobs() -> list[dict]:
    """One run for each mode."""
    return [{"mode": mode} for mode in MODES]


def measure(expected: NodeResults, job: dict) -> dict:
    """A row: the distances of a mode's results from float32."""
    return {"distances": max_distances(run_mode(*MODES[job["mode"]]), expected)}


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    changed = [row for row in rows if max(row["distances"].values()) >= ROUNDING_LIMIT]
    lines = [
        {"": row["mode"]} | {COLUMNS[done]: format_distance(distance) for done, distance in row["distances"].items()}
        for row in changed
    ]
    return {
        "run": describe_run(rows, f"{len(rows)} modes."),
        "distances": markdown_table(lines),
        "same": f"Every result is the same with: {'; '.join(row['mode'] for row in rows if row not in changed)}.",
    }


if __name__ == "__main__":
    run_study("precision", make_jobs, run_in_float32, measure, render_tables)

"""What other precisions, and other flags of ComfyUI, change in the results of every node.

    python benchmarks/precision.py [MODE ...]

Each mode runs all nodes on the demo models in a process of its own, on a device that keeps a GPU's rules and computes
on the CPU (tests/host/accelerator), and is held against float32 on the CPU. All of them write docs/precision.md.
"""

from __future__ import annotations

import datetime
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "host")]

from accelerator.comfyui import FP32  # noqa: E402
from accelerator.runs import Run, chain, distances, kind  # noqa: E402

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
    "draw": "drawn",
    "bridge": "bridged",
    "invert": "inverted",
    "blend": "blended",
    "smooth": "smoothed",
    "edit": "edited",
    "decode": "decoded",
}
"""Results by what was done, and how the page calls them."""
SAME = 1e-5
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


PAGE = """# Precision

{date}, `python benchmarks/precision.py`: every node on the demo models, 4 frames of 64x64 in 3 steps, under ComfyUI's
flags for precision, attention and memory, against float32. Each figure is the relative RMS distance of the result that
is furthest off among its kind; *same* is below 0.001%. The device is a pretended GPU, which computes on the CPU in the
precision that ComfyUI asks for: it shows rounding as a GPU has it, and nothing of its speed.

{table}

*Drawn* is what Frame-wise Image Sampler makes with every control, and core's own sampler with Frame Chunks; *bridged*
Bridge Guider; *inverted* both DDIM Inverse nodes with all solvers; *smoothed* Video Temporal Smoother, whole, in
windows and followed by the structure pass; *edited* Prompt2Prompt. Each starts from what the nodes before it made under
the same flags.

- **Memory and attention change nothing.** Prompt2Prompt computes the attention that it edits itself, in float32, and is
  the same with every backend.
- **Solvers and blends compute in float32.** Models round what they predict, and nothing else is rounded but what goes
  from node to node with `--fp16-intermediates`.
- **Inversion enlarges what the VAE rounds.** Its first prediction looks for noise at the model's lowest level, 3% of a
  frame's own size, and there finds the VAE's rounding. A GPU of NVIDIA's last generations takes bf16 for the VAE unless
  told otherwise. What is inverted is then the frame as it was encoded, and smoothing returns to that: it needs no cure.
  Where the latent itself counts, in Inverted Latent Report or a comparison of inversions, start ComfyUI with
  `--fp32-vae`. Frames that an image model drew go on as latents and never meet the VAE.
- **fp8 weights make other frames**, not worse noise: what differs is the model. Take the same weights in every node.
- **An edit with local_blend_words** differs by whole cells of its mask where a cell lies at the threshold.
- **NaN and infinity stop a node** in every precision, with the frame and the step; large numbers do not.

**Not measured.** Speed and memory, for which a CPU says nothing; models of full size, of which a CPU makes a step in
minutes; what only NVIDIA's own libraries have: xformers, Flash and Sage attention, and the parts of `--fast` (fp16
accumulation, fp8 products, cuBLAS, autotuning), which the pretended GPU is not offered, so that its row only shows that
nothing breaks.
"""


def main() -> None:
    """Run the modes named, or all, and print a line of the table for each."""
    modes = sys.argv[1:] or list(MODES)
    full = run_mode("--cpu", *FP32)
    lines = [f"| | {' | '.join(KINDS.values())} |", f"| --- |{' ---: |' * len(KINDS)}"]
    for mode in modes:
        found = furthest(run_mode(*MODES[mode]), full)
        lines.append(f"| {mode} | {' | '.join(map(cell, found.values()))} |")
        print(lines[-1], flush=True)
    if modes == list(MODES):
        page = PAGE.format(date=datetime.date.today().isoformat(), table="\n".join(lines))
        (ROOT / "docs" / "precision.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Model calls and memory of the chain of Qwen-Image and Wan 2.1 14B at 832x480.

    python -m research.chain_costs

Calls are counted on the nodes with small networks. Memory is counted on the networks at full size, on PyTorch's meta
device: every tensor that a call allocates and frees, without computing it. Measures what is missing in
research/rows/chain_costs.jsonl, and fills its block in docs/models.md.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from research.page_tables import markdown_table
from research.rows_and_jobs import run_study
from tools.in_process_comfyui import Pack, use_comfyui

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

CLIP_LENGTHS = (33, 81)
WIDTH, HEIGHT = 832, 480
FRAMES_PER_LATENT = 4
STEPS = 20
TEXT_TOKENS = {"Qwen-Image": 128, "Wan 2.1 14B": 512}
"""A long prompt for Qwen-Image; Wan's text always has 512 tokens."""
TEXT_WIDTHS = {"Qwen-Image": 3584, "Wan 2.1 14B": 4096}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 60}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "patch_size": (1, 2, 2),
    "dim": 5120,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "text_dim": 4096,
    "in_dim": 16,
    "out_dim": 16,
    "num_heads": 40,
    "num_layers": 40,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
WAN_VAE = {
    "dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}
"""The published configurations, as ComfyUI reads them from the files (comfy/model_detection.py, comfy/sd.py)."""


def find_storages(*values: object) -> list[torch.UntypedStorage]:
    """The storages of all tensors in nested values."""
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations in its block allocate; `peak` is the most that was alive."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for storage in find_storages(args, kwargs):  # weights and inputs
            self.known[storage] = True
        result = function(*args, **(kwargs or {}))
        for storage in find_storages(result):
            if storage not in self.known:
                self.known[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, size: int) -> None:
        self.current += size
        self.peak = max(self.peak, self.current)


class FusedAttention(TorchFunctionMode):
    """Attention allocates its result only, as PyTorch's fused kernels do. The meta device has none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


def count_peak(call: Callable[[], object]) -> int:
    """Peak memory in bytes of a call on meta tensors, without the tensors that it is given."""
    with torch.no_grad(), PeakMemory() as memory, FusedAttention():
        call()
    return memory.peak


def count_latents(frames: int) -> int:
    """Latents of a clip of `frames` frames."""
    return (frames - 1) // FRAMES_PER_LATENT + 1


def make_networks() -> dict[str, torch.nn.Module]:
    """The networks at full size, without memory, in bf16; the VAE has Wan's size."""
    import comfy.ldm.qwen_image.model
    import comfy.ldm.wan.model
    import comfy.ldm.wan.vae
    import comfy.ops

    options = {"device": "meta", "dtype": torch.bfloat16, "operations": comfy.ops.disable_weight_init}
    with torch.device("meta"):
        vae = comfy.ldm.wan.vae.WanVAE(**WAN_VAE, image_channels=3, conv_out_channels=3, dropout=0.0)
    return {
        "Qwen-Image": comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**QWEN, **options),
        "Wan 2.1 14B": comfy.ldm.wan.model.WanModel(**WAN, **options),
        "VAE": vae.to(torch.bfloat16),
    }


class Chain:
    """The nodes, and the networks at full size."""

    def __init__(self) -> None:
        use_comfyui(cpu=True, flags=["--use-pytorch-cross-attention"])
        self.pack = Pack()
        self.networks = make_networks()

    def count_weights(self, network: str) -> dict:
        """Billions of weights."""
        return {"parameters": sum(weight.numel() for weight in self.networks[network].parameters()) / 1e9}

    def count_call(self, network: str, latents: int, references: int = 0) -> dict:
        """Peak memory in GB of one model call in bf16, without weights.

        Args:
            latents: frames of the clip for Wan, one frame for Qwen-Image.
            references: reference latents of the frame's size (Qwen-Image-Edit).
        """

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

        x = empty(1, 16, latents, HEIGHT // 8, WIDTH // 8)
        text = empty(1, TEXT_TOKENS[network], TEXT_WIDTHS[network])
        time = torch.empty(1, device="meta")
        extra = {"ref_latents": [x] * references} if references else {}
        return {
            "call": count_peak(lambda: self.networks[network](x, time, text, transformer_options={}, **extra)) / 1e9
        }

    def count_vae(self, frames: int) -> dict:
        """Peak memory in GB of encoding and decoding a clip in bf16, without weights."""
        vae = self.networks["VAE"]
        clip = torch.empty(1, 3, frames, HEIGHT, WIDTH, device="meta", dtype=torch.bfloat16)
        latent = torch.empty(1, 16, count_latents(frames), HEIGHT // 8, WIDTH // 8, device="meta", dtype=torch.bfloat16)
        return {
            "encode": count_peak(lambda: vae.encode(clip)) / 1e9,
            "decode": count_peak(lambda: vae.decode(latent)) / 1e9,
        }

    def count_stages(self, frames: int) -> dict:
        """Calls of the image model (one for each frame and prompt) and of the video model (one for each prompt)."""
        from fixtures import tiny_models as tiny

        counted = {}

        def run(name: str, node_id: str, model, **inputs) -> dict:
            counter = tiny.CallCounter()
            (latent,) = self.pack.run(node_id, model=counter.on(model), steps=STEPS, **inputs)
            counted[name] = sum(counter.rows)
            return latent

        qwen, wan, latents = tiny.qwen_model(), tiny.wan_model(), count_latents(frames)
        texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2)}
        empty = {"samples": torch.zeros(frames, 16, 1, 4, 4)}
        run("generate", "BIVDiffFrameSampler", qwen, latent_image=empty, **texts, cfg=2.5)
        singles = tiny.make_latent(latents, 16, 1, 4, 4)
        image = run("invert image", "BIVDiffInvertImage", qwen, conditioning=tiny.text(), latent=singles)
        clip = tiny.make_latent(1, 16, latents, 4, 4)
        run("invert video", "BIVDiffInvertVideo", wan, conditioning=tiny.text(), latent=clip)
        mixed = self.pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=None, mixing_ratio=1.0)[0]
        run("smooth", "BIVDiffTemporalSmoother", wan, latent=mixed, **texts, cfg=6.0)
        return counted


def make_jobs() -> Iterable[dict]:
    """One job for each figure."""
    for network in TEXT_TOKENS:
        yield {"measure": "count_weights", "settings": {"network": network}}
    for references in (0, 1):
        yield {
            "measure": "count_call",
            "settings": {"network": "Qwen-Image", "latents": 1, "references": references},
        }
    for frames in CLIP_LENGTHS:
        yield {"measure": "count_call", "settings": {"network": "Wan 2.1 14B", "latents": count_latents(frames)}}
        yield {"measure": "count_vae", "settings": {"frames": frames}}
        yield {"measure": "count_stages", "settings": {"frames": frames}}


def measure_job(chain: Chain, job: dict) -> dict:
    """The figures of a job: those of a method of the chain."""
    return getattr(chain, job["measure"])(**job["settings"])


STAGES = {
    "generate": "Frame-wise Image Sampler: Qwen-Image, one frame each",
    "invert image": "DDIM Inverse (Image): Qwen-Image, one frame each",
    "invert video": "DDIM Inverse (Video): Wan, the whole clip",
    "smooth": "Video Temporal Smoother: Wan, the whole clip",
}
BYTES_PER_WEIGHT = {"bf16": 2, "fp8": 1, "GGUF Q8_0": 34 / 32, "GGUF Q4_K": 144 / 256}
"""The last two by the size of GGUF's blocks, as if all weights were quantised."""


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The tables of docs/models.md."""

    def find(measure: str, **settings) -> dict:
        return next(row for row in rows if row["measure"] == measure and row["settings"] == settings)

    calls = [
        {"model calls": text}
        | {f"{frames} frames": find("count_stages", frames=frames)[stage] for frames in CLIP_LENGTHS}
        for stage, text in STAGES.items()
    ]
    memory = [
        {"beside the weights, bf16": text} | {f"{frames} frames": f"{figure(frames):.2f} GB" for frames in CLIP_LENGTHS}
        for text, figure in {
            "a call of Wan": lambda frames: find("count_call", network="Wan 2.1 14B", latents=count_latents(frames))[
                "call"
            ],
            "encoding the clip": lambda frames: find("count_vae", frames=frames)["encode"],
            "decoding the clip": lambda frames: find("count_vae", frames=frames)["decode"],
        }.items()
    ]
    plain, edit = (
        find("count_call", network="Qwen-Image", latents=1, references=references)["call"] for references in (0, 1)
    )
    memory.append(
        {"beside the weights, bf16": "a frame of Qwen-Image; with a reference"}
        | dict.fromkeys((f"{frames} frames" for frames in CLIP_LENGTHS), f"{plain:.2f} GB; {edit:.2f} GB")
    )
    weights = [
        {"weights": network}
        | {
            name: f"{size * find('count_weights', network=network)['parameters']:.1f} GB"
            for name, size in BYTES_PER_WEIGHT.items()
        }
        for network in TEXT_TOKENS
    ]
    return {
        "chain calls": markdown_table(calls),
        "chain memory": markdown_table(memory),
        "chain weights": markdown_table(weights),
    }


if __name__ == "__main__":
    run_study("chain_costs", make_jobs, Chain, measure_job, render_tables)

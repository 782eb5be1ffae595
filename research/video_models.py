"""The loader's video models at full size with random weights: memory and time, and a comparison with diffusers.

    python -m research.video_models [zeroscope vidrd] [--frames 4 8 16] [--size 256]

Writes a model folder (4 GB in fp16) to a temporary directory, and loads it in a new process for each clip length. Peak
memory is the process's highest resident set, first during loading and then during one model call, on a CPU, where
ComfyUI computes in fp32. ZeroScope's prediction for the shortest clip is compared with that of diffusers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]

TIMESTEP = 601


def write_zeroscope(folder: Path) -> None:
    """Write ZeroScope's UNet: diffusers' UNet3DConditionModel at its default size."""
    from diffusers import UNet3DConditionModel

    UNet3DConditionModel(cross_attention_dim=1024).half().save_pretrained(folder / "unet")


def write_vidrd(folder: Path) -> None:
    """Write VidRD's checkpoint: Stable Diffusion 2.1's weights and those of the temporal layers."""
    from diffusers import UNet2DConditionModel

    heads = (5, 10, 20, 20)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=1024, attention_head_dim=heads, use_linear_projection=True)
    unet.save_config(folder / "unet")
    shapes = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    for key, (width, *_) in list(shapes.items()):
        block, found, _ = key.partition(".norm2.weight")
        if found and ".resnets." in block:
            for i in range(0, 16, 4):
                layers = f"{block.replace('.resnets.', '.temp_convs.')}.convs"
                shapes |= {f"{layers}.{i}.weight": (width,), f"{layers}.{i}.bias": (width,)}
                shapes |= {f"{layers}.{i + 3}.weight": (width, width, 3, 1, 1), f"{layers}.{i + 3}.bias": (width,)}
        elif found:
            shapes |= {f"{block}.temp_attn.to_{name}.weight": (width, width) for name in ("q", "k", "v", "out.0")}
            shapes |= {f"{block}.temp_{name}": (width,) for name in ("norm.weight", "norm.bias", "attn.to_out.0.bias")}
    weights = {f"unet.{key}": random_weight(shape) for key, shape in shapes.items()}
    safetensors.torch.save_file(weights, folder / "ModelT2V.safetensors")


def random_weight(shape: tuple[int, ...]) -> Tensor:
    """A random weight, scaled so that activations stay finite."""
    return (torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5).half()


WRITERS = {"zeroscope": write_zeroscope, "vidrd": write_vidrd}


def write(folder: Path) -> None:
    """Write the UNet, and the text encoder, VAE and scheduler of Stable Diffusion 2.1, which both models use."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    WRITERS[folder.name](folder)
    text = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        vocab_size=49408,
    )
    CLIPTextModel(text).half().save_pretrained(folder / "text_encoder")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
    vae.half().save_pretrained(folder / "vae")
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    DDIMScheduler(**schedule).save_pretrained(folder / "scheduler")


def inputs(frames: int, size: int) -> tuple[Tensor, Tensor]:
    """A noised clip `[F, 4, H, W]` in diffusers' scale, and text embeddings `[1, 77, 1024]`."""
    generator = torch.Generator().manual_seed(1)
    shapes = (frames, 4, size // 8, size // 8), (1, 77, 1024)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def predict_with_diffusers(folder: Path, frames: int, size: int) -> Tensor:
    """The noise that the folder's UNet predicts in fp32, `[F, 4, H, W]`."""
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    clip, text = inputs(frames, size)
    with torch.inference_mode():
        return unet(clip.transpose(0, 1)[None], TIMESTEP, text).sample[0].transpose(0, 1).contiguous()


def predict_with_comfyui(folder: Path, frames: int, size: int) -> tuple[Tensor, dict[str, float]]:
    """The same with the pack's loader and ComfyUI's model; and its cost: GB of memory, and seconds."""
    from tools.in_process_comfyui import Pack, use_comfyui

    use_comfyui(cpu=True)
    import comfy.model_management
    import folder_paths

    pack = Pack()
    folder_paths.add_model_folder_path("diffusers", str(folder.parent))
    cost = {}
    reset_peak_memory()
    start = time.perf_counter()
    model, _, _ = pack.run("BIVDiffVideoModelLoader", name=folder.name)
    comfy.model_management.load_models_gpu([model])
    cost |= {"load seconds": time.perf_counter() - start, "load": memory("VmHWM"), "loaded": memory("VmRSS")}

    clip, text = inputs(frames, size)
    sigma = model.get_model_object("model_sampling").sigmas[TIMESTEP]
    x = clip * (1 + sigma**2).sqrt()
    reset_peak_memory()
    start = time.perf_counter()
    with torch.inference_mode():
        denoised = model.model.apply_model(
            x,
            sigma.expand(frames),
            c_crossattn=text.expand(frames, -1, -1),
            transformer_options={"cond_or_uncond": [0]},
        )
    cost |= {"step seconds": time.perf_counter() - start, "step": memory("VmHWM")}
    return (x - denoised) / sigma, cost


def memory(name: str) -> float:
    """This process's resident set in GB: VmRSS is current, VmHWM the peak since `reset_peak_memory`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e9


def reset_peak_memory() -> None:
    """Reset VmHWM."""
    Path("/proc/self/clear_refs").write_text("5")


def run(stage: str, folder: Path, *length: int) -> None:
    """Run a stage of this measurement in a new process."""
    command = [sys.executable, __file__, "--stage", stage, folder, *length]
    subprocess.run([str(word) for word in command], check=True)


def run_stage(stage: str, folder: Path, *length: int) -> None:
    """Run a stage in this process; its results are saved in the folder."""
    if stage == "write":
        write(folder)
    elif stage == "diffusers":
        torch.save(predict_with_diffusers(folder, *length), folder / "diffusers.pt")
    else:
        eps, cost = predict_with_comfyui(folder, *length)
        torch.save(eps, folder / "comfyui.pt")
        (folder / "cost.json").write_text(json.dumps(cost))


def measure(folder: Path, lengths: list[int], size: int) -> None:
    """Print the memory and time of a model, a line for each clip length."""
    run("write", folder)
    disk = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9
    print(f"\n{folder.name}: {disk:.1f} GB on disk, frames of {size}x{size}, in GB:\n")
    print("| frames | peak while loading | loaded | peak of a step | step above loaded | load, s | step, s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for frames in lengths:
        run("comfyui", folder, frames, size)
        cost = json.loads((folder / "cost.json").read_text())
        cells = [cost["load"], cost["loaded"], cost["step"], cost["step"] - cost["loaded"]]
        times = [cost["load seconds"], cost["step seconds"]]
        figures = [f"{gb:.2f}" for gb in cells] + [f"{seconds:.0f}" for seconds in times]
        print("|", " | ".join([str(frames), *figures]), "|", flush=True)
        if folder.name == "zeroscope" and frames == lengths[0]:
            run("diffusers", folder, frames, size)
            ours, theirs = (torch.load(folder / f"{stage}.pt", weights_only=True) for stage in ("comfyui", "diffusers"))
            difference = (ours - theirs).norm() / theirs.norm()
    if folder.name == "zeroscope":
        print(f"\nrelative difference from diffusers at {lengths[0]} frames: {difference:.1e}")


def main() -> None:
    """Measure the named models, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"models to measure, of {', '.join(WRITERS)}; default: all")
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16], help="lengths of the clip")
    parser.add_argument("--size", type=int, default=256, help="width and height of the frames in pixels")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage, folder, *length = arguments.stage
        run_stage(stage, Path(folder), *map(int, length))
        return
    for name in arguments.models or WRITERS:
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top, name)
            folder.mkdir()
            measure(folder, arguments.frames, arguments.size)


if __name__ == "__main__":
    main()

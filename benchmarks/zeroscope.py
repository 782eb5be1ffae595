"""A ZeroScope-shaped folder at full size, of random weights: does it load, does one step equal diffusers, at what cost?

    python benchmarks/zeroscope.py

Writes the folder (5 GB in fp16) to a temporary directory, then loads it twice in fresh processes, by diffusers and by
the pack in the host, and compares one prediction of the UNet. Peak memory is the process's highest resident set.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FRAMES, HEIGHT, WIDTH, TIMESTEP = 4, 16, 16, 601
NAME = "zeroscope"


def write_folder(folder: Path) -> None:
    """UNet, text encoder, VAE and scheduler of ZeroScope's published sizes."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    text = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        vocab_size=49408,
    )
    for part, make in {
        "unet": lambda: UNet3DConditionModel(cross_attention_dim=1024),
        "text_encoder": lambda: CLIPTextModel(text),
        "vae": lambda: AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks),
    }.items():
        network = make().half()
        print(f"{part}: {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M parameters", flush=True)
        network.save_pretrained(folder / part)
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """A noised clip `[F, 4, H, W]` in diffusers' scale, and a text `[1, 77, 1024]`."""
    generator = torch.Generator().manual_seed(1)
    shapes = (FRAMES, 4, HEIGHT, WIDTH), (1, 77, 1024)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def predict_by_diffusers(folder: Path) -> torch.Tensor:
    """Eps of the folder's UNet in fp32."""
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    clip, text = inputs()
    with torch.inference_mode():
        return unet(clip.transpose(0, 1)[None], TIMESTEP, text).sample[0].transpose(0, 1).contiguous()


def predict_by_host(folder: Path) -> torch.Tensor:
    """The same through the pack's loader and the host's model."""
    from tools.host import Pack, use_comfyui

    use_comfyui(cpu=True)
    import comfy.model_management
    import folder_paths

    pack = Pack()
    folder_paths.add_model_folder_path("diffusers", str(folder.parent))
    start = time.perf_counter()
    model, _, _ = pack.run("BIVDiffVideoModelLoader", name=folder.name)
    print(f"loaded in {time.perf_counter() - start:.0f} s", flush=True)
    clip, text = inputs()
    sigma = model.get_model_object("model_sampling").sigmas[TIMESTEP]
    x = clip * (1 + sigma**2).sqrt()
    comfy.model_management.load_models_gpu([model])
    start = time.perf_counter()
    with torch.inference_mode():
        denoised = model.model.apply_model(
            x,
            sigma.expand(FRAMES),
            c_crossattn=text.expand(FRAMES, -1, -1),
            transformer_options={"cond_or_uncond": [0]},
        )
    print(f"one step of {FRAMES} frames of {WIDTH * 8}x{HEIGHT * 8}: {time.perf_counter() - start:.1f} s", flush=True)
    return (x - denoised) / sigma


STAGES = {"write": write_folder, "diffusers": predict_by_diffusers, "host": predict_by_host}


def main() -> None:
    """Run every stage in a process of its own and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        out = STAGES[arguments.stage](arguments.folder)
        if out is not None:
            torch.save(out, arguments.folder / f"{arguments.stage}.pt")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        (arguments.folder / f"{arguments.stage}.json").write_text(json.dumps(peak))
        return
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, NAME)
        folder.mkdir()
        for stage in STAGES:
            subprocess.run([sys.executable, __file__, stage, folder], check=True)
            print(f"{stage}: peak memory {json.loads((folder / f'{stage}.json').read_text()):.1f} GB", flush=True)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9
        ours, theirs = (torch.load(folder / f"{stage}.pt", weights_only=True) for stage in ("host", "diffusers"))
        print(f"weights on disk: {size:.1f} GB")
        print(f"relative difference of the predictions: {(ours - theirs).norm() / theirs.norm():.1e}")


if __name__ == "__main__":
    main()

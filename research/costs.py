"""The costs in docs/models.md: printed, because they depend on the machine.

    python -m research.costs

On the demo models: the time of each node relative to ComfyUI's KSampler with the same model calls, the time of the
workflow relative to the released code's procedure, and the visibility of window borders in a long clip. On video models
of full size with random weights: the memory of loading and of one model call, on a CPU, where ComfyUI computes in fp32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

import safetensors.torch
import torch
from torch import Tensor

from research import toy_metrics, toy_world
from research.demo_chain import FRAME_CFG, DemoChain
from tools.in_process_comfyui import Pack, use_comfyui

ROUNDS, STEPS, RELEASED_STEPS, RELEASED_CFG = 15, 20, 50, 7.5
WINDOW, OVERLAP, LONG_CLIP, LONG_CLIP_STEPS = 8, 4, 200, 10
CLIP_LENGTHS, PICTURE_SIZE, TIMESTEP = (4, 8, 16), 256, 601


def median_seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each function, called alternately; a first round loads weights and fills caches."""
    times = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(found[1:]) for name, found in times.items()}


def print_node_times(chain: DemoChain) -> None:
    """Print the time of each node relative to KSampler with the same model calls."""
    text, empty = chain.encode_text("a red fish over a cyan sea"), chain.empty_latent(toy_world.FRAMES)
    frames = chain.generate_frames(text, chain.empty, empty, seed=1, steps=STEPS)
    inverted = chain.invert_video(frames, chain.empty, 1.0, steps=STEPS)

    nodes = {
        "Frame-wise Image Sampler": (
            lambda: chain.generate_frames(text, chain.empty, empty, seed=1, steps=STEPS),
            chain.image,
            FRAME_CFG,
        ),
        "DDIM Inverse (Image)": (lambda: chain.invert_image(frames, text, 1.0, steps=STEPS), chain.image, 1.0),
        "DDIM Inverse (Video)": (lambda: chain.invert_video(frames, text, 1.0, steps=STEPS), chain.video, 1.0),
        "Video Temporal Smoother": (lambda: chain.smooth(inverted, text, STEPS, FRAME_CFG), chain.video, FRAME_CFG),
    }
    for name, (node, model, cfg) in nodes.items():
        core = partial(chain.run_ksampler, model, text, empty, seed=1, steps=STEPS, cfg=cfg)
        times = median_seconds({"node": node, "KSampler": core}, ROUNDS)
        print(f"{name}: {times['node'] / times['KSampler']:.3f} of KSampler's {times['KSampler']:.3f} s", flush=True)


def print_workflow_times(chain: DemoChain) -> None:
    """Print the time of the workflow relative to the released code's procedure (MCG-NJU/BIVDiff).

    The released code generates frames one at a time, and inverts with both models whatever the mixing ratio.
    """
    clip = toy_world.held_out_clip("easy", 3)
    text = chain.encode_text(clip.caption)
    controlled, empty = chain.apply_outline_control(clip.frames, text), chain.empty_latent(toy_world.FRAMES)

    def invert(frames_per_batch: int, image: bool = True, video: bool = True) -> tuple[dict | None, dict | None]:
        settings = {"seed": 1, "steps": RELEASED_STEPS, "frames_per_batch": frames_per_batch}
        frames = chain.generate_frames(*controlled, empty, **settings)
        return (
            chain.invert_image(frames, chain.empty, 1.0, steps=RELEASED_STEPS) if image else None,
            chain.invert_video(frames, chain.empty, 1.0, steps=RELEASED_STEPS) if video else None,
        )

    def smooth(inverted: tuple[dict | None, dict | None], ratio: float) -> None:
        chain.decode(chain.smooth(chain.blend(*inverted, ratio), text, RELEASED_STEPS, RELEASED_CFG))

    inverted = invert(0)
    runs = {
        "the released code": lambda: smooth(invert(1), 0.25),
        "the graph, mixing ratio 1": lambda: smooth(invert(0, video=False), 1.0),
        "the graph, mixing ratio 0.25": lambda: smooth(invert(0), 0.25),
        "the graph again, only the ratio changed": lambda: smooth(inverted, 0.5),
    }
    times = median_seconds(runs, rounds=3)
    for name, seconds in times.items():
        print(f"{name}: {seconds:.1f} s, {seconds / times['the released code']:.2f} of the released code's", flush=True)


def print_border_changes(chain: DemoChain) -> None:
    """Print how much a long clip changes between frames, at borders of windows relative to elsewhere.

    The change is measured along the known motion. Its period of 22 frames is no multiple of the 4 frames between
    borders, so each position of the shape occurs both at borders and elsewhere.
    """
    clip = toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[3], LONG_CLIP)
    text = chain.encode_text(clip.caption)
    batches = {"steps": LONG_CLIP_STEPS, "frames_per_batch": WINDOW}
    windows = {"steps": LONG_CLIP_STEPS, "context_length": WINDOW, "context_overlap": OVERLAP}
    controlled, empty = chain.apply_outline_control(clip.frames, text), chain.empty_latent(LONG_CLIP)
    frames = chain.generate_frames(*controlled, empty, seed=1, **batches)
    image = chain.invert_image(frames, chain.empty, 1.0, **batches)
    video = chain.invert_video(frames, chain.empty, 1.0, **windows)
    smoothed = chain.decode(chain.smooth(chain.blend(image, video, 0.5), text, **windows))
    at_borders, elsewhere = [], []
    for t in range(LONG_CLIP - 1):
        pair = slice(t, t + 2)
        part = replace(clip, times=clip.times[pair])
        change = torch.cat(toy_metrics.colour_change_along_motion(smoothed[pair], part)).mean().item()
        (elsewhere if (t + 1) % OVERLAP else at_borders).append(change)
    print(f"changes at borders of windows: {mean(at_borders) / mean(elsewhere):.2f} of those elsewhere", flush=True)


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
    # Scaled so that activations stay finite.
    weights = {key: torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5 for key, shape in shapes.items()}
    halves = {f"unet.{key}": tensor.half() for key, tensor in weights.items()}
    safetensors.torch.save_file(halves, folder / "ModelT2V.safetensors")


WRITERS = {"zeroscope": write_zeroscope, "vidrd": write_vidrd}


def write_model(folder: Path) -> None:
    """Write the UNet, and the text encoder, VAE and scheduler of Stable Diffusion 2.1, which both models use."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir()
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


def memory(name: str) -> float:
    """This process's resident set in GB: VmRSS is current, VmHWM the peak since `reset_peak_memory`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e9


def reset_peak_memory() -> None:
    """Reset VmHWM."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(folder: Path, frames: int) -> tuple[float, float, float]:
    """Peak memory while loading a model, memory when it is loaded, and additional memory of a model call, in GB."""
    use_comfyui(cpu=True)
    import comfy.model_management
    import folder_paths

    pack = Pack()
    folder_paths.add_model_folder_path("diffusers", str(folder.parent))
    reset_peak_memory()
    model, _, _ = pack.run("BIVDiffVideoModelLoader", name=folder.name)
    comfy.model_management.load_models_gpu([model])
    loading, loaded = memory("VmHWM"), memory("VmRSS")
    sigma = model.get_model_object("model_sampling").sigmas[TIMESTEP]
    x: Tensor = sigma * torch.randn(frames, 4, PICTURE_SIZE // 8, PICTURE_SIZE // 8)
    text, options = torch.randn(frames, 77, 1024), {"cond_or_uncond": [0]}
    reset_peak_memory()
    with torch.inference_mode():
        model.model.apply_model(x, sigma.expand(frames), c_crossattn=text, transformer_options=options)
    return loading, loaded, memory("VmHWM") - loaded


def call_in_new_process(function: Callable, *arguments):
    """Call a function in a process of its own, so that nothing else adds to its memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        return processes.submit(function, *arguments).result()


def print_video_model_memory(name: str) -> None:
    """Print the memory of a video model for several clip lengths."""
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, name)
        call_in_new_process(write_model, folder)
        disk = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9
        print(f"{name}: {disk:.1f} GB on disk", flush=True)
        for frames in CLIP_LENGTHS:
            loading, loaded, call = call_in_new_process(measure_memory, folder, frames)
            print(f"{loading:.1f} GB peak while loading, {loaded:.1f} GB loaded, {frames} frames + {call:.2f} GB")


def main() -> None:
    """Print all costs."""
    chain = DemoChain()
    print_node_times(chain)
    print_workflow_times(chain)
    print_border_changes(chain)
    for name in WRITERS:
        print_video_model_memory(name)


if __name__ == "__main__":
    main()

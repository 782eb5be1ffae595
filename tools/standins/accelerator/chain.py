"""Every node of the pack on the demo models, and other video models, in a ComfyUI with the pretended accelerator.

    python -m tools.standins.accelerator.chain FILE NUDGE [FLAG ...]

The flags are ComfyUI's; with --cpu it does without. Frames, latents and texts begin changed at random by the share
NUDGE, which tells how far the results of the same networks move with what goes into them. FILE holds each result as a
float32 tensor, and in its metadata where it lay and in which precision the models were. Run by `runs.chain`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from tools import world

from . import comfyui
from .families import run_families

FRAMES, STEPS, CHUNK = 4, 3, 3
SOLVERS = ("ddim", "uni_inv", "fireflow", "fixed_point")
MODES = ("linear", "variance_preserving", "slerp", "frequency")
SCHEDULE = {"steps": STEPS, "scheduler": "ddim_uniform", "grid": "matched", "strength": 1.0}
CONTROL = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


class Run:
    """Runs nodes and keeps what they give."""

    def __init__(self, pack, nudge: float) -> None:
        self.pack = pack
        self.size = nudge
        self.generator = torch.Generator().manual_seed(7)
        self.results: dict[str, Tensor] = {}
        self.devices: dict[str, str] = {}
        self.precision: dict[str, str] = {}
        self.refusal = ""
        self.nodes: set[str] = set()

    def __call__(self, node_id: str, **inputs) -> tuple:
        """A node's outputs, inputs left out taking their defaults."""
        self.nodes.add(node_id)
        return self.pack.run(node_id, **inputs)

    def nudge(self, tensor: Tensor) -> Tensor:
        """What the run begins with, each value changed at random by the share that it was told."""
        return tensor * (1 + self.size * torch.randn(tensor.shape, generator=self.generator).to(tensor))

    def keep(self, name: str, result: Tensor | dict) -> Tensor | dict:
        """Put a LATENT or IMAGE in the file."""
        tensor = result["samples"] if isinstance(result, dict) else result
        self.results[name] = tensor.float().cpu().clone(memory_format=torch.contiguous_format)
        self.devices[name] = str(tensor.device)
        return result


class Studio:
    """The demo models, a clip and its prompts, as they arrive at the nodes of a graph."""

    def __init__(self, run: Run) -> None:
        import comfy.model_management

        clip = world.make_clip(world.HELD_OUT_SEEDS[0])
        self.run = run
        self.image, self.video, self.clip, self.vae, self.control_net = run("BIVDiffDemoModels", variant="base")
        self.caption = clip.caption
        device = comfy.model_management.intermediate_device()
        self.frames = run.nudge(clip.frames[:FRAMES].to(device))
        self.outlines = world.canny_control(clip.frames[:FRAMES]).to(device)
        self.right_half = torch.zeros(FRAMES, 64, 64)
        self.right_half[:, :, 32:] = 1
        run.precision = {
            "image": _precision(self.image.model.get_dtype(), self.image.model.manual_cast_dtype),
            "video": _precision(self.video.model.get_dtype(), self.video.model.manual_cast_dtype),
            "control": _precision(self.control_net.control_model.dtype, self.control_net.manual_cast_dtype),
            "vae": _precision(self.vae.vae_dtype),
            "results": _precision(comfy.model_management.intermediate_dtype()),
        }
        self.positive, self.negative = self.text(clip.caption), self.text("")

    def text(self, words: str) -> list:
        ((text, extra),) = self.run("CLIPTextEncode", clip=self.clip, text=words)[0]
        return [[self.run.nudge(text), extra]]

    def empty(self) -> dict:
        return self.run("EmptyLatentImage", width=64, height=64, batch_size=FRAMES)[0]

    def outlined(self, control_net) -> dict[str, list]:
        """The prompts under control of the clip's outlines."""
        given = {"positive": self.positive, "negative": self.negative, "control_net": control_net}
        positive, negative = self.run("ControlNetApplyAdvanced", **given, image=self.outlines, **CONTROL, vae=None)[:2]
        return {"positive": positive, "negative": negative}

    def draw(self, model, positive: list, negative: list, latent: dict, **settings) -> dict:
        """Frames of the image model."""
        settings = {"seed": 3, "cfg": 3.0, "sampler_name": "ddim", "frames_per_batch": CHUNK, **settings}
        schedule = {"steps": STEPS, "scheduler": "ddim_uniform"}
        texts = {"positive": positive, "negative": negative}
        return self.run("BIVDiffFrameSampler", model=model, **texts, latent_image=latent, **schedule, **settings)[0]

    def invert(self, branch: str, latent: dict, **settings) -> dict:
        """Frames inverted by the Image or the Video model."""
        model = {"Image": self.image, "Video": self.video}[branch]
        given = {"model": model, "conditioning": self.negative, "latent": latent, **SCHEDULE, **settings}
        return self.run(f"BIVDiffInvert{branch}", **given)[0]

    def smooth(self, latent: dict, **settings) -> dict:
        texts = {"positive": self.positive, "negative": self.negative}
        given = {"model": self.video, **texts, "latent": latent, "cfg": 2.0, **SCHEDULE, **settings}
        return self.run("BIVDiffTemporalSmoother", **given)[0]

    def sample(self, guider, noise) -> dict:
        """Frames by core's own sampler."""
        (sampler,) = self.run("KSamplerSelect", sampler_name="ddim")
        schedule = {"model": self.image, "scheduler": "ddim_uniform", "steps": STEPS, "denoise": 1.0}
        (sigmas,) = self.run("BasicScheduler", **schedule)
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": self.empty()}
        return self.run("SamplerCustomAdvanced", **given)[0]


def _precision(stored: torch.dtype, computed: torch.dtype | None = None) -> str:
    """``float16``, or ``float16 as float32`` where it is cast to compute."""
    return " as ".join(str(dtype).removeprefix("torch.") for dtype in (stored, computed) if dtype)


def run_chain(run: Run) -> None:
    """All nodes, in the order of the chain."""
    studio = Studio(run)
    encoded = run.keep("encode", run("BIVDiffEncodeFrames", vae=studio.vae, images=studio.frames)[0])
    draw_frames(run, studio, encoded)

    image, video = {}, {}
    for solver in SOLVERS:
        image[solver] = run.keep(
            f"invert image {solver}", studio.invert("Image", encoded, solver=solver, frames_per_batch=CHUNK)
        )
        video[solver] = run.keep(f"invert video {solver}", studio.invert("Video", encoded, solver=solver))
    for branch in ("Image", "Video"):
        reference = studio.invert(branch, encoded, solver="ddim", grid="reference")
        run.keep(f"invert {branch} reference", reference)
    windows = {"context_length": 3, "context_overlap": 1}
    run.keep("invert video windows", studio.invert("Video", encoded, **windows))

    mixed = blend(run, studio, image["uni_inv"], video["uni_inv"])
    smoothed = run.keep("smooth", studio.smooth(mixed))
    run.keep("smooth windows", studio.smooth(mixed, **windows))
    little = studio.invert("Image", smoothed, strength=0.3)
    passed = studio.draw(studio.image, **studio.outlined(studio.control_net), latent=little)
    run.keep("smooth, then the structure pass", passed)
    edit_words(run, studio, image["uni_inv"])
    sample_by_core(run, studio, mixed)
    leave_range(run, studio, encoded)

    decoded = run.keep("decode", run("VAEDecode", samples=smoothed, vae=studio.vae)[0])
    measure(run, studio, mixed, decoded)


def draw_frames(run: Run, studio: Studio, encoded: dict) -> None:
    """Frame-wise Image Sampler under every kind of control."""
    outlined = studio.outlined(studio.control_net)
    for chunk in (0, 1, CHUNK):
        drawn = studio.draw(studio.image, **outlined, latent=studio.empty(), frames_per_batch=chunk)
        run.keep(f"draw in chunks of {chunk}", drawn)
    masked = run("SetLatentNoiseMask", samples=encoded, mask=studio.right_half)[0]
    options = {"sampler_name": "euler", "denoise": 0.8, "frame_noise": "shared"}
    run.keep("draw in a mask", studio.draw(studio.image, studio.positive, studio.negative, masked, **options))

    texts = {"positive": studio.positive, "negative": studio.negative}
    instructed = {**texts, "positive": studio.text("a red star"), "vae": studio.vae, "pixels": studio.frames}
    adapted, *_, adapter = run("BIVDiffDemoModels", variant="t2i_adapter")
    run.keep("draw with T2I-Adapter", studio.draw(adapted, **studio.outlined(adapter), latent=studio.empty()))
    model = run("BIVDiffDemoModels", variant="instruct_pix2pix")[0]
    given = run("InstructPixToPixConditioning", **instructed)
    run.keep("draw with InstructPix2Pix", studio.draw(model, *given))
    model = run("BIVDiffDemoModels", variant="inpaint")[0]
    pixels = {
        "vae": studio.vae,
        "pixels": studio.frames,
        "mask": studio.right_half.to(studio.frames),
        "noise_mask": True,
    }
    run.keep("draw with inpainting", studio.draw(model, *run("InpaintModelConditioning", **texts, **pixels)))


def blend(run: Run, studio: Studio, image: dict, video: dict) -> dict:
    """Mixed Inversion Blend in every mode; also of a latent from a file, which lies on the CPU and is smoothed too."""

    def mix(image: dict, **settings) -> dict:
        given = {"image_latent": image, "video_latent": video, "task": "custom", "mixing_ratio": 0.3, **settings}
        return run("BIVDiffMixedInversion", **given)[0]

    for mode in MODES:
        run.keep(f"blend {mode}", mix(image, mode=mode))
    run.keep("blend steadiness", mix(image, mode="linear", steadiness=0.5))
    for ratio in (0.0, 1.0):
        run.keep(f"blend at {ratio}", mix(image, mode="linear", mixing_ratio=ratio))
    run("BIVDiffSaveLatent", latent=image, filename_prefix="latents/image")
    (name,) = run.pack.classes["BIVDiffLoadLatent"].INPUT_TYPES()["required"]["latent"][1]["options"]
    (loaded,) = run("BIVDiffLoadLatent", latent=name)
    for mode in MODES:
        run.keep(f"blend loaded {mode}", mix(loaded, mode=mode))
    run.keep("blend loaded steadiness", mix(loaded, mode="linear", steadiness=0.5))
    run.keep("blend loaded at 1", mix(loaded, mode="linear", mixing_ratio=1.0))
    run.keep("smooth loaded", studio.smooth(loaded))
    return run.keep("blend", mix(image, mode="variance_preserving"))


def edit_words(run: Run, studio: Studio, inverted: dict) -> None:
    """Prompt2Prompt, with a mask of its own from a word's attention."""
    words = studio.caption.split()
    prompts = {"source_prompt": studio.caption, "target_prompt": studio.caption, "negative_prompt": ""}
    kinds = {
        "refine": {"target_prompt": "in front " + studio.caption, "local_blend_words": words[2]},
        "reweight": {"word_weights": f"{words[1]}: 2"},
    }
    for edit, options in kinds.items():
        given = {**prompts, "steps": STEPS, "cfg": 3.0, "edit": edit, "frames_per_batch": CHUNK, **options}
        edited, again = run("BIVDiffPrompt2Prompt", model=studio.image, clip=studio.clip, latent=inverted, **given)
        run.keep(f"edit words {edit}", edited)
        run.keep(f"edit words {edit}, reconstructed", again)


def sample_by_core(run: Run, studio: Studio, mixed: dict) -> None:
    """The nodes that stand between the models and core's own sampler."""
    outlined = studio.outlined(studio.control_net)
    chunked = run("BIVDiffFrameChunks", model=studio.image, frames_per_batch=CHUNK)[0]
    noise = run("BIVDiffFrameNoise", seed=3, mode="progressive")[0]
    run.keep("draw by core", studio.sample(run("CFGGuider", model=chunked, **outlined, cfg=3.0)[0], noise))
    inverted = run("BIVDiffInvertedNoise", latent=mixed)[0]
    texts = {"positive": studio.positive, "negative": studio.negative}
    run.keep("smooth by core", studio.sample(run("CFGGuider", model=studio.video, **texts, cfg=2.0)[0], inverted))
    image = {"model": studio.image, **outlined, "cfg": 2.0}
    video = {"model": studio.video, **texts, "cfg": 2.0}
    branches = {f"image_{name}": given for name, given in image.items()}
    branches |= {f"video_{name}": given for name, given in video.items()}
    for strategy in ("parallel", "alternating", "interleaved"):
        options = {"strategy": strategy, "image_share": 0.5, "frames_per_batch": CHUNK}
        run.keep(f"bridge {strategy}", studio.sample(run("BIVDiffBridgeGuider", **branches, **options)[0], noise))


def leave_range(run: Run, studio: Studio, encoded: dict) -> None:
    """Invert with a model that sees frames larger than float16 holds, where it computes in that."""

    def enlarge(apply_model, args: dict) -> Tensor:
        return apply_model(1e5 * args["input"], args["timestep"], **args["c"]) / 1e5

    model = studio.image.clone()
    model.set_model_unet_function_wrapper(enlarge)
    try:
        run("BIVDiffInvertImage", model=model, conditioning=studio.negative, latent=encoded, **SCHEDULE)
    except ValueError as error:
        run.refusal = str(error)


def measure(run: Run, studio: Studio, mixed: dict, decoded: Tensor) -> None:
    """What looks at frames and latents, and the nodes of lists."""
    run.keep("select", run("BIVDiffSelectFrames", images=decoded, stride=2, count=2)[0])
    averaged, share = run("BIVDiffAverageAlongMotion", images=decoded, motion_from=studio.frames, reach=1)
    run.keep("average", averaged)
    run.keep("average's share", share)
    run.keep("latent report", run("BIVDiffLatentReport", latent=mixed)[0])
    videos = {"reference_images": decoded, "source_images": studio.frames}
    run.keep("temporal report", run("BIVDiffTemporalReport", images=averaged, **videos)[0])
    lists = {name: [given] for name, given in videos.items()}
    grid, plot = run("BIVDiffSweepGrid", images=[decoded, averaged], ratios=[0.0, 1.0], labels=None, **lists)
    run.keep("sweep grid", grid)
    run.keep("sweep plot", plot)
    run.nodes.add("BIVDiffCompareVideos")
    shown = run.pack.classes["BIVDiffCompareVideos"].execute(before=decoded, after=averaged, fps=8.0).ui
    run.results["compare"] = torch.tensor(shown["changes"])


def main(file: str, nudge: str, *flags: str) -> None:
    memory = comfyui.start(*flags)
    import comfy.ldm.modules.attention
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.utils
    import folder_paths

    from tools.host import Pack

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        folder_paths.set_temp_directory(folder)
        run = Run(Pack(), float(nudge))
        run_chain(run)
        if not comfy.memory_management.aimdo_enabled:  # whose layers have no weights before a file is read
            run_families(run, Path(folder, "models"))
    told = {
        "devices": run.devices,
        "precision": run.precision,
        "refusal": run.refusal,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "intermediate": str(comfy.model_management.intermediate_device()),
        "left_out": sorted(set(run.pack.node_ids) - run.nodes),
        "peak": memory.peak if memory else 0,
        "patcher": comfy.model_patcher.CoreModelPatcher.__name__,
    }
    safetensors.torch.save_file(run.results, file, {key: json.dumps(value) for key, value in told.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

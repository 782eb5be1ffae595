"""Parts that recipes share: clip, models, prompts, the stages of the chain, nodes that show and save results."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

from bivdiff_core.blend import TASK_RATIOS
from tools.workflow_graph import GraphNode, OutputSlot, WorkflowGraph

NOTES_FOLDER = Path(__file__).with_name("recipes")
PACKAGED_CLIP = "bivdiff_demo.mp4"
"""The packaged clip; artists replace it with their own."""
OWN_FRAMES_STRENGTH = 0.5
"""Inversion strength for frames that an artist loads. At full strength the demo models lose the shapes of such frames,
and no control restores them (docs/evidence.md)."""
ANIMATEDIFF_PLACEHOLDER = "AnimateDiff Loader goes here"
"""Placeholder for the node of another pack, so that the shipped workflow opens without that pack. It cannot run."""

SOURCE_COLOUR, FRAMES_COLOUR, INVERSION_COLOUR, SMOOTHING_COLOUR = "#8a8f98", "#3f789e", "#8A8", "#b58b2a"
STRUCTURE_COLOUR = "#88A"
DEMO_PROMPT = "a yellow sailboat over a blue sea, patterned"
"""Describes the packaged clip."""
DEMO_THING = "a yellow sailboat, patterned"
"""Describes what moves in the packaged clip; the background is left to the models."""
DEMO_EDITED_PROMPT, DEMO_INSTRUCTION = "a pink sailboat over a blue sea, patterned", "a pink sailboat, patterned"
"""Describes the packaged clip after an edit, and the edit for the demo models' InstructPix2Pix."""
COMPARE_WIDTH = 420
"""Width of a column that compares videos."""


class SourceClip(NamedTuple):
    """A clip at the working size, with the sound and frame rate for the saved video."""

    frames: GraphNode
    audio: OutputSlot | None
    fps: OutputSlot | float


class ChainModels(NamedTuple):
    """The models of the chain and their settings; image and video model share the VAE.

    ``windows``: context length and overlap of the video model. If scheduler, solver or grid is None, the node's default
    applies. ``low_noise``: the second expert of a video model that has two; it also inverts for the image branch.
    ``can_borrow``: whether the video model can borrow a control (AnimateDiff cannot).
    """

    image: OutputSlot
    image_clip: OutputSlot
    video: OutputSlot
    video_clip: OutputSlot
    vae: OutputSlot
    control_net: OutputSlot | None
    scheduler: str | None = None
    solver: str | None = None
    grid: str | None = None
    windows: tuple[int, int] = (0, 0)
    cfg: float = 7.5
    low_noise: OutputSlot | None = None
    can_borrow: bool = True


class ImageControl(NamedTuple):
    """An image model and its prompts with control."""

    model: OutputSlot
    prompts: GraphNode


class ChainPrompts(NamedTuple):
    """Prompts for both models. The empty (or negative) prompts are used as negative prompts and for the inversions."""

    text: GraphNode
    image_empty: GraphNode
    video: GraphNode | OutputSlot
    video_empty: GraphNode | OutputSlot


def load_clip(
    g: WorkflowGraph, file: str, title: str, size: tuple[int, int], crop: str = "center", **selection: object
) -> SourceClip:
    """Load frames and sound of a video file.

    Args:
        size: width and height; ``crop`` "center" crops the frames to that shape, "disabled" stretches them.
        selection: settings of Select Frames.
    """
    return add_frame_selection(g, g.add("LoadVideo", title, file=file), size, crop, **selection)


def add_frame_selection(
    g: WorkflowGraph, video: GraphNode, size: tuple[int, int], crop: str = "center", **selection: object
) -> SourceClip:
    """As `load_clip`, from a VIDEO."""
    components = g.add("GetVideoComponents", video=video)
    wired = {name: components[name] for name in ("images", "fps", "audio")}
    selected = g.add("BIVDiffSelectFrames", **wired, **selection)
    return SourceClip(resize(g, selected, size, "Resize", crop), selected["audio"], selected["fps"])


def resize(g: WorkflowGraph, images: object, size: tuple[int, int], title: str, crop: str = "center") -> GraphNode:
    """Scale images to a width and height."""
    width, height = size
    return g.add("ImageScale", title, image=images, upscale_method="area", width=width, height=height, crop=crop)


def square_size(g: WorkflowGraph) -> tuple[int, int]:
    """The paper's frame size, or that of the demo models."""
    return g.choose((512, 512), (64, 64))


def source(
    g: WorkflowGraph,
    size: tuple[int, int] | None = None,
    title: str = "Your clip",
    crop: str = "center",
    **selection: object,
) -> SourceClip:
    """Add the source clip: 8 frames, of real footage every fourth frame."""
    g.group("Source and models", SOURCE_COLOUR)
    selection = {"stride": g.choose(4, 1), "count": 8, **selection}
    clip = load_clip(g, PACKAGED_CLIP, title, size or square_size(g), crop, **selection)
    g.add("PreviewImage", "Source", images=clip.frames)
    return clip


def load_models(
    g: WorkflowGraph,
    control_net: str = "",
    variant: str = "base",
    animatediff: bool = False,
    video_model: str = "zeroscope_v2_576w",
) -> ChainModels:
    """Load SD 1.5, a video model (or AnimateDiff), and a ControlNet if one is named; or load the demo models."""
    g.column()
    if g.demo:
        models = load_demo_models(g, variant)._replace(can_borrow=not animatediff)
        return models if control_net else models._replace(control_net=None)
    image = g.add("CheckpointLoaderSimple", "Image model", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    if animatediff:
        video, text_encoder = g.add("UNETLoader", ANIMATEDIFF_PLACEHOLDER, unet_name=ANIMATEDIFF_PLACEHOLDER), image
    else:
        video = text_encoder = g.add("BIVDiffVideoModelLoader", "Video model", name=video_model)
    control = g.add("ControlNetLoader", control_net_name=control_net)["CONTROL_NET"] if control_net else None
    models = image["MODEL"], image["CLIP"], video["MODEL"], text_encoder["CLIP"], image["VAE"], control
    return ChainModels(*models, can_borrow=not animatediff)


def load_demo_models(g: WorkflowGraph, variant: str = "base") -> ChainModels:
    """Load the demo models."""
    demo = g.add("BIVDiffDemoModels", variant=variant)
    image, video, text, vae, control = (
        demo[name] for name in ("image_model", "video_model", "CLIP", "VAE", "CONTROL_NET")
    )
    return ChainModels(image, text, video, text, vae, control)


WAN_SIZE = (832, 480)


def load_wan(
    g: WorkflowGraph,
    unet: str = "wan2.1_t2v_1.3B_fp16.safetensors",
    low_noise_unet: str = "",
    shift: float = 8.0,
    cfg: float = 6.0,
) -> ChainModels:
    """Load a Wan for both branches; with ``low_noise_unet`` its two experts."""
    g.column()

    def load_expert(title: str, name: str) -> OutputSlot:
        model = g.add("UNETLoader", title, unet_name=name)
        return g.add("ModelSamplingSD3", "Shift of the whole chain", model=model, shift=shift)["MODEL"]

    model = load_expert("High-noise expert" if low_noise_unet else "Wan", unet)
    low_noise = load_expert("Low-noise expert", low_noise_unet) if low_noise_unet else None
    if g.demo:
        text = g.add("BIVDiffDemoModels")["CLIP"]
    else:
        text = g.add("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")["CLIP"]
    vae = g.add("VAELoader", vae_name="wan_2.1_vae.safetensors")["VAE"]
    return ChainModels(model, text, model, text, vae, None, cfg=cfg, low_noise=low_noise)


def add_prompts(
    g: WorkflowGraph, models: ChainModels, real: str, demo: str, title: str = "Prompt", negative: str = ""
) -> ChainPrompts:
    """Add the prompts, encoded for the video model. Stage 1 encodes the text with `encode_for_image` if needed."""
    g.column()
    text = g.add("PrimitiveStringMultiline", title, value=g.choose(real, demo))
    shared = models.image_clip == models.video_clip
    other = "Negative prompt" if negative else "Empty prompt"
    title_for_image = other if shared else f"{other} (image model)"
    image_empty = g.add("CLIPTextEncode", title_for_image, clip=models.image_clip, text=negative)
    video = g.add("CLIPTextEncode", f"{title} (video model)", clip=models.video_clip, text=text)
    if shared:
        return ChainPrompts(text, image_empty, video, image_empty)
    video_empty = g.add("CLIPTextEncode", f"{other} (video model)", clip=models.video_clip, text=negative)
    return ChainPrompts(text, image_empty, video, video_empty)


def encode_for_image(
    g: WorkflowGraph, models: ChainModels, text: object, title: str = "Prompt (image model)"
) -> GraphNode:
    """Encode text with the image model's text encoder."""
    return g.add("CLIPTextEncode", title, clip=models.image_clip, text=text)


STRUCTURE_PASS_STRENGTH = 0.3
BORROWED_CONTROL_START = 0.5
"""Where in the denoising a borrowed control begins: chosen on the demo models (docs/evidence.md)."""
FAST_STEPS = 12
"""Steps of every stage in the fast preset, which docs/evidence.md measures under "Fewer steps"."""


def steps(g: WorkflowGraph, strength: float = 1.0) -> int:
    """Steps of a stage: the paper's or the demo's; below a strength of 1, those that their whole schedule has there."""
    whole = g.choose(50, 25)
    return whole if strength == 1 else math.ceil(whole * strength) + 1


def schedule(g: WorkflowGraph, models: ChainModels, strength: float) -> dict[str, object]:
    """Steps and scheduler of a stage."""
    return {"steps": steps(g, strength), "scheduler": models.scheduler}


def windows(models: ChainModels) -> dict[str, int]:
    """Context length and overlap of the video model."""
    return dict(zip(("context_length", "context_overlap"), models.windows, strict=True))


def cfg(g: WorkflowGraph) -> float:
    """Guidance of the image model: the paper's, or that of the demo models."""
    return g.choose(7.5, 3.0)


def sample_frames(
    g: WorkflowGraph,
    model: OutputSlot,
    positive: object,
    negative: object,
    latent: object,
    denoise: float = 1.0,
    seed: int = 42,
    scheduler: str | None = None,
) -> GraphNode:
    """Add stage 1's sampler with the paper's settings."""
    return g.add(
        "BIVDiffFrameSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=seed,
        steps=steps(g),
        cfg=cfg(g),
        scheduler=scheduler,
        denoise=denoise,
    )


def apply_control(
    g: WorkflowGraph, models: ChainModels, prompts: ChainPrompts, hints: object, strength: float = 1.0
) -> GraphNode:
    """Apply the ControlNet to both prompts, with one hint for each frame."""
    return g.add(
        "ControlNetApplyAdvanced",
        positive=encode_for_image(g, models, prompts.text),
        negative=prompts.image_empty,
        control_net=models.control_net,
        image=hints,
        strength=strength,
    )


def inpaint_frames(
    g: WorkflowGraph, models: ChainModels, prompts: ChainPrompts, pixels: object, mask: object
) -> GraphNode:
    """Inpaint the area under a mask; the rest of the latents is kept."""
    if g.demo:
        inpainter = g.add("BIVDiffDemoModels", "Inpainting model", variant="inpaint")["image_model"]
    else:
        inpainter = g.add("CheckpointLoaderSimple", "Inpainting model", ckpt_name="sd-v1-5-inpainting.ckpt")["MODEL"]
    masked = g.add(
        "InpaintModelConditioning",
        positive=encode_for_image(g, models, prompts.text),
        negative=prompts.image_empty,
        vae=models.vae,
        pixels=pixels,
        mask=mask,
    )
    return sample_frames(
        g, inpainter, masked["positive"], masked["negative"], masked["latent"], scheduler=models.scheduler
    )


def add_canny(g: WorkflowGraph, frames: object) -> GraphNode:
    """Add Canny edges, with thresholds that suit the clip."""
    edges = g.add("Canny", image=frames, low_threshold=g.choose(0.4, 0.3), high_threshold=g.choose(0.8, 0.6))
    g.add("PreviewImage", "Control", images=edges)
    return edges


def add_empty(g: WorkflowGraph, class_type: str, title: str, like: object, **settings: object) -> GraphNode:
    """Add empty latents or pictures with the number and size of the frames."""
    size = g.add("GetImageSize", image=like)
    sizes = {name: size[name] for name in ("width", "height", "batch_size")}
    return g.add(class_type, title, **sizes, **settings)


def decode_and_preview(g: WorkflowGraph, title: str, latent: object, vae: OutputSlot) -> GraphNode:
    """Decode and preview."""
    images = g.add("VAEDecode", samples=latent, vae=vae)
    g.add("PreviewImage", title, images=images)
    return images


def smooth_and_decode(
    g: WorkflowGraph,
    models: ChainModels,
    prompts: ChainPrompts,
    frames: object,
    task: str = "custom",
    control: ImageControl | None = None,
    **settings: object,
) -> GraphNode:
    """Stages 2 and 3: from LATENT frames to the pictures of the smoothed clip.

    Args:
        control: what keeps the shapes; a video model that cannot borrow it gets a structure pass as stage 4.
        settings: arguments of `invert_and_smooth`.
    """
    settings = {"max_demo_strength": 1.0 if control else 0.5, **settings}
    borrowed = control if models.can_borrow else None
    video = invert_and_smooth(g, models, prompts, frames, task, control=borrowed, **settings)
    if control and not borrowed:
        video = structure_pass(g, models, video, *control)
    return g.add("VAEDecode", samples=video, vae=models.vae)


def invert_and_smooth(
    g: WorkflowGraph,
    models: ChainModels,
    prompts: ChainPrompts,
    frames: object,
    task: str = "custom",
    mixing_ratio: object = 0.5,
    strength: float = 1.0,
    max_demo_strength: float = 0.5,
    clip: GraphNode | None = None,
    control: ImageControl | None = None,
) -> GraphNode:
    """Stages 2 and 3: from LATENT frames to the smoothed LATENT.

    Args:
        strength: of both inversions.
        max_demo_strength: upper limit of the strength on the demo models. Their small latents lose the picture at lower
            noise than large ones; the limit is 0.5 without a control (docs/evidence.md).
        clip: the clip's LATENT for the video branch, if a video VAE packs frames.
        control: what the video model borrows.
    """
    if models.grid != "reference":  # on this grid the released code inverts to full noise
        strength = g.choose(strength, min(strength, max_demo_strength))
    g.group("Stage 2: mixed inversion", INVERSION_COLOUR)
    image, video = invert_both(g, models, prompts, frames, strength, clip)
    ratio = TASK_RATIOS.get(task, mixing_ratio)
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, task=task, mixing_ratio=ratio)
    g.group("Stage 3: temporal smoothing", SMOOTHING_COLOUR)
    if control:
        models = models._replace(video=borrow_control(g, models, *control, start_percent=BORROWED_CONTROL_START))
    return denoise_mixed(g, models, prompts, mixed, strength)


def borrow_control(
    g: WorkflowGraph, models: ChainModels, image_model: OutputSlot, control: GraphNode, **settings: object
) -> OutputSlot:
    """The video model with the control of an image model."""
    prompts = {"with_control": control["positive"], "without_control": control.wires["positive"]}
    node = g.add("BIVDiffBorrowControl", model=models.video, image_model=image_model, **prompts, **settings)
    return node["MODEL"]


def invert_both(
    g: WorkflowGraph,
    models: ChainModels,
    prompts: ChainPrompts,
    frames: object,
    strength: float,
    clip: GraphNode | None = None,
) -> tuple[GraphNode, GraphNode]:
    """Invert LATENT frames, or for the video model a clip's LATENT, with the image model and with the video model."""
    settings = {"solver": models.solver, "strength": strength, "grid": models.grid, **schedule(g, models, strength)}
    settings["low_noise_model"] = models.low_noise
    image = g.add("BIVDiffInvertImage", model=models.image, conditioning=prompts.image_empty, latent=frames, **settings)
    video = g.add(
        "BIVDiffInvertVideo",
        model=models.video,
        conditioning=prompts.video_empty,
        latent=clip or frames,
        **settings,
        **windows(models),
    )
    return image, video


def denoise_mixed(
    g: WorkflowGraph, models: ChainModels, prompts: ChainPrompts, mixed: GraphNode, strength: float
) -> GraphNode:
    """Denoise a blended LATENT, inverted with this strength, with the video model."""
    return g.add(
        "BIVDiffTemporalSmoother",
        model=models.video,
        positive=prompts.video,
        negative=prompts.video_empty,
        latent=mixed,
        cfg=g.choose(models.cfg, 2.0),
        grid=models.grid,
        low_noise_model=models.low_noise,
        **schedule(g, models, strength),
        **windows(models),
    )


def structure_pass(
    g: WorkflowGraph, models: ChainModels, video: GraphNode, model: OutputSlot, control: GraphNode
) -> GraphNode:
    """Stage 4: invert the smoothed LATENT a little, and denoise it with the image model under its control."""
    g.group("Stage 4: structure pass", STRUCTURE_COLOUR)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Short inversion",
        model=model,
        conditioning=control.wires["positive"],  # the prompt without the control
        latent=video,
        solver=models.solver,
        strength=STRUCTURE_PASS_STRENGTH,
        **schedule(g, models, STRUCTURE_PASS_STRENGTH),
    )
    return g.add(
        "BIVDiffFrameSampler",
        "Restore the shapes",
        model=model,
        positive=control["positive"],
        negative=control["negative"],
        latent_image=inverted,
        cfg=1.0,
        **schedule(g, models, STRUCTURE_PASS_STRENGTH),
    )


def save_video(g: WorkflowGraph, images: object, clip: SourceClip) -> None:
    """Preview the frames, and save them as a video with the clip's sound and frame rate."""
    g.add("PreviewImage", "Smoothed", images=images)
    g.column()
    video = g.add("CreateVideo", images=images, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=video, filename_prefix=f"bivdiff_{g.name}")


def add_comparison(g: WorkflowGraph, clip: SourceClip, before: object, after: object, source: object = None) -> None:
    """Compare frames and result with a wipe, and measure both along the motion of the source."""
    g.column(width=COMPARE_WIDTH)
    videos = {"before": before, "after": after, "fps": clip.fps, "audio": clip.audio}
    g.add("BIVDiffCompareVideos", "Before and after", **videos)
    g.add("BIVDiffTemporalReport", images=after, reference_images=before, source_images=source)


def paste_back(g: WorkflowGraph, known: object, generated: object, mask: object) -> GraphNode:
    """Generated pixels inside a mask, known pixels outside."""
    return g.add("ImageCompositeMasked", "Paste the known pixels back", destination=known, source=generated, mask=mask)


def smooth_own_frames(g: WorkflowGraph, images: object, models: ChainModels, prompt: str) -> GraphNode:
    """The chain for frames that an artist loads: the pictures of the smoothed frames."""
    prompts = add_prompts(g, models, prompt, DEMO_PROMPT)
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=images, vae=models.vae)
    return smooth_and_decode(g, models, prompts, frames, strength=OWN_FRAMES_STRENGTH)


def deflicker_frames(g: WorkflowGraph, clip: SourceClip, models: ChainModels, prompt: str) -> None:
    """Smooth the frames of a clip, save them and compare."""
    video = smooth_own_frames(g, clip.frames, models, prompt)
    save_video(g, video, clip)
    add_comparison(g, clip, clip.frames, video)


def load_own_frames(g: WorkflowGraph, size: tuple[int, int], count: int) -> SourceClip:
    """Load consecutive frames that an artist brings."""
    clip = load_clip(g, PACKAGED_CLIP, "Your frames as a video", size, stride=1, count=count)
    g.add("PreviewImage", "Source", images=clip.frames)
    return clip


def encode_packed_frames(
    g: WorkflowGraph, models: ChainModels, images: object, stride: int
) -> tuple[GraphNode, GraphNode]:
    """Encode frames for a video model that packs ``stride`` frames in a latent: single ones, and all as a clip."""
    encode = {"vae": models.vae, "images": images}
    single = g.add(
        "BIVDiffEncodeFrames", "Single frames for the image branch", stride=stride, mode="single_frames", **encode
    )
    return single, g.add("BIVDiffEncodeFrames", "The clip", stride=1, mode="clip", **encode)


def deflicker_packed_frames(
    g: WorkflowGraph,
    clip: SourceClip,
    models: ChainModels,
    prompts: ChainPrompts,
    frames: object = None,
    source: object = None,
    stride: int = 4,
) -> None:
    """The chain for a video model that packs ``stride`` frames in a latent.

    Args:
        frames: if None, those of the clip.
        source: the video from which the frames were made, for the report; None if there is none.
    """
    frames = frames or clip.frames
    single, whole = encode_packed_frames(g, models, frames, stride)
    video = smooth_and_decode(g, models, prompts, single, strength=OWN_FRAMES_STRENGTH, clip=whole)
    save_video(g, video, clip)
    add_comparison(g, clip, frames, video, source)


EDIT_SIZE, EDITED_SIZE = (1328, 800), (800, 480)
"""Sizes of the same shape: of frames that Flux Kontext and Qwen-Image-Edit edit, and of the clip that Wan smooths."""
INSTRUCTION = "Make the street snowy. Keep everything else as it is."
EDITED_PROMPT = "a street covered in snow"


def sample_edits(
    g: WorkflowGraph, model: OutputSlot, positive: object, negative: object, latent: object, cfg: float
) -> GraphNode:
    """Add stage 1's sampler for an editing model of today."""
    texts = {"positive": positive, "negative": negative}
    settings = {"seed": 42, "steps": 20, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple"}
    return g.add("BIVDiffFrameSampler", model=model, **texts, latent_image=latent, **settings)


def smooth_edits(
    g: WorkflowGraph, clip: SourceClip, models: ChainModels, prompts: ChainPrompts, images: object
) -> None:
    """Smooth edited frames with a video model that has another VAE, at that model's size."""
    frames = resize(g, images, EDITED_SIZE, "At the size of the video model")
    g.add("PreviewImage", "Frame-wise", images=frames)
    g.column()
    source = resize(g, clip.frames, EDITED_SIZE, "The source at this size")
    deflicker_packed_frames(g, clip, models, prompts, frames, source)


def follow_outlines(g: WorkflowGraph, clip: SourceClip, models: ChainModels, task: str) -> None:
    """The chain with frames generated from noise and a clip's outlines."""
    prompts = add_prompts(g, models, "a robot made of copper in a snowy street", DEMO_PROMPT)
    g.group("Stage 1: independent frames", FRAMES_COLOUR)
    follow_hints(g, clip, models, prompts, add_canny(g, clip.frames), task)


def follow_hints(
    g: WorkflowGraph, clip: SourceClip, models: ChainModels, prompts: ChainPrompts, hints: object, task: str
) -> None:
    """The chain with frames generated from noise and control hints, one for each frame."""
    control = apply_control(g, models, prompts, hints)
    g.column()
    latent = add_empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    texts = (control["positive"], control["negative"])
    frames = sample_frames(g, models.image, *texts, latent, scheduler=models.scheduler)
    before = decode_and_preview(g, "Frame-wise", frames, models.vae)
    is_released = models.grid == "reference"  # the released code borrows no control
    lent = None if is_released else ImageControl(models.image, control)
    video = smooth_and_decode(g, models, prompts, frames, task, lent)
    save_video(g, video, clip)
    add_comparison(g, clip, before, video, clip.frames)


def read_note(name: str) -> str:
    """Read the note recipes/NAME.md; a line ``{paragraph}`` includes shared/PARAGRAPH.md."""
    text = (NOTES_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    return re.sub(r"^\{(\w+)}\n", lambda line: read_note(f"shared/{line[1]}"), text, flags=re.MULTILINE)

"""Parts that recipes share: a clip, models and prompts, the chain's stages, what is shown and saved in the end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bivdiff_core.blend import TASK_RATIOS
from tools.workflow_graph import Graph, Node, Output

RECIPES = Path(__file__).with_name("recipes")
PACKAGED_CLIP = "bivdiff_demo.mp4"
"""Stands where artists load their own."""
OWN_STRENGTH = 0.5
"""How far frames are inverted that are there already: from pure noise the demo models lose their shapes, and no control
draws them back (research/pages/claims.md measured both)."""
ANIMATEDIFF = "AnimateDiff Loader goes here"
"""Marks the place of another pack's node, without which the shipped workflows must open: no run gets past it."""

SOURCE_COLOUR, FRAMES_COLOUR, INVERSION_COLOUR, SMOOTHING_COLOUR = "#8a8f98", "#3f789e", "#8A8", "#b58b2a"
STRUCTURE_COLOUR = "#88A"
DEMO_PROMPT = "a blue square on a yellow background, patchy"
"""What the packaged clip shows."""
COMPARED = 420
"""Width of a column in which a video is looked at."""


class Source(NamedTuple):
    """A clip at the size it is worked on, and what goes back into the video at the end."""

    frames: Node
    audio: Output | None
    fps: Output | float


class Models(NamedTuple):
    """What the chain runs on, and how these models want it; image and video model share the VAE.

    ``windows`` are the length and the overlap of what the video model sees at once. Without a scheduler, solver or grid
    the nodes' own defaults count.
    """

    image: Output
    image_clip: Output
    video: Output
    video_clip: Output
    vae: Output
    control_net: Output | None
    scheduler: str | None = None
    solver: str | None = None
    grid: str | None = None
    windows: tuple[int, int] = (0, 0)
    cfg: float = 7.5


class Prompts(NamedTuple):
    """Text for both models. The empty (or negative) ones serve as the negative prompts and for the inversions."""

    text: Node
    image_empty: Node
    video: Node
    video_empty: Node


def load_clip(g: Graph, file: str, title: str, size: tuple[int, int], crop: str = "center", **frames: object) -> Source:
    """Frames of a video file with their sound, at a size (width, height): cropped to its shape, or else stretched."""
    return taken(g, g.add("LoadVideo", title, file=file), size, crop, **frames)


def taken(g: Graph, video: Node, size: tuple[int, int], crop: str = "center", **frames: object) -> Source:
    """As `load_clip`, of a VIDEO."""
    components = g.add("GetVideoComponents", video=video)
    wired = {name: components[name] for name in ("images", "fps", "audio")}
    selected = g.add("BIVDiffSelectFrames", **wired, **frames)
    width, height = size
    scaled = g.add("ImageScale", "Resize", image=selected, upscale_method="area", width=width, height=height, crop=crop)
    return Source(scaled, selected["audio"], selected["fps"])


def square(g: Graph) -> tuple[int, int]:
    """The paper's size, or the demo models'."""
    return g.choose((512, 512), (64, 64))


def source(
    g: Graph, size: tuple[int, int] | None = None, title: str = "Your clip", crop: str = "center", **frames: object
) -> Source:
    """The clip that everything follows: 8 frames, every fourth of real footage."""
    g.group("Source and models", SOURCE_COLOUR)
    frames = {"stride": g.choose(4, 1), "count": 8, **frames}
    clip = load_clip(g, PACKAGED_CLIP, title, size or square(g), crop, **frames)
    g.add("PreviewImage", "Source", images=clip.frames)
    return clip


def load_models(
    g: Graph,
    control_net: str = "",
    variant: str = "base",
    animatediff: bool = False,
    video_model: str = "zeroscope_v2_576w",
) -> Models:
    """SD 1.5 and a video model's folder or AnimateDiff, with a ControlNet where one is named; or the demo models."""
    g.column()
    if g.demo:
        demo = g.add("BIVDiffDemoModels", variant=variant)
        control = demo["CONTROL_NET"] if control_net else None
        return Models(demo["image_model"], demo["CLIP"], demo["video_model"], demo["CLIP"], demo["VAE"], control)
    image = g.add("CheckpointLoaderSimple", "Image model", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    if animatediff:
        video, video_clip = g.add("UNETLoader", ANIMATEDIFF, unet_name=ANIMATEDIFF)["MODEL"], image["CLIP"]
    else:
        loaded = g.add("BIVDiffVideoModelLoader", "Video model", name=video_model)
        video, video_clip = loaded["MODEL"], loaded["CLIP"]
    control = g.add("ControlNetLoader", control_net_name=control_net)["CONTROL_NET"] if control_net else None
    return Models(image["MODEL"], image["CLIP"], video, video_clip, image["VAE"], control)


def prompts(g: Graph, models: Models, real: str, demo: str, title: str = "Prompt", negative: str = "") -> Prompts:
    """What the video shows, for the video model; stage 1 encodes it with `for_image` where it needs it."""
    g.column()
    text = g.add("PrimitiveStringMultiline", title, value=g.choose(real, demo))
    shared = models.image_clip == models.video_clip
    other = "Negative prompt" if negative else "Empty prompt"
    whose = other if shared else f"{other} (image model)"
    image_empty = g.add("CLIPTextEncode", whose, clip=models.image_clip, text=negative)
    video = g.add("CLIPTextEncode", f"{title} (video model)", clip=models.video_clip, text=text)
    if shared:
        return Prompts(text, image_empty, video, image_empty)
    video_empty = g.add("CLIPTextEncode", f"{other} (video model)", clip=models.video_clip, text=negative)
    return Prompts(text, image_empty, video, video_empty)


def for_image(g: Graph, models: Models, text: object, title: str = "Prompt (image model)") -> Node:
    """Text through the image model's own encoder."""
    return g.add("CLIPTextEncode", title, clip=models.image_clip, text=text)


def steps(g: Graph) -> int:
    """Of every stage: the paper's, or the demo's."""
    return g.choose(50, 25)


def schedule(g: Graph, models: Models) -> dict[str, object]:
    """Where the steps of every stage lie."""
    return {"steps": steps(g), "scheduler": models.scheduler}


def windows(models: Models) -> dict[str, int]:
    """What the video model sees at once."""
    return dict(zip(("context_length", "context_overlap"), models.windows, strict=True))


def cfg(g: Graph) -> float:
    """Of the image model: the paper's, or what the demo models need."""
    return g.choose(7.5, 3.0)


def sample_frames(
    g: Graph, model: Output, positive: object, negative: object, latent: object, denoise: float = 1.0, seed: int = 42
) -> Node:
    """Stage 1's sampler at the paper's settings."""
    return g.add(
        "BIVDiffFrameSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=seed,
        steps=steps(g),
        cfg=cfg(g),
        denoise=denoise,
    )


def controlled(g: Graph, models: Models, texts: Prompts, hints: object, strength: float = 1.0) -> Node:
    """Both prompts with the control hints, one for each frame."""
    return g.add(
        "ControlNetApplyAdvanced",
        positive=for_image(g, models, texts.text),
        negative=texts.image_empty,
        control_net=models.control_net,
        image=hints,
        strength=strength,
    )


def filled(g: Graph, models: Models, texts: Prompts, pixels: object, mask: object) -> Node:
    """What a mask covers, drawn by an inpainting model; the rest of the latents is kept."""
    if g.demo:
        inpainter = g.add("BIVDiffDemoModels", "Inpainting model", variant="inpaint")["image_model"]
    else:
        inpainter = g.add("CheckpointLoaderSimple", "Inpainting model", ckpt_name="sd-v1-5-inpainting.ckpt")["MODEL"]
    masked = g.add(
        "InpaintModelConditioning",
        positive=for_image(g, models, texts.text),
        negative=texts.image_empty,
        vae=models.vae,
        pixels=pixels,
        mask=mask,
    )
    return sample_frames(g, inpainter, masked["positive"], masked["negative"], masked["latent"])


def outlines(g: Graph, frames: object) -> Node:
    """Canny's, at thresholds that suit the clip."""
    edges = g.add("Canny", image=frames, low_threshold=g.choose(0.4, 0.3), high_threshold=g.choose(0.8, 0.6))
    g.add("PreviewImage", "Control", images=edges)
    return edges


def empty(g: Graph, class_type: str, title: str, like: object, **settings: object) -> Node:
    """Empty latents or pictures, as many and as large as the frames."""
    size = g.add("GetImageSize", image=like)
    sizes = {name: size[name] for name in ("width", "height", "batch_size")}
    return g.add(class_type, title, **sizes, **settings)


def show(g: Graph, title: str, latent: object, vae: Output) -> Node:
    """Decode and preview."""
    images = g.add("VAEDecode", samples=latent, vae=vae)
    g.add("PreviewImage", title, images=images)
    return images


def smoothed(
    g: Graph,
    models: Models,
    texts: Prompts,
    frames: object,
    task: str = "custom",
    drawn_by: tuple[Output, Node] | None = None,
    **settings: object,
) -> Node:
    """Stages 2 to 4: LATENT frames to the smoothed clip's pictures.

    Args:
        drawn_by: the image model of stage 1 and the prompts that hold it to the shapes, for the structure pass;
            without there is none.
        settings: `smooth`'s.
    """
    video = smooth(g, models, texts, frames, task, **{"in_demo": 1.0 if drawn_by else 0.5, **settings})
    if drawn_by is not None:
        video = structure_pass(g, models, video, *drawn_by)
    return g.add("VAEDecode", samples=video, vae=models.vae)


def smooth(
    g: Graph,
    models: Models,
    texts: Prompts,
    frames: object,
    task: str = "custom",
    strength: float = 1.0,
    in_demo: float = 0.5,
    mixing_ratio: object = 0.5,
    clip: Node | None = None,
) -> Node:
    """Stages 2 and 3: LATENT frames to the smoothed clip's LATENT.

    Args:
        in_demo: the most strength on the demo models, whose small latents lose their picture under less noise than
            large ones: half, where nothing draws the shapes back (research/pages/study.md, "Strength").
        clip: another LATENT of it, where a video VAE packs frames.
    """
    g.group("Stage 2: mixed inversion", INVERSION_COLOUR)
    image, video = inverted(g, models, texts, frames, strength, in_demo, clip)
    ratio = TASK_RATIOS.get(task, mixing_ratio)
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, task=task, mixing_ratio=ratio)
    g.group("Stage 3: temporal smoothing", SMOOTHING_COLOUR)
    return denoised(g, models, texts, mixed)


def inverted(
    g: Graph,
    models: Models,
    texts: Prompts,
    frames: object,
    strength: float = 1.0,
    in_demo: float = 0.5,
    clip: Node | None = None,
) -> tuple[Node, Node]:
    """LATENT frames inverted with the image model and with the video model; the arguments are `smooth`'s."""
    if models.grid != "reference":  # which the released code inverts to full noise on
        strength = g.choose(strength, min(strength, in_demo))
    settings = {"solver": models.solver, "strength": strength, "grid": models.grid, **schedule(g, models)}
    image = g.add("BIVDiffInvertImage", model=models.image, conditioning=texts.image_empty, latent=frames, **settings)
    video = g.add(
        "BIVDiffInvertVideo",
        model=models.video,
        conditioning=texts.video_empty,
        latent=clip or frames,
        **settings,
        **windows(models),
    )
    return image, video


def denoised(g: Graph, models: Models, texts: Prompts, mixed: Node) -> Node:
    """A mixed LATENT denoised by the video model."""
    return g.add(
        "BIVDiffTemporalSmoother",
        model=models.video,
        positive=texts.video,
        negative=texts.video_empty,
        latent=mixed,
        cfg=g.choose(models.cfg, 1.0),
        grid=models.grid,
        **schedule(g, models),
        **windows(models),
    )


def structure_pass(g: Graph, models: Models, video: Node, model: Output, control: Node) -> Node:
    """Stage 4: a smoothed LATENT inverted a little way, and drawn again by the image model under its control."""
    g.group("Stage 4: structure pass", STRUCTURE_COLOUR)
    noised = g.add(
        "BIVDiffInvertImage",
        "Invert a little way",
        model=model,
        conditioning=control.wires["positive"],  # as it was before the control
        latent=video,
        solver=models.solver,
        strength=0.3,
        **schedule(g, models),
    )
    return g.add(
        "BIVDiffFrameSampler",
        "Draw the shapes back",
        model=model,
        positive=control["positive"],
        negative=control["negative"],
        latent_image=noised,
        cfg=1.0,
        **schedule(g, models),
    )


def save(g: Graph, images: object, clip: Source) -> None:
    """Preview, and a video with the frames' sound at their own rate."""
    g.add("PreviewImage", "Smoothed", images=images)
    g.column()
    video = g.add("CreateVideo", images=images, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=video, filename_prefix=f"bivdiff_{g.name}")


def compare(g: Graph, clip: Source, before: object, after: object, source: object = None) -> None:
    """Frames and what was made of them under one wipe, and measured along the motion of what the frames follow."""
    g.column(width=COMPARED)
    g.add("BIVDiffCompareVideos", "Before and after", before=before, after=after, fps=clip.fps)
    g.add("BIVDiffTemporalReport", images=after, reference_images=before, source_images=source)


def paste_back(g: Graph, known: object, made: object, mask: object) -> Node:
    """The made pixels inside a mask, the known ones outside."""
    return g.add("ImageCompositeMasked", "Known pixels back", destination=known, source=made, mask=mask)


def from_frames(g: Graph, clip: Source, models: Models, said: str) -> None:
    """The chain from frames that are there already."""
    texts = prompts(g, models, said, DEMO_PROMPT)
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    video = smoothed(g, models, texts, frames, strength=OWN_STRENGTH)
    save(g, video, clip)
    compare(g, clip, clip.frames, video)


def from_outlines(g: Graph, clip: Source, models: Models, task: str) -> None:
    """The whole chain, its frames drawn from noise to a clip's outlines."""
    texts = prompts(g, models, "a robot made of copper in a snowy street", DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    from_hints(g, clip, models, texts, outlines(g, clip.frames), task)


def from_hints(g: Graph, clip: Source, models: Models, texts: Prompts, hints: object, task: str) -> None:
    """The chain from control hints on, one for each frame."""
    control = controlled(g, models, texts, hints)
    g.column()
    latent = empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = sample_frames(g, models.image, control["positive"], control["negative"], latent)
    before = show(g, "Frame-wise", frames, models.vae)
    released = models.grid == "reference"  # which ends with the video model
    video = smoothed(g, models, texts, frames, task, drawn_by=None if released else (models.image, control))
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)


def note(name: str) -> str:
    """What an artist reads first, recipes/NAME.md; a line ``{paragraph}`` in it stands for shared/PARAGRAPH.md.

    Unverified: the pages that the notes link to have not been opened since they were written.
    """
    text = (RECIPES / f"{name}.md").read_text(encoding="utf-8")
    return re.sub(r"^\{(\w+)}\n", lambda line: note(f"shared/{line[1]}"), text, flags=re.MULTILINE)

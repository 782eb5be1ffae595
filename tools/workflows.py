"""Writes the shipped workflows from short descriptions, so that they stay consistent with the nodes and each other.

    python tools/workflows.py

Slot names, types and the order of widgets come from a running ComfyUI's /object_info. Every description can also be
built as its demo twin: the same graph on the demo models, at their size and number of steps, which the tests run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bivdiff_core.blend import TASK_RATIOS  # noqa: E402
from tools.host import COMFYUI  # noqa: E402
from tools.server import Server  # noqa: E402

WORKFLOWS = ROOT / "workflows"
PACKAGED_CLIP = "bivdiff_demo.mp4"
"""Stands where artists load their own."""
ANIMATEDIFF = "AnimateDiff Loader goes here"
"""Marks the place of another pack's node, without which the shipped workflows must open: no run gets past it."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
WIDTH, GAP = 330, 50
TITLE, SLOT, WIDGET = 30, 22, 26
TALL = {"LoadVideo": 340, "SaveVideo": 360, "PreviewImage": 260}
"""What a node shows below its widgets, in pixels."""

SOURCE_COLOUR, FRAMES_COLOUR, INVERSION_COLOUR, SMOOTHING_COLOUR = "#444", "#3f789e", "#8A8", "#b58b2a"
STRUCTURE_COLOUR = "#88A"


class Output(NamedTuple):
    """One output of a node."""

    node: Node
    slot: int


@dataclass
class Node:
    """A node of a graph; ``node["name"]`` is one of its outputs, the node itself its first output that fits."""

    number: int
    class_type: str
    schema: dict
    title: str
    at: tuple[int, int]
    values: dict[str, object] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Output:
        return Output(self, self.schema["output_name"].index(name))

    def output_for(self, kind: str) -> Output:
        """The first output of a type."""
        return Output(self, self.schema["output"].index(kind))

    def inputs(self) -> dict[str, list]:
        """Its inputs' specifications by name, required ones first."""
        groups = self.schema["input"]
        return {**groups.get("required", {}), **groups.get("optional", {})}

    def height(self) -> int:
        """About what the frontend gives it, in pixels."""
        specs = self.inputs()
        widgets = [name for name, spec in specs.items() if is_widget(spec)]
        sockets = sum(1 for name in specs if name not in widgets or isinstance(self.values[name], Output))
        text = 90 * sum(1 for name in widgets if options(specs[name]).get("multiline"))
        slots = max(sockets, len(self.schema["output"]))
        return SLOT * slots + WIDGET * len(widgets) + text + TALL.get(self.class_type, 0) + 10


def options(spec: list) -> dict:
    """The second half of an input's specification."""
    return spec[1] if len(spec) > 1 else {}


def is_widget(spec: list) -> bool:
    """Whether an input has a control of its own, as opposed to a socket alone."""
    return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not options(spec).get("forceInput")


def default(spec: list) -> object:
    """What a widget shows before anyone has touched it."""
    kind, rest = spec[0], options(spec)
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return rest["options"][0]["key"]
    choices = kind if isinstance(kind, list) else rest.get("options", [""])
    return rest.get("default", choices[0])


class Graph:
    """A workflow in the making: nodes go below one another, columns side by side, in labelled groups.

    ``note`` is what an artist reads first.

    Args:
        name: of the workflow and of the files that it saves.
        object_info: the schemas of all nodes.
        demo: for the demo models, not for an artist's own.
    """

    def __init__(self, name: str, object_info: dict, demo: bool) -> None:
        self.name = name
        self.object_info = object_info
        self.demo = demo
        self.nodes: list[Node] = []
        self.note = ""
        self.groups: list[dict] = []
        self.x = 0
        self.y = 0
        self.bottom = 0

    def choose(self, real: object, demo: object) -> object:
        """One of two settings."""
        return demo if self.demo else real

    def group(self, title: str, colour: str) -> None:
        """Begin a group of columns, right of what there is."""
        left = self.groups[-1]["right"] + 30 if self.groups else 20
        self.groups.append({"title": title, "color": colour, "left": left, "right": left + WIDTH + 40})
        self.x, self.y = left + 20, 90

    def column(self) -> None:
        """Begin a column in the group."""
        self.x, self.y = self.x + WIDTH + GAP, 90
        self.groups[-1]["right"] = self.x + WIDTH + 20

    def add(self, class_type: str, title: str = "", **values: object) -> Node:
        """A node below the last one; values are settings, outputs, or nodes whose first fitting output is meant.

        Raises:
            ValueError: an input that the node does not have, or a socket without a wire.
        """
        schema = self.object_info[class_type]
        node = Node(len(self.nodes) + 1, class_type, schema, title, (self.x, self.y))
        specs = node.inputs()
        if unknown := set(values) - set(specs):
            raise ValueError(f"{class_type} has no input {', '.join(unknown)}")
        for name, spec in specs.items():
            value = values.get(name)
            if isinstance(value, Node):
                value = value.output_for(spec[0])
            elif value is None and is_widget(spec):
                value = default(spec)
            elif value is None and name in schema["input"].get("required", {}):
                raise ValueError(f"{class_type}: nothing is wired to {name}")
            node.values[name] = value
        self.nodes.append(node)
        self.y += node.height() + TITLE + GAP
        self.bottom = max(self.bottom, self.y - GAP)
        return node

    def ui(self) -> dict:
        """The workflow as the frontend saves it."""
        links: list[list] = []
        nodes = [self._ui_node(node, order, links) for order, node in enumerate(self.nodes)]
        for link in links:
            nodes[link[1] - 1]["outputs"][link[2]]["links"].append(link[0])
        nodes.append(self._ui_note(len(nodes)))
        groups = [
            {
                "id": number,
                "title": group["title"],
                "bounding": [group["left"], 10, group["right"] - group["left"], self.bottom],
                "color": group["color"],
                "font_size": 24,
                "flags": {},
            }
            for number, group in enumerate(self.groups, start=1)
        ]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def _ui_node(self, node: Node, order: int, links: list[list]) -> dict:
        inputs, widgets = [], []
        for name, spec in node.inputs().items():
            value = node.values[name]
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            if is_widget(spec):
                widgets += self._widget_values(default(spec) if isinstance(value, Output) else value, spec)
            if isinstance(value, Output) or not is_widget(spec):
                socket = {"name": name, "type": kind, "link": None}
                if name in node.schema["input"].get("optional", {}):
                    socket["shape"] = 7
                if is_widget(spec):
                    socket["widget"] = {"name": name}
                if isinstance(value, Output):
                    socket["link"] = len(links) + 1
                    from_kind = value.node.schema["output"][value.slot]
                    links.append([socket["link"], value.node.number, value.slot, node.number, len(inputs), from_kind])
                inputs.append(socket)
        outputs = [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(node.schema["output_name"], node.schema["output"], strict=True)
        ]
        made = {
            "id": node.number,
            "type": node.class_type,
            "pos": list(node.at),
            "size": [WIDTH, node.height()],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": node.class_type},
            "widgets_values": widgets,
        }
        return {**made, "title": node.title} if node.title else made

    def _ui_note(self, order: int) -> dict:
        height = 40 + 20 * sum(1 + len(line) // 52 for line in self.note.splitlines())
        return {
            "id": order + 1,
            "type": "MarkdownNote",
            "pos": [-440, 90],
            "size": [420, height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Read me first",
            "properties": {},
            "widgets_values": [self.note],
            "color": "#432",
            "bgcolor": "#653",
        }

    @staticmethod
    def _widget_values(value: object, spec: list) -> list:
        """A widget's value with those of what the frontend puts after it: a button's, a choice's own widgets'."""
        rest = options(spec)
        if spec[0] == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(option for option in rest["options"] if option["key"] == value)
            return [value, *map(default, chosen["inputs"].get("required", {}).values())]
        if rest.get("control_after_generate"):
            return [value, "fixed"]
        return [value, "image"] if rest.get("video_upload") else [value]


# Parts that the workflows share


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
    components = g.add("GetVideoComponents", video=g.add("LoadVideo", title, file=file))
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
    """Of every stage: the paper's, or what the demo models need."""
    return g.choose(50, 25)


def cfg(g: Graph) -> float:
    """Of the image model: the paper's, or what the demo models need."""
    return g.choose(7.5, 3.0)


def sample_frames(
    g: Graph, model: Output, positive: object, negative: object, latent: object, denoise: float = 1.0
) -> Node:
    """Stage 1's sampler at the paper's settings."""
    return g.add(
        "BIVDiffFrameSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=42,
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
    strength: float = 1.0,
    mixing_ratio: object = 0.5,
    clip: Node | None = None,
    drawn_by: tuple[Output, Node] | None = None,
) -> Node:
    """Stages 2 to 4: LATENT frames to the smoothed clip's pictures.

    Args:
        clip: another LATENT of it, where a video VAE packs frames.
        drawn_by: the image model of stage 1 and the prompts that hold it to the shapes, for the structure pass;
            without there is none.
    """
    g.group("Stage 2: mixed inversion", INVERSION_COLOUR)
    schedule = {"steps": steps(g), "scheduler": models.scheduler}
    # Small latents lose their picture under less noise than large ones: docs/study.md, "Strength".
    if models.grid != "reference":  # which the released code inverts to full noise on
        strength = g.choose(strength, min(strength, 0.5))
    settings = {"solver": models.solver, "strength": strength, "grid": models.grid, **schedule}
    windows = {"context_length": models.windows[0], "context_overlap": models.windows[1]}
    image = g.add("BIVDiffInvertImage", model=models.image, conditioning=texts.image_empty, latent=frames, **settings)
    video = g.add(
        "BIVDiffInvertVideo",
        model=models.video,
        conditioning=texts.video_empty,
        latent=clip or frames,
        **settings,
        **windows,
    )
    ratio = TASK_RATIOS.get(task, mixing_ratio)
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, task=task, mixing_ratio=ratio)
    g.group("Stage 3: temporal smoothing", SMOOTHING_COLOUR)
    smooth = g.add(
        "BIVDiffTemporalSmoother",
        model=models.video,
        positive=texts.video,
        negative=texts.video_empty,
        latent=mixed,
        cfg=g.choose(models.cfg, 1.0),
        grid=models.grid,
        **schedule,
        **windows,
    )
    if drawn_by is not None:
        smooth = structure_pass(g, models, smooth, *drawn_by)
    return g.add("VAEDecode", samples=smooth, vae=models.vae)


def structure_pass(g: Graph, models: Models, video: Node, model: Output, control: Node) -> Node:
    """Stage 4: a smoothed LATENT inverted a little way, and drawn again by the image model under its control."""
    g.group("Stage 4: structure pass", STRUCTURE_COLOUR)
    schedule = {"steps": steps(g), "scheduler": models.scheduler}
    noised = g.add(
        "BIVDiffInvertImage",
        "Invert a little way",
        model=model,
        conditioning=control.values["positive"],  # as it was before the control
        latent=video,
        solver=models.solver,
        strength=0.3,
        **schedule,
    )
    return g.add(
        "BIVDiffFrameSampler",
        "Draw the shapes back",
        model=model,
        positive=control["positive"],
        negative=control["negative"],
        latent_image=noised,
        cfg=1.0,
        **schedule,
    )


def save(g: Graph, images: object, clip: Source) -> None:
    """Preview, and a video with the frames' sound at their own rate."""
    g.add("PreviewImage", "Smoothed", images=images)
    g.column()
    video = g.add("CreateVideo", images=images, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=video, filename_prefix=f"bivdiff_{g.name}")


def report(g: Graph, images: object, before: object, source: object = None) -> None:
    """What smoothing did to the frames before it, along the motion of the clip that they were made from."""
    measured = g.add("BIVDiffTemporalReport", images=images, reference_images=before, source_images=source)
    g.add("PreviewImage", "Report", images=measured["plot"])


def paste_back(g: Graph, known: object, made: object, mask: object) -> Node:
    """The made pixels inside a mask, the known ones outside."""
    return g.add("ImageCompositeMasked", "Known pixels back", destination=known, source=made, mask=mask)


MODELS = """### Models, by folder under models/

- **checkpoints** `v1-5-pruned-emaonly-fp16.safetensors`: huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive
- **diffusers** the whole folder `zeroscope_v2_576w`: huggingface.co/cerspense/zeroscope_v2_576w
"""
CONTROL_NETS = "huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors"
INPAINTING_MODEL = """- **checkpoints** `sd-v1-5-inpainting.ckpt`: huggingface.co/stable-diffusion-v1-5/\
stable-diffusion-inpainting

It draws the frames; both inversions keep the plain model.
"""
EVERY_CHAIN = """- **steps**: the same number in stages 2 and 3.
- **cfg** of the smoother: lower keeps the frames' shapes better, higher follows the prompt more.
- **start** of Select Frames: anywhere in the clip; the sound follows.
"""
CHAIN = f"""\
- **stride** and **count**: the paper takes every fourth frame, 8 of them. ZeroScope knows clips of up to 24.
{EVERY_CHAIN}"""
PASS = """- **Stage 4** draws back the shapes that smoothing lost. To do without select its nodes and press Ctrl+B. \
Raise **strength** in it where shapes are still off, lower it where the video flickers again.
"""


# The workflows


def controlnet(g: Graph) -> None:
    """A new video with a clip's outlines; depth and pose by another preprocessor."""
    g.note = f"""### ControlNet

A new video from a prompt, with the clip's outlines.

{MODELS}- **controlnet** `control_v11p_sd15_canny_fp16.safetensors`: {CONTROL_NETS}

### Depth or pose instead

Put another preprocessor in Canny's place, and its ControlNet from the same page into the loader:

- depth: Load, Run and Render Depth Anything 3, with `control_v11f1p_sd15_depth_fp16.safetensors`
- pose: SDPose Keypoint Extractor and Draw Keypoints, with `control_v11p_sd15_openpose_fp16.safetensors`
- any other pack's preprocessor: one hint for each frame is all it takes

### What to turn

- **task** controlnet mixes at the paper's 1: DDIM Inverse (Video) is then not even run. Set custom and lower \
**mixing_ratio** to keep more of each frame.
- **strength** of Apply ControlNet: lower it if the outlines look traced.
{PASS}{CHAIN}"""
    from_outlines(g, source(g), load_models(g, "control_v11p_sd15_canny_fp16.safetensors"), "controlnet")


def t2i_adapter(g: Graph) -> None:
    """A new video with a clip's outlines, by an adapter much smaller than a ControlNet."""
    g.note = f"""### T2I-Adapter

A new video from a prompt, with the clip's outlines. The adapter is a fifth of a ControlNet and runs once per frame.

{MODELS}- **controlnet** `t2iadapter_canny_sd15v2.pth`: huggingface.co/TencentARC/T2I-Adapter

### Depth instead

Load, Run and Render Depth Anything 3 in Canny's place, and `t2iadapter_depth_sd15v2.pth` of the same page.

### What to turn

- **task** t2i_adapter mixes at the paper's 1: DDIM Inverse (Video) is then not even run. Set custom and lower \
**mixing_ratio** to keep more of each frame.
- **strength** of Apply ControlNet: adapters hold the frames less strictly than a ControlNet does.
{PASS}{CHAIN}"""
    from_outlines(g, source(g), load_models(g, "t2iadapter_canny_sd15v2.pth", "t2i_adapter"), "t2i_adapter")


def from_outlines(g: Graph, clip: Source, models: Models, task: str) -> None:
    """The whole chain, its frames drawn from noise to a clip's outlines."""
    texts = prompts(g, models, "a robot made of copper in a snowy street", "a blue square on a yellow background")
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
    report(g, video, before, clip.frames)


def instruct_pix2pix(g: Graph) -> None:
    """A clip edited by an instruction."""
    g.note = f"""### InstructPix2Pix

Say what to do with the clip, and every frame is edited so.

{MODELS}- **checkpoints** `instruct-pix2pix-00-22000.safetensors`: huggingface.co/timbrooks/instruct-pix2pix

### What to turn

- **Instruction**: what to do, such as *make it snow*. **Prompt**: what the clip shows once it is done.
- **cfg_conds** of Dual CFG Guider: how strictly the instruction is followed.
- **cfg_cond2_negative**: how closely the frames stay to the clip, 1.2 to 1.8.
- **frames_per_batch** of Frame Chunks: fewer frames at once where memory is short.
- **task** instruct_pix2pix mixes at the paper's 1. Set custom and lower **mixing_ratio** to keep more of each frame.
{CHAIN}"""
    clip = source(g)
    models = load_models(g)
    editor = load_editor(g)
    texts = prompts(g, models, "a mountain village in deep snow", "a red square on a yellow background")
    instructed(g, clip, models, editor, texts, g.choose("make it a winter day in deep snow", "a red square"))


def load_editor(g: Graph) -> tuple[Output, Output]:
    """InstructPix2Pix and its text encoder."""
    if g.demo:
        loaded = g.add("BIVDiffDemoModels", "Editing model", variant="instruct_pix2pix")
        return loaded["image_model"], loaded["CLIP"]
    loaded = g.add("CheckpointLoaderSimple", "Editing model", ckpt_name="instruct-pix2pix-00-22000.safetensors")
    return loaded["MODEL"], loaded["CLIP"]


def instructed(
    g: Graph,
    clip: Source,
    models: Models,
    editing: tuple[Output, Output],
    texts: Prompts,
    instruction: str,
    negative: str = "",
) -> None:
    """The chain, its frames edited by an instruction."""
    editor, editor_clip = editing
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    nothing = g.add(
        "CLIPTextEncode", "Negative prompt" if negative else "No instruction", clip=editor_clip, text=negative
    )
    conditioned = g.add(
        "InstructPixToPixConditioning",
        positive=g.add("CLIPTextEncode", "Instruction", clip=editor_clip, text=instruction),
        negative=nothing,
        vae=models.vae,
        pixels=clip.frames,
    )
    chunked = g.add("BIVDiffFrameChunks", model=editor)
    guider = g.add(
        "DualCFGGuider",
        model=chunked,
        cond1=conditioned["positive"],
        cond2=conditioned["negative"],
        negative=nothing,
        cfg_conds=cfg(g),
        cfg_cond2_negative=1.5,
    )
    g.column()
    frames = g.add(
        "SamplerCustomAdvanced",
        noise=g.add("BIVDiffFrameNoise", seed=42),
        guider=guider,
        sampler=g.add("KSamplerSelect", sampler_name="ddim"),
        sigmas=g.add("BasicScheduler", model=chunked, scheduler="ddim_uniform", steps=steps(g)),
        latent_image=conditioned["latent"],
    )
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames, "instruct_pix2pix")
    save(g, video, clip)
    report(g, video, before, clip.frames)


def own_frames(g: Graph) -> None:
    """Frames of any origin enter at the inversion."""
    g.note = f"""### Bring your own frames

Frames that any image model made one by one become steady: an edit, a style transfer, a colourisation. Load them as \
a video, or wire any IMAGE batch into the node *Your frames*.

{MODELS}
### What to turn

- **Prompt**: say what the frames show.
- **mixing_ratio**: towards 1 steadier, towards 0 closer to the frames.
- **strength** of both DDIM Inverse nodes: 1 is the paper's, 0.5 to 0.8 a gentle smoothing.
{CHAIN}"""
    g.group("Source and models", SOURCE_COLOUR)
    clip = load_clip(
        g, g.choose(PACKAGED_CLIP, "bivdiff_flicker.mp4"), "Your frames as a video", square(g), stride=1, count=8
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    models = load_models(g)
    texts = prompts(g, models, "a robot made of copper in a snowy street", "a blue square on a yellow background")
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    video = smoothed(g, models, texts, frames)
    save(g, video, clip)
    report(g, video, clip.frames)


def prompt2prompt(g: Graph) -> None:
    """A clip edited by changing words of its description."""
    g.note = f"""### Prompt2Prompt

Describe the clip, change words of the description, and the clip changes with them while its layout stays.

{MODELS}
### What to turn

- **Source prompt**: what the clip shows, in plain words. The inversion and the editor both take it from here.
- **edit**: *replace* exchanges words one for one (as many words on both sides), *refine* adds or leaves out words, \
*reweight* makes target words count more or less by **word_weights**, such as *snowy: 2*.
- **local_blend_words**: the words whose place may change; everything else stays as it was.
- **cross_replace_steps**, **self_replace_steps**: less lets shapes change more.
- **Reconstructed** shows what the inversion and cfg lose before any edit: lower the editor's **cfg** if it is much.
- **task** prompt2prompt mixes at the paper's 0.25.
{CHAIN}"""
    clip = source(g)
    models = load_models(g)
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("a cat walking on the grass", "a blue square on a yellow background"),
    )
    texts = prompts(
        g, models, "a dog walking on the grass", "a red square on a yellow background", title="Target prompt"
    )
    reworded(g, clip, models, texts, source_text, local_blend_words=g.choose("cat dog", "blue red"))


def reworded(
    g: Graph,
    clip: Source,
    models: Models,
    texts: Prompts,
    source_text: Node,
    **edit: object,
) -> None:
    """The chain, its frames edited by changing words."""
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Invert with the source prompt",
        model=models.image,
        conditioning=for_image(g, models, source_text, "Source prompt (image model)"),
        latent=encoded,
        steps=steps(g),
        solver=models.solver or "uni_inv",
        grid=models.grid,
    )
    edited = g.add(
        "BIVDiffPrompt2Prompt",
        model=models.image,
        clip=models.image_clip,
        latent=inverted,
        source_prompt=source_text,
        target_prompt=texts.text,
        steps=steps(g),
        cfg=cfg(g),
        **edit,
    )
    g.column()
    show(g, "Reconstructed", edited["reconstructed"], models.vae)
    before = show(g, "Frame-wise", edited["edited"], models.vae)
    video = smoothed(g, models, texts, edited["edited"], "prompt2prompt")
    save(g, video, clip)
    report(g, video, before, clip.frames)


def inpainting(g: Graph) -> None:
    """What a moving mask covers is drawn anew."""
    g.note = f"""### Inpainting

What the mask covers, frame by frame, is drawn anew from the prompt; everything else stays the clip's own, to the bit, \
behind a feathered edge.

{MODELS}{INPAINTING_MODEL}
### What to turn

- **Your mask**: a video as long as the clip, white where to draw. Give both Select Frames the same settings.
- **Grow Mask**: room around the mask for the new object.
- **Blur Image**: the width of the feathered edge.
- **denoise**: 1 draws anew, less keeps something of what was there.
- **task** inpainting mixes at the paper's 0.1.
{CHAIN}"""
    stride = g.choose(4, 1)
    clip = source(g, stride=stride)
    models = load_models(g)
    texts = prompts(g, models, "a red fox on the grass", "a red circle on a yellow background")
    g.column()
    mask = load_clip(
        g, g.choose(PACKAGED_CLIP, "bivdiff_mask.mp4"), "Your mask", square(g), stride=stride, count=8
    ).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    mask = g.add("GrowMask", mask=mask, expand=g.choose(12, 2))
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    frames = filled(g, models, texts, clip.frames, mask)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames, "inpainting")
    soft = g.add(
        "ImageBlur",
        "Feathered edge",
        image=g.add("MaskToImage", mask=mask),
        blur_radius=g.choose(8, 2),
        sigma=g.choose(4.0, 1.0),
    )
    soft = g.add("ImageToMask", image=soft, channel="red")
    video = paste_back(g, clip.frames, video, soft)
    save(g, video, clip)
    report(g, video, before, clip.frames)


def outpainting(g: Graph) -> None:
    """A clip's picture continued beyond its edges."""
    g.note = f"""### Outpainting

The clip's picture goes on beyond its edges. As in the paper the middle half is kept and the outer quarters are drawn; \
the known pixels stay the clip's own, to the bit, behind a feathered seam.

{MODELS}{INPAINTING_MODEL}
### What to turn

- **Pad Image for Outpainting**: any side, any amount, in steps of 8. *Resize* sets what is kept.
- **feathering**: the width of the seam, inside the known picture.
- **Prompt**: what the whole, wider picture shows.
- **task** outpainting mixes at the paper's 0.1.
{CHAIN}"""
    clip = source(g, size=g.choose((256, 512), (32, 64)))
    models = load_models(g)
    texts = prompts(g, models, "a mountain road in autumn", "a blue square on a yellow background")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    margin = g.choose(128, 16)
    padded = g.add("ImagePadForOutpaint", image=clip.frames, left=margin, right=margin, feathering=g.choose(24, 4))
    g.add("PreviewImage", "Padded", images=padded)
    g.column()
    frames = filled(g, models, texts, padded, padded)
    before = show(g, "Frame-wise", frames, models.vae)
    video = paste_back(g, padded, smoothed(g, models, texts, frames, "outpainting"), padded)
    save(g, video, clip)
    report(g, video, before, padded)


def style_lora(g: Graph) -> None:
    """A clip in the style of a LoRA."""
    g.note = f"""### Style transfer by LoRA

The clip redrawn in the style of a LoRA, its outlines kept by a ControlNet.

{MODELS}- **controlnet** `control_v11p_sd15_canny_fp16.safetensors`: {CONTROL_NETS}
- **loras** any style LoRA for SD 1.5, as `your_style.safetensors`

### What to turn

- **Prompt**: what the clip shows, with the words that call the style.
- **strength_model** of the LoRA, and **denoise**: how far the style goes.
- An image prompt instead of a LoRA: patch the model with IP-Adapter in Load LoRA's place.
- **mixing_ratio**: the video model does not know the style; lower it where the style fades.
- Both inversions run on the plain models: the style is in the frames.
{PASS}{CHAIN}"""
    clip = source(g)
    models = load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    style = g.choose("your_style.safetensors", "bivdiff_black_and_white.safetensors")
    styled = g.add("LoraLoaderModelOnly", model=models.image, lora_name=style)["MODEL"]
    texts = prompts(g, models, "a watercolor painting of a city street", "a square")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    control = controlled(g, models, texts, outlines(g, clip.frames))
    g.column()
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = sample_frames(g, styled, control["positive"], control["negative"], encoded, denoise=0.8)
    before = show(g, "Frame-wise", frames, models.vae)
    drawn_by = styled, control
    video = smoothed(g, models, texts, frames, mixing_ratio=g.choose(0.5, 0.2), drawn_by=drawn_by)
    save(g, video, clip)
    report(g, video, before, clip.frames)


def tile_upscale(g: Graph) -> None:
    """A small clip enlarged, its detail drawn by a tile ControlNet."""
    g.note = f"""### Super-resolution by tile ControlNet

A small clip twice as large, with detail that an image model draws and the video model makes steady.

{MODELS}- **controlnet** `control_v11f1e_sd15_tile_fp16.safetensors`: {CONTROL_NETS}

### What to turn

- **Upscale Image By**: how much larger. Memory grows with it; frames_per_batch keeps stage 1 in bounds.
- **denoise**: how much detail is drawn anew.
- **strength** of both DDIM Inverse nodes: lower keeps the picture closer to the frames.
{PASS}{CHAIN}{g.choose("", "- The demo models have no tile ControlNet: that for outlines stands in.")}"""
    clip = source(g, size=g.choose((256, 256), (32, 32)))
    models = load_models(g, control_net="control_v11f1e_sd15_tile_fp16.safetensors")
    texts = prompts(g, models, "a sharp photograph, fine detail", "a blue square on a yellow background")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    large = g.add("ImageScaleBy", image=clip.frames, upscale_method="bicubic", scale_by=2.0)
    control = controlled(g, models, texts, outlines(g, large) if g.demo else large)
    encoded = g.add("VAEEncode", pixels=large, vae=models.vae)
    g.column()
    frames = sample_frames(g, models.image, control["positive"], control["negative"], encoded, denoise=0.5)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames, strength=0.6, drawn_by=(models.image, control))
    save(g, video, clip)
    report(g, video, before, clip.frames)


def matting(g: Graph) -> None:
    """A clip's subject cut out, the mattes made steady."""
    g.note = f"""### Matting

A model cuts the subject out of every frame; the mattes, which flicker, go through the chain like any frames. The \
paper does not try this: compare with *Frame-wise* before you trust it.

{MODELS}- **background_removal** `birefnet.safetensors`: huggingface.co/Comfy-Org/BiRefNet

### What to turn

- **strength** of both DDIM Inverse nodes: raise it while the matte flickers, lower it once edges move.
- **mixing_ratio**: towards 0 closer to the mattes.
{CHAIN}"""
    clip = source(g)
    models = load_models(g)
    texts = prompts(g, models, "a white silhouette on a black background", "a white square on a blue background")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    if g.demo:  # the packaged clip's square is the only thing in it without red
        bright = g.add("ThresholdMask", mask=g.add("ImageToMask", image=clip.frames, channel="red"), value=0.5)
        matte = g.add("InvertMask", mask=bright)
    else:
        remover = g.add("LoadBackgroundRemovalModel", bg_removal_name="birefnet.safetensors")
        matte = g.add("RemoveBackground", bg_removal_model=remover, image=clip.frames)
    mattes = g.add("MaskToImage", mask=matte)
    g.add("PreviewImage", "Frame-wise", images=mattes)
    frames = g.add("VAEEncode", pixels=mattes, vae=models.vae)
    steady = smoothed(g, models, texts, frames, strength=0.6)
    save(g, steady, clip)
    screen = empty(g, "EmptyImage", "Green screen", like=clip.frames, color=0x00B140)
    mask = g.add("ImageToMask", image=steady, channel="red")
    cut = g.add("ImageCompositeMasked", "Subject on green", destination=screen, source=clip.frames, mask=mask)
    report(g, steady, mattes, clip.frames)
    g.column()
    g.add("PreviewImage", "Cut out", images=cut)


def sweep(g: Graph) -> None:
    """A clip at every mixing ratio, side by side and in a plot."""
    g.note = f"""### Sweep

Which mixing ratio suits your clip? One run draws it at each of several, side by side in one video, and plots what \
each buys. The frames and both inversions are made once, what follows once per ratio.

{MODELS}- **controlnet** `control_v11p_sd15_canny_fp16.safetensors`: {CONTROL_NETS}

### What to turn

- **What to try**: the ratios, comma-separated.
- **Plot**: the joined points are steadier or closer to the frames than every other; crosses only stand still or are \
only blurred, or average their frames.
- Modes instead: wire **Blend Mode List** to **mode** of Mixed Inversion Blend and to **labels** of Sweep Grid, and \
unlink the ratios.
- Solvers instead: wire **Solver List** to **solver** of both DDIM Inverse nodes and to **labels** of Sweep Grid, and \
unlink the ratios.
{CHAIN}"""
    clip = source(g)
    models = load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    texts = prompts(g, models, "a robot made of copper in a snowy street", "a blue square on a yellow background")
    ratios = g.add("BIVDiffRatioList", "What to try")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    control = controlled(g, models, texts, outlines(g, clip.frames))
    g.column()
    latent = empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = sample_frames(g, models.image, control["positive"], control["negative"], latent)
    before = show(g, "Frame-wise", frames, models.vae)
    videos = smoothed(g, models, texts, frames, mixing_ratio=ratios, drawn_by=(models.image, control))
    compared = g.add(
        "BIVDiffSweepGrid", images=videos, ratios=ratios, reference_images=before, source_images=clip.frames
    )
    g.add("PreviewImage", "Plot", images=compared["plot"])
    save(g, compared["grid"], clip)


def zeroscope(g: Graph) -> None:
    """A clip of any length repainted, at the video model's own size and in windows."""
    g.note = f"""### ZeroScope, clips of any length

Every frame is repainted after your prompt, and the video model makes the clip steady, 16 frames at a time in windows \
that overlap.

{MODELS}
ModelScope goes the same way: the folder `text-to-video-ms-1.7b` of huggingface.co/ali-vilab/text-to-video-ms-1.7b, at \
256x256.

### What to turn

- **Resize**: 576x320 is what ZeroScope knows, and widths and heights near it. Other sizes fall apart.
- **count**: as many frames as you like; what the video model needs grows with **context_length** only.
- **context_length**, **context_overlap**: the same in DDIM Inverse (Video) and the smoother. Up to 24 for ZeroScope; \
less overlap is quicker, and jumps at regular intervals are a sign of too little.
- **denoise** of the Frame-wise Image Sampler: how far from your clip the frames go.
- **frame_noise** shared: frames that differ less, where little moves.
- **mixing_ratio**: towards 1 steadier, towards 0 closer to the frames.
{EVERY_CHAIN}"""
    clip = source(g, size=g.choose((576, 320), (64, 64)), stride=1, count=g.choose(48, 8))
    models = load_models(g)._replace(windows=g.choose((16, 4), (6, 3)))
    texts = prompts(g, models, "a watercolor painting of a city street", "a blue square on a yellow background")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = sample_frames(g, models.image, for_image(g, models, texts.text), texts.image_empty, encoded, denoise=0.6)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames)
    save(g, video, clip)
    report(g, video, before, clip.frames)


def animatediff(g: Graph) -> None:
    """A new video with a clip's outlines, both branches on one SD 1.5."""
    g.note = f"""### AnimateDiff

A new video from a prompt, with the clip's outlines. AnimateDiff is a motion module inside SD 1.5: any fine-tune of it \
draws the frames and the video alike.

### First put AnimateDiff in

ComfyUI has no loader of its own for motion modules, so a placeholder stands where one belongs: **{ANIMATEDIFF}**. \
Until you replace it, the run stops there.

1. Install *AnimateDiff Evolved* (by Kosinkadink) in the Manager.
2. Add its node **AnimateDiff Loader 🎭🅐🅓①**, choose the motion module, leave **beta_schedule** at autoselect.
3. Wire MODEL of *Image model* to it, and its own MODEL to DDIM Inverse (Video) and Video Temporal Smoother, in place \
of the placeholder's.

DDIM Inverse (Image) and the Frame-wise Image Sampler keep the plain image model.

### Models, by folder under models/

- **checkpoints** `v1-5-pruned-emaonly-fp16.safetensors`: huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive, or \
any fine-tune of SD 1.5
- **animatediff_models** `v3_sd15_mm.ckpt`: huggingface.co/guoyww/animatediff
- **controlnet** `control_v11p_sd15_canny_fp16.safetensors`: {CONTROL_NETS}

### What to turn

- **count**: motion modules know 16 frames. For more set **context_length** 16 and **context_overlap** 4 in DDIM \
Inverse (Video) and the smoother, or wire Context Options of that pack to its loader.
- **stride**: every fourth frame of footage at 24 to 30 frames a second moves as these modules know it.
- **mixing_ratio**: towards 1 steadier, towards 0 closer to the frames.
{PASS}{EVERY_CHAIN}"""
    clip = source(g, count=g.choose(16, 8))
    models = load_models(g, "control_v11p_sd15_canny_fp16.safetensors", animatediff=True)
    from_outlines(g, clip, models, "custom")


def wan(g: Graph) -> None:
    """Frames of any origin, both branches on one flow model."""
    g.note = f"""### Wan 2.1, bring your own frames

Frames that any image model made one by one become steady. Wan packs four frames into one latent, which no image model \
does: it serves both branches itself, single frames for one and the clip for the other.

### Models, by folder under models/, all from huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged

- **diffusion_models** `wan2.1_t2v_1.3B_fp16.safetensors`
- **text_encoders** `umt5_xxl_fp8_e4m3fn_scaled.safetensors`
- **vae** `wan_2.1_vae.safetensors`

### What to turn

- **Prompt**: say what the frames show.
- **count**: 5, 9, 13, ... frames, one more than a multiple of four. **Resize**: sides in steps of 16.
- **mixing_ratio**: towards 1 the single frames' noise, towards 0 the clip's.
- **strength** of both DDIM Inverse nodes: 1 goes to pure noise, 0.5 to 0.8 is a gentle smoothing.
- **shift**, **scheduler** and **steps**: the same for the whole chain. simple, normal and beta reach pure noise; \
others are refused.
- **context_length** of both video nodes counts latents: 21 are 81 frames, what Wan knows.
{EVERY_CHAIN}"""
    g.group("Source and models", SOURCE_COLOUR)
    size = g.choose((832, 480), (64, 64))
    clip = load_clip(g, PACKAGED_CLIP, "Your frames as a video", size, stride=1, count=g.choose(33, 5))
    g.add("PreviewImage", "Source", images=clip.frames)
    g.column()
    unet = g.add("UNETLoader", "Wan", unet_name="wan2.1_t2v_1.3B_fp16.safetensors")
    model = g.add("ModelSamplingSD3", "The whole chain's shift", model=unet, shift=8.0)["MODEL"]
    if g.demo:
        text = g.add("BIVDiffDemoModels")["CLIP"]
    else:
        text = g.add("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")["CLIP"]
    vae = g.add("VAELoader", vae_name="wan_2.1_vae.safetensors")["VAE"]
    models = Models(model, text, model, text, vae, None, scheduler="simple", solver="fireflow", cfg=6.0)
    texts = prompts(g, models, "a robot made of copper in a snowy street", "a blue square on a yellow background")
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    encode = {"vae": vae, "images": clip.frames}
    single = g.add("BIVDiffEncodeFrames", "Every fourth frame on its own", stride=4, mode="single_frames", **encode)
    whole = g.add("BIVDiffEncodeFrames", "The clip", stride=1, mode="clip", **encode)
    video = smoothed(g, models, texts, single, clip=whole)
    save(g, video, clip)
    report(g, video, clip.frames)


Drawing = Callable[[Graph], None]
GRAPHS: dict[str, Drawing] = {
    graph.__name__: graph
    for graph in (
        controlnet,
        t2i_adapter,
        instruct_pix2pix,
        prompt2prompt,
        inpainting,
        outpainting,
        style_lora,
        tile_upscale,
        matting,
        own_frames,
        zeroscope,
        animatediff,
        wan,
        sweep,
    )
}


def workflow(name: str, object_info: dict, demo: bool, graphs: dict[str, Drawing] = GRAPHS) -> dict:
    """A workflow in the frontend's format; ``demo`` for its twin on the demo models."""
    graph = Graph(f"{name}_demo" if demo else name, object_info, demo)
    graphs[name](graph)
    return graph.ui()


def write(folder: Path, graphs: dict[str, Drawing]) -> None:
    """Write workflows into a folder."""
    with tempfile.TemporaryDirectory() as base, Server(sys.executable, COMFYUI, Path(base), cpu=True) as server:
        object_info = server.object_info()
    for name in graphs:
        text = as_text(workflow(name, object_info, demo=False, graphs=graphs))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def as_text(workflow: dict) -> str:
    """A workflow as its file holds it."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write(WORKFLOWS, GRAPHS)

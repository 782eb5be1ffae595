"""Write the configurations of the released code (docs/released_configurations.md) as workflows.

    python -m tools.released_workflows

They differ from the templates as the released code does: its noise levels and pooled group norms, its solver, its
prompts, clips stretched to 512x512, no paste-back, 8 frames a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import Template

from tools import workflow_parts
from tools.recipes.instruct_pix2pix import add_instruction_edit, load_editor
from tools.recipes.prompt2prompt import add_prompt_edit
from tools.workflow_graph import GraphBuilder, GraphNode, WorkflowGraph
from tools.write_workflows import WORKFLOWS, fetch_object_info, write_workflows

ROOT = Path(__file__).resolve().parents[1]

FPS = 8.0
QUALITY_WORDS = (
    "best quality, extremely detailed, HD, ultra-realistic, 8K, HQ, masterpiece, trending on artstation, art, smooth"
)
FAULT_WORDS = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer difits, cropped, worst quality, "
    "low quality, deformed body, bloated, ugly, unrealistic"
)


def note(*paragraphs: str, **settings: str) -> str:
    """The note of a workflow: recipes/released/every.md and further paragraphs, with each ``$setting`` filled in."""
    texts = (workflow_parts.read_note(f"released/{name}").rstrip() for name in ("every", *paragraphs))
    return Template("\n\n".join(texts)).substitute(settings)


def load_released(
    g: WorkflowGraph, clip: str, video_model: str, control_net: str = "", variant: str = "base"
) -> tuple[workflow_parts.SourceClip, workflow_parts.ChainModels]:
    """Load clip and models as the released code does; all models use the VAE of SD 1.5."""
    source_clip = without_audio(workflow_parts.source(g, title=clip, crop="disabled"))
    models = workflow_parts.load_models(g, control_net, variant, video_model=video_model)
    return source_clip, models._replace(solver="ddim", grid="reference")


def without_audio(clip: workflow_parts.SourceClip) -> workflow_parts.SourceClip:
    """The clip without sound, saved at 8 frames a second."""
    return clip._replace(fps=FPS, audio=None)


def texts(
    g: WorkflowGraph, models: workflow_parts.ChainModels, text: str, quality: bool = False, title: str = "Prompt"
) -> workflow_parts.ChainPrompts:
    """Prompts, with the released word lists if ``quality``; both inversions use the negative prompt."""
    return workflow_parts.add_prompts(
        g,
        models,
        add_quality_words(text, quality),
        workflow_parts.DEMO_PROMPT,
        title,
        g.choose(FAULT_WORDS, "") if quality else "",
    )


def add_quality_words(text: str, quality: bool = True) -> str:
    """A prompt with the released list of quality words."""
    return f"{text}, {QUALITY_WORDS}" if quality else text


def add_depth(g: WorkflowGraph, frames: object) -> GraphNode:
    """Add depth maps; in the demo version outlines, because the demo ControlNets support only outlines."""
    if g.demo:
        return workflow_parts.add_canny(g, frames)
    model = g.add("LoadDA3Model", model_name="depth_anything_3_mono_large.safetensors")
    maps = g.add("DA3Render", da3_geometry=g.add("DA3Inference", da3_model=model, image=frames))
    g.add("PreviewImage", "Control", images=maps)
    return maps


def control_workflow(
    g: WorkflowGraph,
    name: str,
    task: str,
    clip: str,
    video_model: str,
    net: str,
    hints: Callable[[WorkflowGraph, object], GraphNode],
    text: str,
) -> None:
    """ControlNet (with the word lists) or T2I-Adapter (without)."""
    depth_note = ["depth"] if hints is add_depth else []
    g.note = note(video_model, "hinted", *depth_note, name=name, clip=clip, net=net)
    source_clip, models = load_released(
        g, clip, video_model, net, variant="t2i_adapter" if task == "t2i_adapter" else "base"
    )
    prompts = texts(g, models, text, quality=task == "controlnet")
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    workflow_parts.follow_hints(g, source_clip, models, prompts, hints(g, source_clip.frames), task)


def instruct_pix2pix(g: WorkflowGraph, name: str, clip: str, video_model: str, instruction: str, text: str) -> None:
    """InstructPix2Pix with the image guidance of its pipeline."""
    g.note = note(video_model, "instruct_pix2pix", name=name, clip=clip)
    source_clip, models = load_released(g, clip, video_model)
    editor = load_editor(g)
    prompts = texts(g, models, text, quality=True)
    instruction = g.choose(add_quality_words(instruction), "a red square, patchy")
    add_instruction_edit(g, source_clip, models, editor, prompts, instruction, negative=g.choose(FAULT_WORDS, ""))


def prompt2prompt(g: WorkflowGraph, name: str, after: str, edit: str, blend_words: str = "") -> None:
    """Prompt2Prompt. The released code inverts with the empty prompt; this inverts with a source prompt."""
    g.note = note("VidRD", "prompt2prompt", name=name, clip="car-turn")
    source_clip, models = load_released(g, "car-turn", "VidRD")
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("A car is moving on the road", workflow_parts.DEMO_PROMPT),
    )
    prompts = workflow_parts.add_prompts(
        g, models, after, "a red square on a yellow background, patchy", "Target prompt"
    )
    words = {"edit": edit, "local_blend_words": g.choose(blend_words, "blue red" if blend_words else "")}
    add_prompt_edit(g, source_clip, models, prompts, source_text, **words)


def inpainting(g: WorkflowGraph, name: str) -> None:
    """Inpainting with a mask video, empty prompts, no paste-back."""
    g.note = note("VidRD", "inpainting", name=name, clip="hike")
    source_clip, models = load_released(g, "hike", "VidRD")
    prompts = texts(g, models, "")
    g.column()
    mask = workflow_parts.load_clip(
        g,
        g.choose(workflow_parts.PACKAGED_CLIP, "bivdiff_mask.mp4"),
        "hike-mask",
        workflow_parts.square_size(g),
        "disabled",
        stride=g.choose(4, 1),
        count=8,
    ).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    inpaint_and_smooth(g, source_clip, models, prompts, source_clip.frames, mask, "inpainting")


def outpainting(g: WorkflowGraph, name: str) -> None:
    """Keep the middle half of the picture, generate the left and right quarters; no paste-back."""
    g.note = note("VidRD", "outpainting", name=name, clip="hike")
    source_clip, models = load_released(g, "hike", "VidRD")
    prompts = texts(g, models, "")
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    side, quarter = g.choose((512, 128), (64, 16))
    middle = g.add("ImageCrop", "Crop", image=source_clip.frames, width=side // 2, height=side, x=quarter, y=0)
    padded = g.add("ImagePadForOutpaint", image=middle, left=quarter, right=quarter, feathering=0)
    inpaint_and_smooth(g, source_clip, models, prompts, padded, padded, "outpainting")


def inpaint_and_smooth(
    g: WorkflowGraph,
    clip: workflow_parts.SourceClip,
    models: workflow_parts.ChainModels,
    prompts: workflow_parts.ChainPrompts,
    pixels: object,
    mask: object,
    task: str,
) -> None:
    """Inpaint the masked part of the frames, then run the chain."""
    frames = workflow_parts.inpaint_frames(g, models, prompts, pixels, mask)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(g, models, prompts, frames, task)
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)


GRAPHS: dict[str, GraphBuilder] = {
    name: partial(build, name=name, **settings)
    for name, build, settings in (
        (
            "controlnet_depth_vidrd",
            control_workflow,
            {
                "task": "controlnet",
                "clip": "mbike-trick",
                "video_model": "VidRD",
                "net": "control_v11f1p_sd15_depth_fp16.safetensors",
                "hints": add_depth,
                "text": "A person on a motorcycle does a burnout on a frozen lake",
            },
        ),
        (
            "controlnet_canny_zeroscope",
            control_workflow,
            {
                "task": "controlnet",
                "clip": "bear",
                "video_model": "zeroscope_v2_576w",
                "net": "control_v11p_sd15_canny_fp16.safetensors",
                "hints": workflow_parts.add_canny,
                "text": "A bear walking through a snow mountain",
            },
        ),
        (
            "t2i_adapter_depth_vidrd",
            control_workflow,
            {
                "task": "t2i_adapter",
                "clip": "car-turn-2",
                "video_model": "VidRD",
                "net": "t2iadapter_depth_sd15v2.pth",
                "hints": add_depth,
                "text": "A red car moves in front of buildings",
            },
        ),
        (
            "instruct_pix2pix_vidrd",
            instruct_pix2pix,
            {
                "clip": "moonwalk",
                "video_model": "VidRD",
                "instruction": "Make him on the road",
                "text": "A man moonwalks on the road",
            },
        ),
        (
            "instruct_pix2pix_zeroscope",
            instruct_pix2pix,
            {
                "clip": "train",
                "video_model": "zeroscope_v2_576w",
                "instruction": "Make it minecraft style",
                "text": "A train is running, minecraft style",
            },
        ),
        (
            "prompt2prompt_refine_vidrd",
            prompt2prompt,
            {"after": "A car is moving on the road in the forest", "edit": "refine"},
        ),
        (
            "prompt2prompt_local_blend_vidrd",
            prompt2prompt,
            {"after": "A white car is moving on the road", "edit": "refine", "blend_words": "car"},
        ),
        ("inpainting_vidrd", inpainting, {}),
        ("outpainting_vidrd", outpainting, {}),
    )
}


FILES = {name: WORKFLOWS / "released" / f"{name}.json" for name in GRAPHS}

if __name__ == "__main__":
    write_workflows(FILES, GRAPHS, fetch_object_info())

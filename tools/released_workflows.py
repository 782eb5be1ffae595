"""Recipes for the configurations of the released code (docs/released_configurations.md).

They differ from the templates as the released code does: its noise levels and pooled group norms, its solver, its
prompts, clips stretched to 512x512, no paste-back, 8 frames a second.
"""

from __future__ import annotations

from string import Template

from tools import workflow_parts as parts
from tools.recipes.instruct_pix2pix import add_instruction_edit, load_editor
from tools.recipes.prompt2prompt import add_prompt_edit
from tools.workflow_graph import GraphBuilder, GraphNode, WorkflowGraph

QUALITY_WORDS = (
    "best quality, extremely detailed, HD, ultra-realistic, 8K, HQ, masterpiece, trending on artstation, art, smooth"
)
FAULT_WORDS = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer difits, cropped, worst quality, "
    "low quality, deformed body, bloated, ugly, unrealistic"
)


def load_released(
    g: WorkflowGraph, video_model: str, clip: str, *paragraphs: str, control_net: str = "", variant: str = "base"
) -> tuple[parts.SourceClip, parts.ChainModels]:
    """Add the note, and clip and models as the released code loads them: all models use the VAE of SD 1.5.

    Args:
        paragraphs: files of recipes/released that the note includes after "every" and the video model's.
    """
    texts = (parts.read_note(f"released/{name}").rstrip() for name in ("every", video_model, *paragraphs))
    g.note = Template("\n\n".join(texts)).substitute(name=g.name, clip=clip, net=control_net)
    source_clip = parts.source(g, title=clip, crop="disabled")._replace(fps=8.0, audio=None)
    models = parts.load_models(g, control_net, variant, video_model=video_model)
    return source_clip, models._replace(scheduler="ddim_uniform", solver="ddim", grid="reference")


def add_prompts_with_word_lists(g: WorkflowGraph, models: parts.ChainModels, text: str) -> parts.ChainPrompts:
    """Prompts with the released word lists; both inversions use the negative prompt."""
    return parts.add_prompts(
        g, models, f"{text}, {QUALITY_WORDS}", parts.DEMO_PROMPT, negative=g.choose(FAULT_WORDS, "")
    )


def add_depth(g: WorkflowGraph, frames: object) -> GraphNode:
    """Add depth maps; in the demo version outlines, because the demo ControlNets support only outlines."""
    if g.demo:
        return parts.add_canny(g, frames)
    model = g.add("LoadDA3Model", model_name="depth_anything_3_mono_large.safetensors")
    maps = g.add("DA3Render", da3_geometry=g.add("DA3Inference", da3_model=model, image=frames))
    g.add("PreviewImage", "Control", images=maps)
    return maps


def follow_control(g: WorkflowGraph, video_model: str, clip: str, net: str, text: str) -> None:
    """ControlNet (with the word lists) or T2I-Adapter (without), with depth maps or outlines."""
    uses_depth, is_adapter = "depth" in net, net.startswith("t2iadapter")
    paragraphs = ("hinted", "depth") if uses_depth else ("hinted",)
    variant = "t2i_adapter" if is_adapter else "base"
    source_clip, models = load_released(g, video_model, clip, *paragraphs, control_net=net, variant=variant)
    if is_adapter:
        prompts = parts.add_prompts(g, models, text, parts.DEMO_PROMPT)
    else:
        prompts = add_prompts_with_word_lists(g, models, text)
    g.group("Stage 1: independent frames", parts.FRAMES_COLOUR)
    hints = (add_depth if uses_depth else parts.add_canny)(g, source_clip.frames)
    parts.follow_hints(g, source_clip, models, prompts, hints, "t2i_adapter" if is_adapter else "controlnet")


def instruct_pix2pix(g: WorkflowGraph, video_model: str, clip: str, instruction: str, text: str) -> None:
    """InstructPix2Pix with the image guidance of its pipeline."""
    source_clip, models = load_released(g, video_model, clip, "instruct_pix2pix")
    editor = load_editor(g)
    prompts = add_prompts_with_word_lists(g, models, text)
    instruction = g.choose(f"{instruction}, {QUALITY_WORDS}", parts.DEMO_INSTRUCTION)
    add_instruction_edit(g, source_clip, models, editor, prompts, instruction, negative=g.choose(FAULT_WORDS, ""))


def prompt2prompt(g: WorkflowGraph, target: str, blend_words: str = "") -> None:
    """Prompt2Prompt. The released code inverts with the empty prompt; this inverts with a source prompt."""
    source_clip, models = load_released(g, "VidRD", "car-turn", "prompt2prompt")
    source_prompt = g.choose("A car is moving on the road", parts.DEMO_PROMPT)
    source_text = g.add("PrimitiveStringMultiline", "Source prompt", value=source_prompt)
    prompts = parts.add_prompts(g, models, target, parts.DEMO_EDITED_PROMPT, "Target prompt")
    blend_words = g.choose(blend_words, "yellow pink" if blend_words else "")
    add_prompt_edit(g, source_clip, models, prompts, source_text, edit="refine", local_blend_words=blend_words)


def inpainting(g: WorkflowGraph) -> None:
    """Inpainting with a mask video, empty prompts, no paste-back."""
    source_clip, models = load_released(g, "VidRD", "hike", "inpainting")
    prompts = parts.add_prompts(g, models, "", parts.DEMO_PROMPT)
    g.column()
    file, stride = g.choose((parts.PACKAGED_CLIP, 4), ("bivdiff_mask.mp4", 1))
    mask = parts.load_clip(g, file, "hike-mask", parts.square_size(g), "disabled", stride=stride, count=8).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    g.group("Stage 1: independent frames", parts.FRAMES_COLOUR)
    inpaint_and_smooth(g, source_clip, models, prompts, source_clip.frames, mask, "inpainting")


def outpainting(g: WorkflowGraph) -> None:
    """Keep the middle half of the picture, generate the left and right quarters; no paste-back."""
    source_clip, models = load_released(g, "VidRD", "hike", "outpainting")
    prompts = parts.add_prompts(g, models, "", parts.DEMO_PROMPT)
    g.group("Stage 1: independent frames", parts.FRAMES_COLOUR)
    side, quarter = g.choose((512, 128), (64, 16))
    middle = g.add("ImageCrop", "Crop", image=source_clip.frames, width=side // 2, height=side, x=quarter, y=0)
    padded = g.add("ImagePadForOutpaint", image=middle, left=quarter, right=quarter, feathering=0)
    inpaint_and_smooth(g, source_clip, models, prompts, padded, padded, "outpainting")


def inpaint_and_smooth(
    g: WorkflowGraph,
    clip: parts.SourceClip,
    models: parts.ChainModels,
    prompts: parts.ChainPrompts,
    pixels: object,
    mask: object,
    task: str,
) -> None:
    """Inpaint the masked part of the frames, then run the chain."""
    frames = parts.inpaint_frames(g, models, prompts, pixels, mask)
    before = parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = parts.smooth_and_decode(g, models, prompts, frames, task)
    parts.save_video(g, video, clip)
    parts.add_comparison(g, clip, before, video, clip.frames)


DEPTH_NET, CANNY_NET = "control_v11f1p_sd15_depth_fp16.safetensors", "control_v11p_sd15_canny_fp16.safetensors"
RECIPES: dict[str, GraphBuilder] = {
    "controlnet_depth_vidrd": lambda g: follow_control(
        g, "VidRD", "mbike-trick", DEPTH_NET, "A person on a motorcycle does a burnout on a frozen lake"
    ),
    "controlnet_canny_zeroscope": lambda g: follow_control(
        g, "zeroscope_v2_576w", "bear", CANNY_NET, "A bear walking through a snow mountain"
    ),
    "t2i_adapter_depth_vidrd": lambda g: follow_control(
        g, "VidRD", "car-turn-2", "t2iadapter_depth_sd15v2.pth", "A red car moves in front of buildings"
    ),
    "instruct_pix2pix_vidrd": lambda g: instruct_pix2pix(
        g, "VidRD", "moonwalk", "Make him on the road", "A man moonwalks on the road"
    ),
    "instruct_pix2pix_zeroscope": lambda g: instruct_pix2pix(
        g, "zeroscope_v2_576w", "train", "Make it minecraft style", "A train is running, minecraft style"
    ),
    "prompt2prompt_refine_vidrd": lambda g: prompt2prompt(g, "A car is moving on the road in the forest"),
    "prompt2prompt_local_blend_vidrd": lambda g: prompt2prompt(g, "A white car is moving on the road", "car"),
    "inpainting_vidrd": inpainting,
    "outpainting_vidrd": outpainting,
}

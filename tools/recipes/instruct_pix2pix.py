"""Edit a clip by an instruction."""

from tools import workflow_parts
from tools.workflow_graph import OutputSlot, WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("instruct_pix2pix")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g)
    editor = load_editor(g)
    texts = workflow_parts.add_prompts(g, models, "a mountain village in deep snow", workflow_parts.DEMO_EDITED_PROMPT)
    add_instruction_edit(
        g, clip, models, editor, texts, g.choose("make it a winter day in deep snow", workflow_parts.DEMO_INSTRUCTION)
    )


def load_editor(g: WorkflowGraph) -> tuple[OutputSlot, OutputSlot]:
    """Add InstructPix2Pix; return its MODEL and CLIP outputs."""
    if g.demo:
        loaded = g.add("BIVDiffDemoModels", "Editing model", variant="instruct_pix2pix")
        return loaded["image_model"], loaded["CLIP"]
    loaded = g.add("CheckpointLoaderSimple", "Editing model", ckpt_name="instruct-pix2pix-00-22000.safetensors")
    return loaded["MODEL"], loaded["CLIP"]


def add_instruction_edit(
    g: WorkflowGraph,
    clip: workflow_parts.SourceClip,
    models: workflow_parts.ChainModels,
    editing: tuple[OutputSlot, OutputSlot],
    texts: workflow_parts.ChainPrompts,
    instruction: str,
    negative: str = "",
) -> None:
    """Edit the frames by an instruction, then run the chain."""
    editor, editor_clip = editing
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    uncond = g.add(
        "CLIPTextEncode", "Negative prompt" if negative else "No instruction", clip=editor_clip, text=negative
    )
    conditioned = g.add(
        "InstructPixToPixConditioning",
        positive=g.add("CLIPTextEncode", "Instruction", clip=editor_clip, text=instruction),
        negative=uncond,
        vae=models.vae,
        pixels=clip.frames,
    )
    chunked = g.add("BIVDiffFrameChunks", model=editor)
    guider = g.add(
        "DualCFGGuider",
        model=chunked,
        cond1=conditioned["positive"],
        cond2=conditioned["negative"],
        negative=uncond,
        cfg_conds=workflow_parts.cfg(g),
        cfg_cond2_negative=1.5,
    )
    g.column()
    frames = g.add(
        "SamplerCustomAdvanced",
        noise=g.add("BIVDiffFrameNoise", seed=42),
        guider=guider,
        sampler=g.add("KSamplerSelect", sampler_name="ddim"),
        sigmas=g.add(
            "BasicScheduler", model=chunked, scheduler=models.scheduler or "simple", steps=workflow_parts.steps(g)
        ),
        latent_image=conditioned["latent"],
    )
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(g, models, texts, frames, "instruct_pix2pix")
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

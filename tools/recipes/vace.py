"""Deflicker frames with Wan VACE, which sees the outlines of the source while it inverts and smooths."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("vace")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.load_own_frames(g, workflow_parts.WAN_SIZE, count=33)
    g.column()
    source = workflow_parts.load_clip(
        g,
        workflow_parts.PACKAGED_CLIP,
        "The source video of your frames",
        workflow_parts.WAN_SIZE,
        stride=1,
        count=33,
    )
    models = workflow_parts.load_wan(g, "wan2.1_vace_1.3B_fp16.safetensors")
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    outlines = workflow_parts.add_canny(g, source.frames)
    size = g.add("GetImageSize", image=clip.frames)
    vace = g.add(
        "WanVaceToVideo",
        "Outlines for the smoother",
        positive=texts.video,
        negative=texts.video_empty,
        vae=models.vae,
        width=size["width"],
        height=size["height"],
        length=size["batch_size"],
        control_video=outlines,
    )
    guided = texts._replace(video=vace["positive"], video_empty=vace["negative"])
    g.column()
    workflow_parts.deflicker_packed_frames(g, clip, models, guided, source=source.frames)

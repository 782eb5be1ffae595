"""Inpaint the area under a moving mask."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("inpainting")
    stride = g.choose(4, 1)
    clip = workflow_parts.source(g, stride=stride)
    models = workflow_parts.load_models(g)
    texts = workflow_parts.add_prompts(g, models, "a red fox on the grass", "a pink heart over a blue sea, patterned")
    g.column()
    mask = workflow_parts.load_clip(
        g,
        g.choose(workflow_parts.PACKAGED_CLIP, "bivdiff_mask.mp4"),
        "Your mask",
        workflow_parts.square_size(g),
        stride=stride,
        count=8,
    ).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    mask = g.add("GrowMask", mask=mask, expand=g.choose(12, 2))
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    frames = workflow_parts.inpaint_frames(g, models, texts, clip.frames, mask)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(g, models, texts, frames, "inpainting")
    soft = g.add(
        "ImageBlur",
        "Feathered edge",
        image=g.add("MaskToImage", mask=mask),
        blur_radius=g.choose(8, 2),
        sigma=g.choose(4.0, 1.0),
    )
    soft = g.add("ImageToMask", image=soft, channel="red")
    video = workflow_parts.paste_back(g, clip.frames, video, soft)
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

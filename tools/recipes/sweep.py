"""Smooth a clip at several mixing ratios; compare them side by side and in a plot."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("sweep")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    ratios = g.add("BIVDiffRatioList", "What to try")
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, workflow_parts.add_canny(g, clip.frames))
    g.column()
    latent = workflow_parts.add_empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = workflow_parts.sample_frames(g, models.image, control["positive"], control["negative"], latent)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    videos = workflow_parts.smooth_and_decode(
        g, models, texts, frames, mixing_ratio=ratios, control=workflow_parts.ImageControl(models.image, control)
    )
    compared = g.add(
        "BIVDiffSweepGrid", images=videos, ratios=ratios, reference_images=before, source_images=clip.frames
    )
    g.add("PreviewImage", "Plot", images=compared["plot"])
    workflow_parts.save_video(g, compared["grid"], clip)
    g.column(width=workflow_parts.COMPARE_WIDTH)
    g.add("BIVDiffCompareVideos", "Frames and each video", before=before, after=videos, fps=clip.fps)

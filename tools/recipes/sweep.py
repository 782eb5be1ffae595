"""A clip at every mixing ratio, side by side and in a plot."""

from tools import workflow_parts
from tools.workflow_graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = workflow_parts.note("sweep")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    texts = workflow_parts.prompts(g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT)
    ratios = g.add("BIVDiffRatioList", "What to try")
    g.group("Stage 1: every frame on its own", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.controlled(g, models, texts, workflow_parts.outlines(g, clip.frames))
    g.column()
    latent = workflow_parts.empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = workflow_parts.sample_frames(g, models.image, control["positive"], control["negative"], latent)
    before = workflow_parts.show(g, "Frame-wise", frames, models.vae)
    videos = workflow_parts.smoothed(g, models, texts, frames, mixing_ratio=ratios, drawn_by=(models.image, control))
    compared = g.add(
        "BIVDiffSweepGrid", images=videos, ratios=ratios, reference_images=before, source_images=clip.frames
    )
    g.add("PreviewImage", "Plot", images=compared["plot"])
    workflow_parts.save(g, compared["grid"], clip)
    g.column(width=workflow_parts.COMPARED)
    g.add("BIVDiffCompareVideos", "Frames and each video", before=before, after=videos, fps=clip.fps)

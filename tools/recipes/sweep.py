"""A clip at every mixing ratio, side by side and in a plot."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("sweep")
    clip = parts.source(g)
    models = parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    texts = parts.prompts(g, models, "a robot made of copper in a snowy street", parts.DEMO_PROMPT)
    ratios = g.add("BIVDiffRatioList", "What to try")
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    control = parts.controlled(g, models, texts, parts.outlines(g, clip.frames))
    g.column()
    latent = parts.empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = parts.sample_frames(g, models.image, control["positive"], control["negative"], latent)
    before = parts.show(g, "Frame-wise", frames, models.vae)
    videos = parts.smoothed(g, models, texts, frames, mixing_ratio=ratios, drawn_by=(models.image, control))
    compared = g.add(
        "BIVDiffSweepGrid", images=videos, ratios=ratios, reference_images=before, source_images=clip.frames
    )
    g.add("PreviewImage", "Plot", images=compared["plot"])
    parts.save(g, compared["grid"], clip)
    g.column(width=parts.COMPARED)
    g.add("BIVDiffCompareVideos", "Frames and each video", before=before, after=videos, fps=clip.fps)

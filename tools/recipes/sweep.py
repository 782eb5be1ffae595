"""A clip at every mixing ratio, side by side and in a plot."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    controlled,
    empty,
    load_models,
    note,
    outlines,
    prompts,
    sample_frames,
    save,
    show,
    smoothed,
    source,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("sweep")
    clip = source(g)
    models = load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    texts = prompts(g, models, "a robot made of copper in a snowy street", DEMO_PROMPT)
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

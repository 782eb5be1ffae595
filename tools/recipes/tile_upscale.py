"""A small clip enlarged, its detail drawn by a tile ControlNet."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    compare,
    controlled,
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
    g.note = note("tile_upscale")
    clip = source(g, size=g.choose((256, 256), (32, 32)))
    models = load_models(g, control_net="control_v11f1e_sd15_tile_fp16.safetensors")
    texts = prompts(g, models, "a sharp photograph, fine detail", DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    large = g.add("ImageScaleBy", image=clip.frames, upscale_method="bicubic", scale_by=2.0)
    control = controlled(g, models, texts, outlines(g, large) if g.demo else large)
    encoded = g.add("VAEEncode", pixels=large, vae=models.vae)
    g.column()
    frames = sample_frames(g, models.image, control["positive"], control["negative"], encoded, denoise=0.5)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames, strength=0.6, drawn_by=(models.image, control))
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)

"""A small clip enlarged, its detail drawn by a tile ControlNet."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("tile_upscale")
    clip = parts.source(g, size=g.choose((256, 256), (32, 32)))
    models = parts.load_models(g, control_net="control_v11f1e_sd15_tile_fp16.safetensors")
    texts = parts.prompts(g, models, "a sharp photograph, fine detail", parts.DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    large = g.add("ImageScaleBy", image=clip.frames, upscale_method="bicubic", scale_by=2.0)
    control = parts.controlled(g, models, texts, parts.outlines(g, large) if g.demo else large)
    encoded = g.add("VAEEncode", pixels=large, vae=models.vae)
    g.column()
    frames = parts.sample_frames(g, models.image, control["positive"], control["negative"], encoded, denoise=0.5)
    before = parts.show(g, "Frame-wise", frames, models.vae)
    video = parts.smoothed(g, models, texts, frames, strength=0.6, drawn_by=(models.image, control))
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, clip.frames)

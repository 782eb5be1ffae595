"""A clip in the style of a LoRA."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("style_lora")
    clip = parts.source(g)
    models = parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    style = g.choose("your_style.safetensors", "bivdiff_black_and_white.safetensors")
    styled = g.add("LoraLoaderModelOnly", model=models.image, lora_name=style)["MODEL"]
    texts = parts.prompts(g, models, "a watercolor painting of a city street", "a square")
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    control = parts.controlled(g, models, texts, parts.outlines(g, clip.frames))
    g.column()
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = parts.sample_frames(g, styled, control["positive"], control["negative"], encoded, denoise=0.8)
    before = parts.show(g, "Frame-wise", frames, models.vae)
    drawn_by = styled, control
    video = parts.smoothed(g, models, texts, frames, mixing_ratio=g.choose(0.5, 0.2), in_demo=0.5, drawn_by=drawn_by)
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, clip.frames)

"""A clip in the style of a LoRA."""

from tools.graph import Graph
from tools.parts import (
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
    g.note = note("style_lora")
    clip = source(g)
    models = load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    style = g.choose("your_style.safetensors", "bivdiff_black_and_white.safetensors")
    styled = g.add("LoraLoaderModelOnly", model=models.image, lora_name=style)["MODEL"]
    texts = prompts(g, models, "a watercolor painting of a city street", "a square")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    control = controlled(g, models, texts, outlines(g, clip.frames))
    g.column()
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = sample_frames(g, styled, control["positive"], control["negative"], encoded, denoise=0.8)
    before = show(g, "Frame-wise", frames, models.vae)
    drawn_by = styled, control
    video = smoothed(g, models, texts, frames, mixing_ratio=g.choose(0.5, 0.2), in_demo=0.5, drawn_by=drawn_by)
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)

"""Frames of any origin enter at the inversion."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    PACKAGED_CLIP,
    SOURCE_COLOUR,
    compare,
    load_clip,
    load_models,
    note,
    prompts,
    save,
    smoothed,
    square,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("own_frames")
    g.group("Source and models", SOURCE_COLOUR)
    clip = load_clip(
        g, g.choose(PACKAGED_CLIP, "bivdiff_flicker.mp4"), "Your frames as a video", square(g), stride=1, count=8
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    models = load_models(g)
    texts = prompts(g, models, "a robot made of copper in a snowy street", DEMO_PROMPT)
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    video = smoothed(g, models, texts, frames)
    save(g, video, clip)
    compare(g, clip, clip.frames, video)

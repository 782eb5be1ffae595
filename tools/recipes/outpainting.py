"""A clip's picture continued beyond its edges."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    compare,
    filled,
    load_models,
    note,
    paste_back,
    prompts,
    save,
    show,
    smoothed,
    source,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("outpainting")
    clip = source(g, size=g.choose((256, 512), (32, 64)))
    models = load_models(g)
    texts = prompts(g, models, "a mountain road in autumn", DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    margin = g.choose(128, 16)
    padded = g.add("ImagePadForOutpaint", image=clip.frames, left=margin, right=margin, feathering=g.choose(24, 4))
    g.add("PreviewImage", "Padded", images=padded)
    g.column()
    frames = filled(g, models, texts, padded, padded)
    before = show(g, "Frame-wise", frames, models.vae)
    video = paste_back(g, padded, smoothed(g, models, texts, frames, "outpainting"), padded)
    save(g, video, clip)
    compare(g, clip, before, video, padded)

"""A clip's picture continued beyond its edges."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("outpainting")
    clip = parts.source(g, size=g.choose((256, 512), (32, 64)))
    models = parts.load_models(g)
    texts = parts.prompts(g, models, "a mountain road in autumn", parts.DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    margin = g.choose(128, 16)
    padded = g.add("ImagePadForOutpaint", image=clip.frames, left=margin, right=margin, feathering=g.choose(24, 4))
    g.add("PreviewImage", "Padded", images=padded)
    g.column()
    frames = parts.filled(g, models, texts, padded, padded)
    before = parts.show(g, "Frame-wise", frames, models.vae)
    video = parts.paste_back(g, padded, parts.smoothed(g, models, texts, frames, "outpainting"), padded)
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, padded)

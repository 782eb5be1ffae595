"""A clip of any length repainted, at the video model's own size and in windows."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("zeroscope")
    clip = parts.source(g, size=g.choose((576, 320), (64, 64)), stride=1, count=g.choose(48, 8))
    models = parts.load_models(g)._replace(windows=g.choose((16, 4), (6, 3)))
    texts = parts.prompts(g, models, "a watercolor painting of a city street", parts.DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = parts.sample_frames(
        g, models.image, parts.for_image(g, models, texts.text), texts.image_empty, encoded, denoise=0.6
    )
    before = parts.show(g, "Frame-wise", frames, models.vae)
    video = parts.smoothed(g, models, texts, frames)
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, clip.frames)

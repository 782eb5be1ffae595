"""A clip of any length repainted, at the video model's own size and in windows."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    compare,
    for_image,
    load_models,
    note,
    prompts,
    sample_frames,
    save,
    show,
    smoothed,
    source,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("zeroscope")
    clip = source(g, size=g.choose((576, 320), (64, 64)), stride=1, count=g.choose(48, 8))
    models = load_models(g)._replace(windows=g.choose((16, 4), (6, 3)))
    texts = prompts(g, models, "a watercolor painting of a city street", DEMO_PROMPT)
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = sample_frames(g, models.image, for_image(g, models, texts.text), texts.image_empty, encoded, denoise=0.6)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames)
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)

"""Every clip of a folder, one after another, through the chain for frames of any origin."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    SOURCE_COLOUR,
    compare,
    load_models,
    note,
    prompts,
    save,
    smoothed,
    square,
    taken,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("folder")
    g.group("Source and models", SOURCE_COLOUR)
    clips = g.add("LoadVideoDataSetFromFolder", "Your folder of clips", folder=g.choose("your_clips", "bivdiff_clips"))
    clip = taken(g, clips, square(g), stride=1, count=g.choose(0, 8))
    g.add("PreviewImage", "Source", images=clip.frames)
    models = load_models(g)._replace(windows=g.choose((16, 4), (6, 3)))
    texts = prompts(g, models, "a city street", DEMO_PROMPT)
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    video = smoothed(g, models, texts, frames)
    save(g, video, clip)
    compare(g, clip, clip.frames, video)

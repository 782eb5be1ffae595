"""Every clip of a folder, one after another, through the chain for frames of any origin."""

from tools.graph import Graph
from tools.parts import SOURCE_COLOUR, from_frames, load_models, note, square, taken


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("folder")
    g.group("Source and models", SOURCE_COLOUR)
    clips = g.add("LoadVideoDataSetFromFolder", "Your folder of clips", folder=g.choose("your_clips", "bivdiff_clips"))
    clip = taken(g, clips, square(g), stride=1, count=g.choose(0, 8))
    g.add("PreviewImage", "Source", images=clip.frames)
    from_frames(g, clip, load_models(g)._replace(windows=g.choose((16, 4), (6, 3))), "a city street")

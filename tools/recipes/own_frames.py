"""Frames of any origin enter at the inversion."""

from tools.graph import Graph
from tools.parts import PACKAGED_CLIP, SOURCE_COLOUR, from_frames, load_clip, load_models, note, square


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("own_frames")
    g.group("Source and models", SOURCE_COLOUR)
    clip = load_clip(
        g, g.choose(PACKAGED_CLIP, "bivdiff_flicker.mp4"), "Your frames as a video", square(g), stride=1, count=8
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    from_frames(g, clip, load_models(g), "a robot made of copper in a snowy street")

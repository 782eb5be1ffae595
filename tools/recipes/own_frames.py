"""Frames of any origin enter at the inversion."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("own_frames")
    g.group("Source and models", parts.SOURCE_COLOUR)
    clip = parts.load_clip(
        g,
        g.choose(parts.PACKAGED_CLIP, "bivdiff_flicker.mp4"),
        "Your frames as a video",
        parts.square(g),
        stride=1,
        count=8,
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    parts.from_frames(g, clip, parts.load_models(g), "a robot made of copper in a snowy street")

"""A new video with a clip's outlines, by an adapter much smaller than a ControlNet."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("t2i_adapter")
    parts.from_outlines(
        g, parts.source(g), parts.load_models(g, "t2iadapter_canny_sd15v2.pth", "t2i_adapter"), "t2i_adapter"
    )

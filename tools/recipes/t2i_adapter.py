"""A new video with a clip's outlines, by an adapter much smaller than a ControlNet."""

from tools.graph import Graph
from tools.parts import from_outlines, load_models, note, source


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("t2i_adapter")
    from_outlines(g, source(g), load_models(g, "t2iadapter_canny_sd15v2.pth", "t2i_adapter"), "t2i_adapter")

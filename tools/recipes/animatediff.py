"""A new video with a clip's outlines, both branches on one SD 1.5."""

from tools.graph import Graph
from tools.parts import from_outlines, load_models, note, source


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("animatediff")
    clip = source(g, count=g.choose(16, 8))
    models = load_models(g, "control_v11p_sd15_canny_fp16.safetensors", animatediff=True)
    from_outlines(g, clip, models, "custom")

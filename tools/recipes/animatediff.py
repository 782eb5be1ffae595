"""A new video with a clip's outlines, both branches on one SD 1.5."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("animatediff")
    clip = parts.source(g, count=g.choose(16, 8))
    models = parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors", animatediff=True)
    parts.from_outlines(g, clip, models, "custom")

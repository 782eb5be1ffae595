"""A new video with a clip's outlines; depth and pose by another preprocessor."""

from tools.graph import Graph
from tools.parts import from_outlines, load_models, note, source


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("controlnet")
    from_outlines(g, source(g), load_models(g, "control_v11p_sd15_canny_fp16.safetensors"), "controlnet")

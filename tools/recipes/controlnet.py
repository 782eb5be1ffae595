"""A new video with a clip's outlines; depth and pose by another preprocessor."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("controlnet")
    parts.from_outlines(
        g, parts.source(g), parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors"), "controlnet"
    )

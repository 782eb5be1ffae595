"""A new video with a clip's outlines; depth and pose by another preprocessor."""

from tools import workflow_parts
from tools.workflow_graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = workflow_parts.note("controlnet")
    workflow_parts.from_outlines(
        g,
        workflow_parts.source(g),
        workflow_parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors"),
        "controlnet",
    )

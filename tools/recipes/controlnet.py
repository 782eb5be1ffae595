"""A new video from a clip's outlines; another preprocessor gives depth or pose."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("controlnet")
    workflow_parts.follow_outlines(
        g,
        workflow_parts.source(g),
        workflow_parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors"),
        "controlnet",
    )

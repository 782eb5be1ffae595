"""A new video with a clip's outlines, both branches on one SD 1.5."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def draw(g: WorkflowGraph) -> None:
    """Draw the graph."""
    g.note = workflow_parts.read_note("animatediff")
    clip = workflow_parts.source(g, count=g.choose(16, 8))
    models = workflow_parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors", animatediff=True)
    workflow_parts.follow_outlines(g, clip, models, "custom")

"""A new video from a clip's outlines, with an adapter much smaller than a ControlNet."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("t2i_adapter")
    workflow_parts.follow_outlines(
        g,
        workflow_parts.source(g),
        workflow_parts.load_models(g, "t2iadapter_canny_sd15v2.pth", "t2i_adapter"),
        "t2i_adapter",
    )

"""A new video from a clip's outlines; SD 1.5 is both the image model and, with AnimateDiff, the video model."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("animatediff")
    clip = workflow_parts.source(g, count=g.choose(16, 8))
    models = workflow_parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors", animatediff=True)
    workflow_parts.follow_outlines(g, clip, models, "custom")

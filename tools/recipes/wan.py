"""Deflicker frames from any source; one flow model inverts for both branches."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("wan")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.load_own_frames(g, g.choose(workflow_parts.WAN_SIZE, (64, 64)), g.choose(33, 5))
    models = workflow_parts.load_wan(g)
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    workflow_parts.deflicker_packed_frames(g, clip, models, texts)

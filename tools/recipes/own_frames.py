"""Deflicker frames from any source: the chain starts at the inversion."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("own_frames")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.load_clip(
        g,
        g.choose(workflow_parts.PACKAGED_CLIP, "bivdiff_flicker.mp4"),
        "Your frames as a video",
        workflow_parts.square_size(g),
        stride=1,
        count=8,
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    workflow_parts.deflicker_frames(g, clip, workflow_parts.load_models(g), "a robot made of copper in a snowy street")

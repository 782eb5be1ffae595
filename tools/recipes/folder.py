"""Deflicker every clip of a folder, one after another."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("folder")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clips = g.add("LoadVideoDataSetFromFolder", "Your folder of clips", folder=g.choose("your_clips", "bivdiff_clips"))
    clip = workflow_parts.add_frame_selection(g, clips, workflow_parts.square_size(g), stride=1, count=g.choose(0, 8))
    g.add("PreviewImage", "Source", images=clip.frames)
    workflow_parts.deflicker_frames(
        g, clip, workflow_parts.load_models(g)._replace(windows=g.choose((16, 4), (6, 3))), "a city street"
    )

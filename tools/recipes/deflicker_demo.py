"""The first template: the chain as one node, with the demo models and their clip.

The page shows the whole graph when it opens, on a laptop too. So it is small, and the note is where the minimap can
hide a part of it, but not of the result.
"""

from tools import workflow_parts
from tools.recipes.one_node import add_one_node
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note, g.note_width, g.note_is_right = workflow_parts.read_note("deflicker_demo"), 280, True
    g.group("Clip and models", workflow_parts.SOURCE_COLOUR, width=240)
    video = g.add("BIVDiffDemoClip", frames=8)
    clip = g.add("GetVideoComponents", collapsed=True, video=video)
    outlines = g.add("Canny", collapsed=True, image=clip["images"], low_threshold=0.3, high_threshold=0.6)
    add_one_node(g, True, workflow_parts.load_demo_models(g), outlines, clip["fps"], width=290)

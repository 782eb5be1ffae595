"""Smooth a part of a video again, and put it back between the frames that stay."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("part_again")
    first, count = g.choose((24, 24), (2, 4))
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    file = g.choose(workflow_parts.PACKAGED_CLIP, "bivdiff_flicker.mp4")
    clip = workflow_parts.load_clip(g, file, "Your video", workflow_parts.square_size(g), stride=1, count=0)
    g.add("PreviewImage", "Source", images=clip.frames)
    g.column()
    before = g.add("ImageFromBatch", "Frames before the part", image=clip.frames, batch_index=0, length=first)
    part = g.add("ImageFromBatch", "The part", image=clip.frames, batch_index=first, length=count)
    after = g.add("ImageFromBatch", "Frames after the part", image=clip.frames, batch_index=first + count, length=4096)
    models = workflow_parts.load_models(g)
    again = workflow_parts.smooth_own_frames(g, part, models, "a robot made of copper in a snowy street")
    whole = g.add("BatchImagesNode", "Put it back", images=[before, again, after])
    workflow_parts.save_video(g, whole, clip)
    workflow_parts.add_comparison(g, clip, clip.frames, whole)

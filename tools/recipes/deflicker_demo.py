"""The first template: the chain as one node, with the demo models and their clip.

The page shows the whole graph when it opens, on a laptop too. So it is small, and the note is where the minimap can
hide a part of it, but not of the result.
"""

from tools import workflow_parts
from tools.recipes.one_node import build_one_node
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note, g.note_width, g.note_is_right = workflow_parts.read_note("deflicker_demo"), 280, True
    bivdiff = build_one_node(g.object_info, demo=True)
    bivdiff.add_definition(g)
    g.group("Clip and models", workflow_parts.SOURCE_COLOUR, width=240)
    video = g.add("BIVDiffDemoClip", frames=8)
    clip = g.add("GetVideoComponents", collapsed=True, video=video)
    outlines = g.add("Canny", collapsed=True, image=clip["images"], low_threshold=0.3, high_threshold=0.6)
    demo = g.add("BIVDiffDemoModels")
    g.group("Generate, then smooth", workflow_parts.FRAMES_COLOUR, width=290)
    result = g.add(
        bivdiff.id,
        "BIVDiff",
        image_model=demo["image_model"],
        video_model=demo["video_model"],
        clip=demo,
        video_clip=demo,
        vae=demo,
        control_net=demo,
        control_images=outlines,
        steps=workflow_parts.FAST_STEPS,
        structure_pass_steps=workflow_parts.FAST_STRUCTURE_PASS_STEPS,
    )
    g.group("Before and after", workflow_parts.SMOOTHING_COLOUR, width=440)
    g.add("BIVDiffCompareVideos", "Before and after", before=result["frames"], after=result["video"], fps=clip["fps"])
    video = g.add("CreateVideo", collapsed=True, images=result["video"], fps=clip["fps"])
    g.add("SaveVideo", "Smoothed video", collapsed=True, video=video, filename_prefix="bivdiff_deflicker_demo")

"""A new video from a clip's outlines: the chain as one node, with real models."""

from tools import workflow_parts
from tools.recipes.one_node import build_one_node
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note, g.note_width = workflow_parts.read_note("controlnet_node"), 320
    bivdiff = build_one_node(g.object_info, demo=g.demo)
    bivdiff.add_definition(g)
    frames = g.choose(16, 8)
    g.group("Clip and models", workflow_parts.SOURCE_COLOUR, width=260)
    demo_clip = g.add("BIVDiffDemoClip", "Your clip: put Load Video here", frames=frames)
    size = g.choose((576, 320), (64, 64))
    clip = workflow_parts.add_frame_selection(g, demo_clip, size, stride=1, count=frames)
    outlines = workflow_parts.add_canny(g, clip.frames)
    models = workflow_parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    g.group("Generate, then smooth", workflow_parts.FRAMES_COLOUR, width=300)
    result = g.add(
        bivdiff.id,
        "BIVDiff",
        image_model=models.image,
        video_model=models.video,
        clip=models.image_clip,
        video_clip=models.video_clip,
        vae=models.vae,
        control_net=models.control_net,
        control_images=outlines,
        prompt=g.choose("a robot made of copper in a snowy street", "a yellow sailboat, patterned"),
        steps=g.choose(workflow_parts.FAST_STEPS, 25),
        structure_pass_steps=g.choose(workflow_parts.FAST_STRUCTURE_PASS_STEPS, 9),
    )
    g.group("Before and after", workflow_parts.SMOOTHING_COLOUR, width=440)
    compared = {"before": result["frames"], "after": result["video"], "fps": clip.fps, "audio": clip.audio}
    g.add("BIVDiffCompareVideos", "Before and after", **compared)
    video = g.add("CreateVideo", collapsed=True, images=result["video"], fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", collapsed=True, video=video, filename_prefix=f"bivdiff_{g.name}")

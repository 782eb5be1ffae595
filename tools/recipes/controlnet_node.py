"""A new video from a clip's outlines: the chain as one node, with real models."""

from tools import workflow_parts
from tools.recipes.one_node import add_one_node
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note, g.note_width = workflow_parts.read_note("controlnet_node"), 320
    frames = g.choose(16, 8)
    g.group("Clip and models", workflow_parts.SOURCE_COLOUR, width=260)
    demo_clip = g.add("BIVDiffDemoClip", "Your clip: put Load Video here", frames=frames)
    size = g.choose((576, 320), (64, 64))
    clip = workflow_parts.add_frame_selection(g, demo_clip, size, stride=1, count=frames)
    outlines = workflow_parts.add_canny(g, clip.frames)
    models = workflow_parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    prompt = g.choose("a robot made of copper in a snowy street", workflow_parts.DEMO_THING)
    add_one_node(g, g.demo, models, outlines, clip.fps, clip.audio, prompt=prompt)

"""Extend a clip's picture beyond its edges."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("outpainting")
    clip = workflow_parts.source(g, size=g.choose((256, 512), (32, 64)))
    models = workflow_parts.load_models(g)
    texts = workflow_parts.add_prompts(g, models, "a mountain road in autumn", workflow_parts.DEMO_PROMPT)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    margin = g.choose(128, 16)
    padded = g.add("ImagePadForOutpaint", image=clip.frames, left=margin, right=margin, feathering=g.choose(24, 4))
    image, mask = padded["IMAGE"], padded["MASK"]
    g.add("PreviewImage", "Padded", images=image)
    g.column()
    frames = workflow_parts.inpaint_frames(g, models, texts, image, mask)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(g, models, texts, frames, "outpainting")
    video = workflow_parts.paste_back(g, image, video, mask)
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, image)

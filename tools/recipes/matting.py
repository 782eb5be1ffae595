"""A clip's subject cut out, the mattes made steady."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("matting")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g)
    texts = workflow_parts.add_prompts(
        g, models, "a white silhouette on a black background", "a white sailboat over a blue sky"
    )
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    if g.demo:  # in the packaged clip only the sailboat is bright
        matte = g.add("ThresholdMask", mask=g.add("ImageToMask", image=clip.frames, channel="green"), value=0.5)
    else:
        remover = g.add("LoadBackgroundRemovalModel", bg_removal_name="birefnet.safetensors")
        matte = g.add("RemoveBackground", bg_removal_model=remover, image=clip.frames)
    mattes = g.add("MaskToImage", mask=matte)
    g.add("PreviewImage", "Frame-wise", images=mattes)
    frames = g.add("VAEEncode", pixels=mattes, vae=models.vae)
    smoothed = workflow_parts.smooth_and_decode(g, models, texts, frames, strength=workflow_parts.OWN_FRAMES_STRENGTH)
    workflow_parts.save_video(g, smoothed, clip)
    screen = workflow_parts.add_empty(g, "EmptyImage", "Green screen", like=clip.frames, color=0x00B140)
    mask = g.add("ImageToMask", image=smoothed, channel="red")
    cut = g.add("ImageCompositeMasked", "Subject on green", destination=screen, source=clip.frames, mask=mask)
    g.add("PreviewImage", "Cut out", images=cut)
    workflow_parts.add_comparison(g, clip, mattes, smoothed, clip.frames)

"""The whole chain on the demo models, with a preview of every stage."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.demo = True  # also in the shipped workflow
    g.note = workflow_parts.read_note("stages_demo")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.add_frame_selection(
        g, g.add("BIVDiffDemoClip"), workflow_parts.square_size(g), stride=1, count=8
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    models = workflow_parts.load_models(g, control_net="the demo models'")
    texts = workflow_parts.add_prompts(g, models, "", workflow_parts.DEMO_THING)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, workflow_parts.add_canny(g, clip.frames))
    g.column()
    latent = workflow_parts.add_empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    frames = workflow_parts.sample_frames(g, models.image, control["positive"], control["negative"], latent, seed=0)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    lent = workflow_parts.ImageControl(models.image, control)
    smoothed = workflow_parts.invert_and_smooth(
        g, models, texts, frames, mixing_ratio=1.0, max_demo_strength=1.0, control=lent
    )
    video = workflow_parts.decode_and_preview(g, "Smoothed", smoothed, models.vae)
    g.column()
    large = g.add("ImageScaleBy", "Enlarge to watch", image=video, upscale_method="bicubic", scale_by=4.0)
    saved = g.add("CreateVideo", images=large, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=saved, filename_prefix="bivdiff_demo")
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

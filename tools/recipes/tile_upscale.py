"""Enlarge a small clip; a tile ControlNet adds detail."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("tile_upscale")
    clip = workflow_parts.source(g, size=g.choose((256, 256), (32, 32)))
    models = workflow_parts.load_models(g, control_net="control_v11f1e_sd15_tile_fp16.safetensors")
    texts = workflow_parts.add_prompts(g, models, "a sharp photograph, fine detail", workflow_parts.DEMO_PROMPT)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    large = g.add("ImageScaleBy", image=clip.frames, upscale_method="bicubic", scale_by=2.0)
    control = workflow_parts.apply_control(g, models, texts, workflow_parts.add_canny(g, large) if g.demo else large)
    encoded = g.add("VAEEncode", pixels=large, vae=models.vae)
    g.column()
    frames = workflow_parts.sample_frames(
        g, models.image, control["positive"], control["negative"], encoded, denoise=0.5
    )
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(
        g, models, texts, frames, strength=0.6, control=workflow_parts.ImageControl(models.image, control)
    )
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

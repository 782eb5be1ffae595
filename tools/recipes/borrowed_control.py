"""A video from noise along a clip's outlines: the video model borrows the ControlNet of the image model."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("borrowed_control")
    clip = workflow_parts.source(g, size=g.choose((576, 320), (64, 64)), stride=g.choose(2, 1), count=g.choose(16, 8))
    models = workflow_parts.load_models(g, "control_v11p_sd15_canny_fp16.safetensors")
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("The image model's control", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, workflow_parts.add_canny(g, clip.frames))
    borrowed = workflow_parts.borrow_control(g, models, models.image, control)
    g.group("A video from noise", workflow_parts.SMOOTHING_COLOUR)
    sampled = g.add(
        "KSampler",
        "Video from noise",
        model=borrowed,
        positive=texts.video,
        negative=texts.video_empty,
        latent_image=workflow_parts.add_empty(g, "EmptyLatentImage", "Empty frames", clip.frames),
        seed=42,
        steps=25,
        cfg=g.choose(7.5, 2.0),
        sampler_name="ddim",
        scheduler="simple",
    )
    video = g.add("VAEDecode", samples=sampled, vae=models.vae)
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, clip.frames, video)

"""Transfer the style of a LoRA to a clip."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("style_lora")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g, control_net="control_v11p_sd15_canny_fp16.safetensors")
    style = g.choose("your_style.safetensors", "bivdiff_ink.safetensors")
    styled = g.add("LoraLoaderModelOnly", model=models.image, lora_name=style)["MODEL"]
    texts = workflow_parts.add_prompts(g, models, "a watercolor painting of a city street", "a sailboat")
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, workflow_parts.add_canny(g, clip.frames))
    g.column()
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = workflow_parts.sample_frames(
        g, styled, control["positive"], control["negative"], encoded, denoise=g.choose(0.8, 0.6)
    )
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(
        g,
        models,
        texts,
        frames,
        mixing_ratio=g.choose(0.5, 0.2),
        max_demo_strength=0.5,
        control=workflow_parts.ImageControl(styled, control),
    )
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

"""Save inversions on one day, blend and smooth them on another. The second part is muted."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph

PREFIXES = {"image model": "latents/BIVDiff_image", "video model": "latents/BIVDiff_video"}


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("saved_inversion")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    file = g.choose(workflow_parts.PACKAGED_CLIP, "bivdiff_flicker.mp4")
    clip = workflow_parts.load_clip(g, file, "Your frames as a video", workflow_parts.square_size(g), stride=1, count=8)
    g.add("PreviewImage", "Source", images=clip.frames)
    models = workflow_parts.load_models(g)
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    g.group("Stage 2: invert and save", workflow_parts.INVERSION_COLOUR)
    strength = workflow_parts.OWN_FRAMES_STRENGTH
    inverted = workflow_parts.invert_both(g, models, texts, frames, strength)
    g.column()
    for (model, prefix), latent in zip(PREFIXES.items(), inverted, strict=True):
        g.add("BIVDiffSaveLatent", f"Save ({model})", latent=latent, filename_prefix=prefix)
    g.group("Stage 3: load and smooth another day (muted)", workflow_parts.SMOOTHING_COLOUR, muted=True)
    image, video = (
        g.add("BIVDiffLoadLatent", f"Load ({model})", latent=f"{prefix}_00001_.latent [output]")
        for model, prefix in PREFIXES.items()
    )
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    smoothed = workflow_parts.denoise_mixed(g, models, texts, mixed, strength)
    g.column()
    decoded = g.add("VAEDecode", samples=smoothed, vae=models.vae)
    workflow_parts.save_video(g, decoded, clip)
    workflow_parts.add_comparison(g, clip, clip.frames, decoded)

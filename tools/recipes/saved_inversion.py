"""Inversions saved on one day, mixed and smoothed on another; what is for the other day is muted."""

from tools import parts
from tools.graph import Graph

PREFIXES = {"image model": "latents/BIVDiff_image", "video model": "latents/BIVDiff_video"}


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("saved_inversion")
    g.group("Source and models", parts.SOURCE_COLOUR)
    file = g.choose(parts.PACKAGED_CLIP, "bivdiff_flicker.mp4")
    clip = parts.load_clip(g, file, "Your frames as a video", parts.square(g), stride=1, count=8)
    g.add("PreviewImage", "Source", images=clip.frames)
    models = parts.load_models(g)
    texts = parts.prompts(g, models, "a robot made of copper in a snowy street", parts.DEMO_PROMPT)
    g.group("Stage 1: your frames", parts.FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    g.group("Stage 2: inverted and saved", parts.INVERSION_COLOUR)
    both = parts.inverted(g, models, texts, frames, parts.OWN_STRENGTH)
    g.column()
    for (whose, prefix), latent in zip(PREFIXES.items(), both, strict=True):
        g.add("BIVDiffSaveLatent", f"Save ({whose})", latent=latent, filename_prefix=prefix)
    g.group("Stage 3: another day, loaded and smoothed (muted)", parts.SMOOTHING_COLOUR, muted=True)
    image, video = (
        g.add("BIVDiffLoadLatent", f"Load ({whose})", latent=f"{prefix}_00001_.latent [output]")
        for whose, prefix in PREFIXES.items()
    )
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    smoothed = parts.denoised(g, models, texts, mixed)
    g.column()
    made = g.add("VAEDecode", samples=smoothed, vae=models.vae)
    parts.save(g, made, clip)
    parts.compare(g, clip, clip.frames, made)

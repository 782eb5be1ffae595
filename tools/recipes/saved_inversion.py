"""Inversions saved on one day, mixed and smoothed on another; what is for the other day is muted."""

from tools.graph import Graph
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    INVERSION_COLOUR,
    PACKAGED_CLIP,
    SMOOTHING_COLOUR,
    SOURCE_COLOUR,
    compare,
    denoised,
    inverted,
    load_clip,
    load_models,
    note,
    prompts,
    save,
    square,
)

PREFIXES = {"image model": "latents/BIVDiff_image", "video model": "latents/BIVDiff_video"}


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("saved_inversion")
    g.group("Source and models", SOURCE_COLOUR)
    file = g.choose(PACKAGED_CLIP, "bivdiff_flicker.mp4")
    clip = load_clip(g, file, "Your frames as a video", square(g), stride=1, count=8)
    g.add("PreviewImage", "Source", images=clip.frames)
    models = load_models(g)
    texts = prompts(g, models, "a robot made of copper in a snowy street", DEMO_PROMPT)
    g.group("Stage 1: your frames", FRAMES_COLOUR)
    frames = g.add("VAEEncode", "Your frames", pixels=clip.frames, vae=models.vae)
    g.group("Stage 2: inverted and saved", INVERSION_COLOUR)
    both = inverted(g, models, texts, frames)
    g.column()
    for (whose, prefix), latent in zip(PREFIXES.items(), both, strict=True):
        g.add("BIVDiffSaveLatent", f"Save ({whose})", latent=latent, filename_prefix=prefix)
    g.group("Stage 3: another day, loaded and smoothed (muted)", SMOOTHING_COLOUR, muted=True)
    image, video = (
        g.add("BIVDiffLoadLatent", f"Load ({whose})", latent=f"{prefix}_00001_.latent [output]")
        for whose, prefix in PREFIXES.items()
    )
    mixed = g.add("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    smoothed = denoised(g, models, texts, mixed)
    g.column()
    made = g.add("VAEDecode", samples=smoothed, vae=models.vae)
    save(g, made, clip)
    compare(g, clip, clip.frames, made)

"""The whole chain on the demo models, every stage to be looked at."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.demo = True  # as shipped too
    g.note = parts.note("stages_demo")
    g.group("Source and models", parts.SOURCE_COLOUR)
    clip = parts.taken(g, g.add("BIVDiffDemoClip"), parts.square(g), stride=1, count=8)
    g.add("PreviewImage", "Source", images=clip.frames)
    models = parts.load_models(g, control_net="the demo models'")
    texts = parts.prompts(g, models, "", "a blue square, patchy")
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    control = parts.controlled(g, models, texts, parts.outlines(g, clip.frames))
    g.column()
    latent = parts.empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    drawn = parts.sample_frames(g, models.image, control["positive"], control["negative"], latent, seed=0)
    before = parts.show(g, "Frame-wise", drawn, models.vae)
    smoothed = parts.smooth(g, models, texts, drawn, mixing_ratio=1.0, in_demo=1.0)
    parts.show(g, "No structure pass", smoothed, models.vae)
    video = parts.show(g, "Smoothed", parts.structure_pass(g, models, smoothed, models.image, control), models.vae)
    g.column()
    large = g.add("ImageScaleBy", "Enlarge to watch", image=video, upscale_method="bicubic", scale_by=4.0)
    saved = g.add("CreateVideo", images=large, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=saved, filename_prefix="bivdiff_demo")
    parts.compare(g, clip, before, video, clip.frames)

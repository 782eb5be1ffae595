"""The whole chain on the demo models, every stage to be looked at."""

from tools.graph import Graph
from tools.parts import (
    FRAMES_COLOUR,
    compare,
    controlled,
    empty,
    load_models,
    note,
    outlines,
    prompts,
    sample_frames,
    show,
    smooth,
    source,
    structure_pass,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.demo = True  # as shipped too
    g.note = note("stages_demo")
    clip = source(g)
    models = load_models(g, control_net="the demo models'")._replace(solver="ddim")
    texts = prompts(g, models, "", "a blue square, patchy")
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    control = controlled(g, models, texts, outlines(g, clip.frames))
    g.column()
    latent = empty(g, "EmptyLatentImage", "One empty latent per frame", like=clip.frames)
    drawn = sample_frames(g, models.image, control["positive"], control["negative"], latent, seed=0)
    before = show(g, "Frame-wise", drawn, models.vae)
    smoothed = smooth(g, models, texts, drawn, mixing_ratio=1.0, in_demo=1.0, said=texts.video)
    show(g, "No structure pass", smoothed, models.vae)
    video = show(g, "Smoothed", structure_pass(g, models, smoothed, models.image, control), models.vae)
    g.column()
    large = g.add("ImageScaleBy", "Enlarge to watch", image=video, upscale_method="bicubic", scale_by=4.0)
    saved = g.add("CreateVideo", images=large, fps=clip.fps, audio=clip.audio)
    g.add("SaveVideo", "Smoothed video", video=saved, filename_prefix="bivdiff_demo")
    compare(g, clip, before, video, clip.frames)

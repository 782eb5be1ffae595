"""What a moving mask covers is drawn anew."""

from tools.graph import Graph
from tools.parts import (
    FRAMES_COLOUR,
    PACKAGED_CLIP,
    compare,
    filled,
    load_clip,
    load_models,
    note,
    paste_back,
    prompts,
    save,
    show,
    smoothed,
    source,
    square,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("inpainting")
    stride = g.choose(4, 1)
    clip = source(g, stride=stride)
    models = load_models(g)
    texts = prompts(g, models, "a red fox on the grass", "a red circle on a yellow background, patchy")
    g.column()
    mask = load_clip(
        g, g.choose(PACKAGED_CLIP, "bivdiff_mask.mp4"), "Your mask", square(g), stride=stride, count=8
    ).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    mask = g.add("GrowMask", mask=mask, expand=g.choose(12, 2))
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    frames = filled(g, models, texts, clip.frames, mask)
    before = show(g, "Frame-wise", frames, models.vae)
    video = smoothed(g, models, texts, frames, "inpainting")
    soft = g.add(
        "ImageBlur",
        "Feathered edge",
        image=g.add("MaskToImage", mask=mask),
        blur_radius=g.choose(8, 2),
        sigma=g.choose(4.0, 1.0),
    )
    soft = g.add("ImageToMask", image=soft, channel="red")
    video = paste_back(g, clip.frames, video, soft)
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)

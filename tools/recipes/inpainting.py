"""What a moving mask covers is drawn anew."""

from tools import parts
from tools.graph import Graph


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("inpainting")
    stride = g.choose(4, 1)
    clip = parts.source(g, stride=stride)
    models = parts.load_models(g)
    texts = parts.prompts(g, models, "a red fox on the grass", "a red circle on a yellow background, patchy")
    g.column()
    mask = parts.load_clip(
        g, g.choose(parts.PACKAGED_CLIP, "bivdiff_mask.mp4"), "Your mask", parts.square(g), stride=stride, count=8
    ).frames
    mask = g.add("ThresholdMask", mask=g.add("ImageToMask", image=mask, channel="red"), value=0.5)
    mask = g.add("GrowMask", mask=mask, expand=g.choose(12, 2))
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    frames = parts.filled(g, models, texts, clip.frames, mask)
    before = parts.show(g, "Frame-wise", frames, models.vae)
    video = parts.smoothed(g, models, texts, frames, "inpainting")
    soft = g.add(
        "ImageBlur",
        "Feathered edge",
        image=g.add("MaskToImage", mask=mask),
        blur_radius=g.choose(8, 2),
        sigma=g.choose(4.0, 1.0),
    )
    soft = g.add("ImageToMask", image=soft, channel="red")
    video = parts.paste_back(g, clip.frames, video, soft)
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, clip.frames)

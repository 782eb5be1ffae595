"""A clip edited by changing words of its description."""

from tools import parts
from tools.graph import Graph, Node


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = parts.note("prompt2prompt")
    clip = parts.source(g)
    models = parts.load_models(g)
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("a cat walking on the grass", parts.DEMO_PROMPT),
    )
    texts = parts.prompts(
        g, models, "a dog walking on the grass", "a red square on a yellow background, patchy", title="Target prompt"
    )
    reworded(g, clip, models, texts, source_text, local_blend_words=g.choose("cat dog", "blue red"))


def reworded(
    g: Graph,
    clip: parts.Source,
    models: parts.Models,
    texts: parts.Prompts,
    source_text: Node,
    **edit: object,
) -> None:
    """The chain, its frames edited by changing words."""
    g.group("Stage 1: every frame on its own", parts.FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Invert with the source prompt",
        model=models.image,
        conditioning=parts.for_image(g, models, source_text, "Source prompt (image model)"),
        latent=encoded,
        steps=parts.steps(g),
        solver=models.solver or "uni_inv",
        grid=models.grid,
    )
    edited = g.add(
        "BIVDiffPrompt2Prompt",
        model=models.image,
        clip=models.image_clip,
        latent=inverted,
        source_prompt=source_text,
        target_prompt=texts.text,
        steps=parts.steps(g),
        cfg=parts.cfg(g),
        **edit,
    )
    g.column()
    parts.show(g, "Reconstructed", edited["reconstructed"], models.vae)
    before = parts.show(g, "Frame-wise", edited["edited"], models.vae)
    video = parts.smoothed(g, models, texts, edited["edited"], "prompt2prompt")
    parts.save(g, video, clip)
    parts.compare(g, clip, before, video, clip.frames)

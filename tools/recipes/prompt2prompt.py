"""A clip edited by changing words of its description."""

from tools.graph import Graph, Node
from tools.parts import (
    DEMO_PROMPT,
    FRAMES_COLOUR,
    Models,
    Prompts,
    Source,
    cfg,
    compare,
    for_image,
    load_models,
    note,
    prompts,
    save,
    show,
    smoothed,
    source,
    steps,
)


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = note("prompt2prompt")
    clip = source(g)
    models = load_models(g)
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("a cat walking on the grass", DEMO_PROMPT),
    )
    texts = prompts(
        g, models, "a dog walking on the grass", "a red square on a yellow background, patchy", title="Target prompt"
    )
    reworded(g, clip, models, texts, source_text, local_blend_words=g.choose("cat dog", "blue red"))


def reworded(
    g: Graph,
    clip: Source,
    models: Models,
    texts: Prompts,
    source_text: Node,
    **edit: object,
) -> None:
    """The chain, its frames edited by changing words."""
    g.group("Stage 1: every frame on its own", FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Invert with the source prompt",
        model=models.image,
        conditioning=for_image(g, models, source_text, "Source prompt (image model)"),
        latent=encoded,
        steps=steps(g),
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
        steps=steps(g),
        cfg=cfg(g),
        **edit,
    )
    g.column()
    show(g, "Reconstructed", edited["reconstructed"], models.vae)
    before = show(g, "Frame-wise", edited["edited"], models.vae)
    video = smoothed(g, models, texts, edited["edited"], "prompt2prompt")
    save(g, video, clip)
    compare(g, clip, before, video, clip.frames)

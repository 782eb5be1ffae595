"""A clip edited by changing words of its description."""

from tools import workflow_parts
from tools.workflow_graph import Graph, Node


def draw(g: Graph) -> None:
    """Draw the graph."""
    g.note = workflow_parts.note("prompt2prompt")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g)
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("a cat walking on the grass", workflow_parts.DEMO_PROMPT),
    )
    texts = workflow_parts.prompts(
        g, models, "a dog walking on the grass", "a red square on a yellow background, patchy", title="Target prompt"
    )
    reworded(g, clip, models, texts, source_text, local_blend_words=g.choose("cat dog", "blue red"))


def reworded(
    g: Graph,
    clip: workflow_parts.Source,
    models: workflow_parts.Models,
    texts: workflow_parts.Prompts,
    source_text: Node,
    **edit: object,
) -> None:
    """The chain, its frames edited by changing words."""
    g.group("Stage 1: every frame on its own", workflow_parts.FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Invert with the source prompt",
        model=models.image,
        conditioning=workflow_parts.for_image(g, models, source_text, "Source prompt (image model)"),
        latent=encoded,
        steps=workflow_parts.steps(g),
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
        steps=workflow_parts.steps(g),
        cfg=workflow_parts.cfg(g),
        **edit,
    )
    g.column()
    workflow_parts.show(g, "Reconstructed", edited["reconstructed"], models.vae)
    before = workflow_parts.show(g, "Frame-wise", edited["edited"], models.vae)
    video = workflow_parts.smoothed(g, models, texts, edited["edited"], "prompt2prompt")
    workflow_parts.save(g, video, clip)
    workflow_parts.compare(g, clip, before, video, clip.frames)

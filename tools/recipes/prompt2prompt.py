"""Edit a clip by changing words of its description."""

from tools import workflow_parts
from tools.workflow_graph import GraphNode, WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("prompt2prompt")
    clip = workflow_parts.source(g)
    models = workflow_parts.load_models(g)
    source_text = g.add(
        "PrimitiveStringMultiline",
        "Source prompt",
        value=g.choose("a cat walking on the grass", workflow_parts.DEMO_PROMPT),
    )
    texts = workflow_parts.add_prompts(
        g, models, "a dog walking on the grass", workflow_parts.DEMO_EDITED_PROMPT, title="Target prompt"
    )
    add_prompt_edit(g, clip, models, texts, source_text, local_blend_words=g.choose("cat dog", "yellow pink"))


def add_prompt_edit(
    g: WorkflowGraph,
    clip: workflow_parts.SourceClip,
    models: workflow_parts.ChainModels,
    texts: workflow_parts.ChainPrompts,
    source_text: GraphNode,
    **edit: object,
) -> None:
    """Edit the frames by changing words of the prompt, then run the chain."""
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    inverted = g.add(
        "BIVDiffInvertImage",
        "Invert with the source prompt",
        model=models.image,
        conditioning=workflow_parts.encode_for_image(g, models, source_text, "Source prompt (image model)"),
        latent=encoded,
        steps=workflow_parts.steps(g),
        scheduler=models.scheduler,
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
        scheduler=models.scheduler,
        **edit,
    )
    g.column()
    workflow_parts.decode_and_preview(g, "Reconstructed", edited["reconstructed"], models.vae)
    before = workflow_parts.decode_and_preview(g, "Frame-wise", edited["edited"], models.vae)
    video = workflow_parts.smooth_and_decode(g, models, texts, edited["edited"], "prompt2prompt")
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

"""Edit every frame of a clip with Flux Kontext, and smooth the frames with Wan."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("kontext")
    clip = workflow_parts.source(g, workflow_parts.EDIT_SIZE, stride=1, count=33)
    g.column()
    model = g.add("UNETLoader", "Flux Kontext", unet_name="flux1-dev-kontext_fp8_scaled.safetensors")
    text_encoder = g.add(
        "DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp8_e4m3fn_scaled.safetensors", type="flux"
    )
    vae = g.add("VAELoader", "VAE of Flux", vae_name="ae.safetensors")
    models = workflow_parts.load_wan(g)
    texts = workflow_parts.add_prompts(g, models, workflow_parts.EDITED_PROMPT, workflow_parts.DEMO_PROMPT)

    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    instruction = g.add("CLIPTextEncode", "Instruction", clip=text_encoder, text=workflow_parts.INSTRUCTION)
    encoded = g.add("VAEEncode", "Source frames", pixels=clip.frames, vae=vae)
    reference = g.add("ReferenceLatent", conditioning=instruction, latent=encoded)
    guided = g.add("FluxGuidance", conditioning=reference, guidance=2.5)
    empty = g.add("ConditioningZeroOut", "No negative prompt", conditioning=instruction)
    g.column()
    frames = workflow_parts.sample_edits(g, model["MODEL"], guided, empty, encoded, cfg=1.0)
    decoded = g.add("VAEDecode", samples=frames, vae=vae)
    workflow_parts.smooth_edits(g, clip, models, texts, decoded)

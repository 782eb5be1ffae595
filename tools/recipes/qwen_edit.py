"""Edit every frame of a clip with Qwen-Image-Edit, and smooth the frames with Wan.

Qwen's text node encodes a batch of pictures as one video, so it gets the frames as a list, one at a time.
"""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("qwen_edit")
    clip = workflow_parts.source(g, workflow_parts.EDIT_SIZE, stride=1, count=33)
    g.column()
    unet = g.add("UNETLoader", "Qwen-Image-Edit", unet_name="qwen_image_edit_fp8_e4m3fn.safetensors")
    shifted = g.add("ModelSamplingAuraFlow", "Shift of Qwen", model=unet, shift=3.0)
    model = g.add("CFGNorm", model=shifted, strength=1.0)["patched_model"]
    text_encoder = g.add("CLIPLoader", clip_name="qwen_2.5_vl_7b_fp8_scaled.safetensors", type="qwen_image")
    vae = g.add("VAELoader", "VAE of Qwen", vae_name="qwen_image_vae.safetensors")
    models = workflow_parts.load_wan(g)
    texts = workflow_parts.add_prompts(g, models, workflow_parts.EDITED_PROMPT, workflow_parts.DEMO_PROMPT)

    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    listed = g.add("RebatchImages", "A list of frames", images=clip.frames, batch_size=1)
    edit = {"clip": text_encoder, "vae": vae, "image": listed}
    positive = g.add("TextEncodeQwenImageEdit", "Instruction", prompt=workflow_parts.INSTRUCTION, **edit)
    negative = g.add("TextEncodeQwenImageEdit", "Negative prompt", prompt="", **edit)
    encoded = g.add("VAEEncode", "Source frames", pixels=listed, vae=vae)
    g.column()
    frames = workflow_parts.sample_edits(g, model, positive, negative, encoded, cfg=2.5)
    decoded = g.add("VAEDecode", samples=frames, vae=vae)
    joined = g.add("RebatchImages", "One clip again", images=decoded, batch_size=4096)
    workflow_parts.smooth_edits(g, clip, models, texts, joined)

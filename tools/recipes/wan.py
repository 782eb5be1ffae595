"""Deflicker frames from any source; one flow model inverts for both branches."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("wan")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    size = g.choose((832, 480), (64, 64))
    clip = workflow_parts.load_clip(
        g, workflow_parts.PACKAGED_CLIP, "Your frames as a video", size, stride=1, count=g.choose(33, 5)
    )
    g.add("PreviewImage", "Source", images=clip.frames)
    g.column()
    unet = g.add("UNETLoader", "Wan", unet_name="wan2.1_t2v_1.3B_fp16.safetensors")
    model = g.add("ModelSamplingSD3", "Shift of the whole chain", model=unet, shift=8.0)["MODEL"]
    if g.demo:
        text = g.add("BIVDiffDemoModels")["CLIP"]
    else:
        text = g.add("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")["CLIP"]
    vae = g.add("VAELoader", vae_name="wan_2.1_vae.safetensors")["VAE"]
    models = workflow_parts.ChainModels(model, text, model, text, vae, None, cfg=6.0)
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    encode = {"vae": vae, "images": clip.frames}
    single = g.add(
        "BIVDiffEncodeFrames", "Every fourth frame, encoded separately", stride=4, mode="single_frames", **encode
    )
    whole = g.add("BIVDiffEncodeFrames", "The clip", stride=1, mode="clip", **encode)
    video = workflow_parts.smooth_and_decode(
        g, models, texts, single, strength=workflow_parts.OWN_FRAMES_STRENGTH, clip=whole
    )
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, clip.frames, video)

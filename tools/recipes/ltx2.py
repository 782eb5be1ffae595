"""Deflicker frames from any source with LTX-2, which makes the video alone and inverts for both branches."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph

CHECKPOINT = "ltx-2-19b-dev-fp8.safetensors"


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("ltx2")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.load_own_frames(g, (768, 512), count=33)
    g.column()
    checkpoint = g.add("CheckpointLoaderSimple", "LTX-2", ckpt_name=CHECKPOINT)
    text = g.add("LTXAVTextEncoderLoader", text_encoder="gemma_3_12B_it_fp4_mixed.safetensors", ckpt_name=CHECKPOINT)[
        "CLIP"
    ]
    model = checkpoint["MODEL"]
    models = workflow_parts.ChainModels(model, text, model, text, checkpoint["VAE"], None, cfg=4.0)
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper walks along a snowy street", workflow_parts.DEMO_PROMPT
    )
    timed = g.add(
        "LTXVConditioning",
        "Frame rate of the clip",
        positive=texts.video,
        negative=texts.video_empty,
        frame_rate=clip.fps,
    )
    timed_texts = texts._replace(video=timed["positive"], video_empty=timed["negative"])
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    workflow_parts.deflicker_packed_frames(g, clip, models, timed_texts, stride=8)

"""Deflicker frames from any source with the two experts of Wan 2.2."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("wan_experts")
    g.group("Source and models", workflow_parts.SOURCE_COLOUR)
    clip = workflow_parts.load_own_frames(g, workflow_parts.WAN_SIZE, count=33)
    models = workflow_parts.load_wan(
        g,
        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        shift=5.0,
        cfg=3.5,
    )
    texts = workflow_parts.add_prompts(
        g, models, "a robot made of copper in a snowy street", workflow_parts.DEMO_PROMPT
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    workflow_parts.deflicker_packed_frames(g, clip, models, texts)

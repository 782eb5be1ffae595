"""Repaint a clip of any length, at the size that the video model supports and in windows."""

from tools import workflow_parts
from tools.workflow_graph import WorkflowGraph


def build(g: WorkflowGraph) -> None:
    """Build the graph."""
    g.note = workflow_parts.read_note("zeroscope")
    clip = workflow_parts.source(g, size=g.choose((576, 320), (64, 64)), stride=1, count=g.choose(48, 8))
    models = workflow_parts.load_models(g)._replace(windows=g.choose((16, 4), (6, 3)))
    texts = workflow_parts.add_prompts(g, models, "a watercolor painting of a city street", workflow_parts.DEMO_PROMPT)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    encoded = g.add("VAEEncode", pixels=clip.frames, vae=models.vae)
    frames = workflow_parts.sample_frames(
        g, models.image, workflow_parts.encode_for_image(g, models, texts.text), texts.image_empty, encoded, denoise=0.6
    )
    before = workflow_parts.decode_and_preview(g, "Frame-wise", frames, models.vae)
    video = workflow_parts.smooth_and_decode(g, models, texts, frames)
    workflow_parts.save_video(g, video, clip)
    workflow_parts.add_comparison(g, clip, before, video, clip.frames)

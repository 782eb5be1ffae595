"""The chain for an artist's own frames with a flow model (Wan, LTX, HunyuanVideo) as one node: a blueprint."""

from tools import workflow_parts
from tools.workflow_subgraph import Subgraph

DESCRIPTION = (
    "Smooths the frames of a video that flickers, with Wan, LTX or HunyuanVideo: encodes the frames one by one and as "
    "a clip, inverts both, blends them and denoises the blend with the video model. Wire the video model and its CLIP "
    "to the image inputs too, or an image model of the same latent space (Qwen-Image beside Wan). For a model of two "
    "experts (Wan 2.2 14B), the high-noise expert goes to both model inputs and the other to low_noise_model."
)


def build_flow_node(object_info: dict) -> Subgraph:
    """The node. Append new inputs at the end."""
    g = Subgraph("BIVDiff Deflicker for Wan and LTX", object_info, demo=False, description=DESCRIPTION)
    frames = g.socket("frames", "IMAGE")
    models = workflow_parts.ChainModels(
        image=g.socket("image_model", "MODEL"),
        video=g.socket("video_model", "MODEL"),
        image_clip=g.socket("clip", "CLIP"),
        video_clip=g.socket("video_clip", "CLIP"),
        vae=g.socket("vae", "VAE"),
        control_net=None,
        cfg=6.0,
    )
    g.group("Stage 1: your frames", workflow_parts.FRAMES_COLOUR)
    single, whole = workflow_parts.encode_packed_frames(g, models, frames, stride=4)
    texts = workflow_parts.add_prompts(g, models, "", "")
    strength = workflow_parts.OWN_FRAMES_STRENGTH
    smoother = workflow_parts.invert_and_smooth(g, models, texts, single, strength=strength, clip=whole)
    mixed = smoother.wires["latent"].node
    inversions = [mixed.wires[branch].node for branch in ("image_latent", "video_latent")]
    video = g.add("VAEDecode", "Decode the video", samples=smoother, vae=models.vae)

    g.widget("prompt", "", (texts.text, "value"))
    g.widget("strength", strength, *((node, "strength") for node in inversions))
    g.widget("steps", workflow_parts.steps(g, strength), *((node, "steps") for node in (*inversions, smoother)))
    g.widget("steadiness", 0.0, (mixed, "steadiness"))
    g.widget("mixing_ratio", 0.5, (mixed, "mixing_ratio"))
    g.widget("cfg", models.cfg, (smoother, "cfg"))
    g.widget("stride", 4, (single, "stride"))
    for name in ("context_length", "context_overlap"):
        g.widget(name, 0, *((node, name) for node in (inversions[1], smoother)))
    low_noise = g.socket("low_noise_model", "MODEL", optional=True)
    for node in (*inversions, smoother):
        node.wires["low_noise_model"] = low_noise
    g.output("video", video)
    g.preview(smoother)
    return g

"""The ControlNet chain as one node: the blueprint in the node library."""

from tools import workflow_parts
from tools.workflow_graph import GraphNode, OutputSlot, WorkflowGraph
from tools.workflow_subgraph import Subgraph

DESCRIPTION = (
    "Any image model with a ControlNet, smoothed by a video model: generates every frame independently, inverts the "
    "frames with both models, blends the two inverted latents and denoises the blend with the video model. The two "
    "models must share a VAE; give one control image for each frame."
)


def build_one_node(object_info: dict, demo: bool) -> Subgraph:
    """The node, with the default settings or those of the demo models. Append new inputs at the end."""
    g = Subgraph("BIVDiff Deflicker", object_info, demo, DESCRIPTION)
    models = workflow_parts.ChainModels(
        image=g.socket("image_model", "MODEL"),
        video=g.socket("video_model", "MODEL"),
        image_clip=g.socket("clip", "CLIP"),
        video_clip=g.socket("video_clip", "CLIP"),
        vae=g.socket("vae", "VAE"),
        control_net=g.socket("control_net", "CONTROL_NET"),
    )
    hints = g.socket("control_images", "IMAGE")

    g.group("Size and prompts", workflow_parts.SOURCE_COLOUR)
    latent = workflow_parts.add_empty(g, "EmptyLatentImage", "One empty latent per frame", like=hints)
    texts = workflow_parts.add_prompts(g, models, "", workflow_parts.DEMO_THING)
    g.group("Stage 1: independent frames", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, hints)
    sampled = workflow_parts.sample_frames(g, models.image, control["positive"], control["negative"], latent)
    frames = g.add("VAEDecode", "Decode the frames", samples=sampled, vae=models.vae)
    lent = workflow_parts.ImageControl(models.image, control)
    smoother = workflow_parts.invert_and_smooth(g, models, texts, sampled, control=lent)
    mixed, borrowed = smoother.wires["latent"].node, smoother.wires["model"].node
    inversions = [mixed.wires[branch].node for branch in ("image_latent", "video_latent")]
    video = g.add("VAEDecode", "Decode the video", samples=smoother, vae=models.vae)

    g.widget("prompt", g.choose("", workflow_parts.DEMO_THING), (texts.text, "value"))
    g.widget("seed", 0, (sampled, "seed"))
    g.widget("steps", workflow_parts.steps(g), *((node, "steps") for node in (sampled, *inversions, smoother)))
    g.widget("cfg", g.choose(7.5, 3.0), (sampled, "cfg"))
    g.widget("control_strength", 1.0, (control, "strength"))
    g.widget("mixing_ratio", 1.0, (mixed, "mixing_ratio"))
    g.widget("video_cfg", g.choose(7.5, 2.0), (smoother, "cfg"))
    g.widget("strength", 1.0, *((node, "strength") for node in inversions))
    g.widget("solver", "auto", *((node, "solver") for node in inversions))
    g.widget("frame_noise", "independent", (sampled, "frame_noise"))
    g.widget("borrowed_control", 3.0, (borrowed, "weight"))
    g.output("frames", frames)  # in the order of Compare Videos' inputs
    g.output("video", video)
    g.preview(smoother)
    return g


def add_one_node(
    g: WorkflowGraph,
    demo: bool,
    models: workflow_parts.ChainModels,
    hints: GraphNode,
    fps: OutputSlot,
    audio: OutputSlot | None = None,
    width: int = 300,
    **settings: object,
) -> None:
    """Add the node, a comparison of its frames and its video, and the saved video. settings: of the node."""
    bivdiff = build_one_node(g.object_info, demo)
    bivdiff.add_definition(g)
    g.group("Generate, then smooth", workflow_parts.FRAMES_COLOUR, width=width)
    result = g.add(
        bivdiff.id,
        "BIVDiff",
        image_model=models.image,
        video_model=models.video,
        clip=models.image_clip,
        video_clip=models.video_clip,
        vae=models.vae,
        control_net=models.control_net,
        control_images=hints,
        steps=workflow_parts.FAST_STEPS,
        **settings,
    )
    g.group("Before and after", workflow_parts.SMOOTHING_COLOUR, width=440)
    frames, video, sound = result["frames"], result["video"], {"fps": fps, "audio": audio}
    g.add("BIVDiffCompareVideos", "Before and after", before=frames, after=video, **sound)
    created = g.add("CreateVideo", collapsed=True, images=video, **sound)
    g.add("SaveVideo", "Smoothed video", collapsed=True, video=created, filename_prefix=f"bivdiff_{g.name}")

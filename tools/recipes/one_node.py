"""The ControlNet chain as one node: the blueprint of the node library."""

from tools import workflow_parts
from tools.workflow_subgraph import Subgraph

DESCRIPTION = (
    "Any image model with a ControlNet, steadied by a video model: draws every frame on its own, inverts the frames "
    "with both models, blends the two noises and lets the video model draw the clip. The two models must share a VAE; "
    "give one control image for each frame."
)
SEARCH_ALIASES = ["bivdiff", "vid2vid", "deflicker", "video controlnet"]


def build_one_node(object_info: dict, demo: bool) -> Subgraph:
    """The node, its widgets at the settings to begin with, or at the demo models'; new inputs go to the end."""
    g = Subgraph("BIVDiff", object_info, demo, DESCRIPTION)
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
    texts = workflow_parts.add_prompts(g, models, "", "a blue square, patchy")
    g.group("Stage 1: every frame on its own", workflow_parts.FRAMES_COLOUR)
    control = workflow_parts.apply_control(g, models, texts, hints)
    draw = workflow_parts.sample_frames(g, models.image, control["positive"], control["negative"], latent)
    frames = g.add("VAEDecode", "Decode the frames", samples=draw, vae=models.vae)
    smoother = workflow_parts.invert_and_smooth(g, models, texts, draw)
    mixed = smoother.wires["latent"].node
    inversions = [mixed.wires[branch].node for branch in ("image_latent", "video_latent")]
    redraw = workflow_parts.structure_pass(g, models, smoother, models.image, control)
    noised = redraw.wires["latent_image"].node
    g.column()
    either = {"on_false": smoother.output_for("LATENT"), "on_true": redraw.output_for("LATENT")}
    chosen = g.add("ComfySwitchNode", "With the structure pass?", **either, switch=True)["output"]
    video = g.add("VAEDecode", "Decode the video", samples=chosen, vae=models.vae)

    g.widget("prompt", g.choose("", "a blue square, patchy"), (texts.text, "value"))
    g.widget("seed", 0, (draw, "seed"))
    every = (draw, *inversions, smoother, noised, redraw)
    g.widget("steps", workflow_parts.steps(g), *((node, "steps") for node in every))
    g.widget("cfg", g.choose(7.5, 3.0), (draw, "cfg"))
    g.widget("control_strength", 1.0, (control, "strength"))
    g.widget("mixing_ratio", 1.0, (mixed, "mixing_ratio"))
    g.widget("video_cfg", g.choose(7.5, 1.0), (smoother, "cfg"))
    g.widget("strength", 1.0, *((node, "strength") for node in inversions))
    g.widget("solver", "ddim", *((node, "solver") for node in (*inversions, noised)))
    g.widget("frame_noise", "independent", (draw, "frame_noise"))
    g.widget("structure_pass", True, (chosen.node, "switch"))
    g.output("video", video)
    g.output("frames", frames)
    return g

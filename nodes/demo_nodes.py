"""Demo models and a demo clip that ship with the pack, to run the chain without downloads."""

from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io

from ..bivdiff_core.demo.models import make_demo_clip
from ..bivdiff_core.host.loaders import demo_models
from . import shared_inputs
from .base import PackNode


class DemoModels(PackNode):
    """The demo models as ComfyUI objects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffDemoModels",
            display_name="BIVDiff Demo Models",
            category=f"{shared_inputs.CATEGORY}/demo",
            description="Tiny models that ship with the pack and run on any CPU in seconds, to learn the chain and to "
            "test workflows. They draw 64x64 pictures such as a red fish over a yellow sea: eight things "
            "in nine colours over sky, sea, meadow or dusk. They share their own latent space, so they do not mix with "
            "Stable Diffusion's models.",
            search_aliases=["toy models", "tiny models", "test models", "example models", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=list(demo_models.IMAGE_VARIANTS),
                    default="base",
                    tooltip="base generates from a prompt and, with the ControlNet, from outlines; always invert with "
                    "it. instruct_pix2pix recolours things in a clip (InstructPixToPixConditioning, with an "
                    "instruction such as: a red fish). inpaint fills masked parts (InpaintModelConditioning). "
                    "t2i_adapter is base with a T2I-Adapter instead of the ControlNet.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="image_model",
                    tooltip="Generates single frames; for Frame-wise Image Sampler, KSampler and DDIM Inverse (Image).",
                ),
                io.Model.Output(
                    display_name="video_model",
                    tooltip="Trained on 8-frame clips; for DDIM Inverse (Video) and Video Temporal Smoother.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="For CLIP Text Encode. It understands captions such as: a blue bird in front of a red "
                    "mug over a white sky, patterned. Without patterned, markings are faint. A prompt with other words "
                    "gives a warning that lists the words it knows.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="For VAE Encode and VAE Decode, at 64x64 pixels."),
                io.ControlNet.Output(
                    display_name="CONTROL_NET",
                    tooltip="For Apply ControlNet, with outlines from Detect Edges (Canny) at low 0.3 and high 0.6. "
                    "With variant t2i_adapter it is a T2I-Adapter, otherwise a ControlNet.",
                ),
            ],
        )

    @classmethod
    def run(cls, variant: str) -> io.NodeOutput:
        return io.NodeOutput(
            demo_models.load_image_model(variant),
            demo_models.load_video_model(),
            demo_models.load_clip(),
            demo_models.load_vae(),
            demo_models.load_t2i_adapter() if variant == "t2i_adapter" else demo_models.load_control_net(),
        )


class DemoClip(PackNode):
    """A clip like those that the demo models are trained on."""

    FPS = 8

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffDemoClip",
            display_name="BIVDiff Demo Clip",
            category=f"{shared_inputs.CATEGORY}/demo",
            description="A short clip to try the chain with, without an upload: a yellow sailboat moves back and forth "
            "on a blue sea, 64x64 pixels, 8 frames a second, no sound. Its prompt for the demo models: a yellow "
            "sailboat over a blue sea, patterned.",
            search_aliases=["example video", "test clip", "sample video", "toy clip", "demo video"],
            inputs=[
                io.Int.Input(
                    "frames",
                    default=8,
                    min=2,
                    max=1024,
                    tooltip="How many frames. The demo models are trained on 8. In place of Load Video, 64 is enough "
                    "for the stride and count of every template.",
                ),
            ],
            outputs=[io.Video.Output(display_name="VIDEO", tooltip="For Get Video Components, instead of Load Video.")],
        )

    @classmethod
    def run(cls, frames: int) -> io.NodeOutput:
        components = Types.VideoComponents(images=make_demo_clip(frames), frame_rate=Fraction(cls.FPS))
        return io.NodeOutput(InputImpl.VideoFromComponents(components))

"""Models and a clip that come with the pack, so that the chain runs before anything is downloaded."""

from fractions import Fraction

from comfy_api.latest import InputImpl, Types, io

from ..bivdiff_core.demo.models import make_demo_clip
from ..bivdiff_core.host.loaders import demo_models
from . import shared_inputs
from .base import PackNode


class DemoModels(PackNode):
    """The demo models as host objects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffDemoModels",
            display_name="BIVDiff Demo Models",
            category=f"{shared_inputs.CATEGORY}/demo",
            description="Tiny models that ship with the pack and run on any CPU in seconds, to learn the chain on and "
            "to test workflows with. They draw 64x64 pictures such as a red star on a yellow background: circles, "
            "squares, triangles, stars and crosses in nine colours. They share one latent space of their own, so they "
            "do not mix with Stable Diffusion's models.",
            search_aliases=["toy models", "tiny models", "test models", "example models", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "variant",
                    options=list(demo_models.IMAGE_VARIANTS),
                    default="base",
                    tooltip="What the image model does. base draws from a prompt and, with the ControlNet, from "
                    "outlines. instruct_pix2pix recolours things in a clip (InstructPixToPixConditioning; an "
                    "instruction reads: a red star). inpaint fills masked parts (InpaintModelConditioning). "
                    "t2i_adapter is base with a T2I-Adapter in place of the ControlNet. Invert with base.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="image_model",
                    tooltip="Works on single frames; for Frame-wise Image Sampler, KSampler and DDIM Inverse (Image).",
                ),
                io.Model.Output(
                    display_name="video_model",
                    tooltip="Knows clips of 8 frames; for DDIM Inverse (Video) and Video Temporal Smoother.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="For CLIP Text Encode. Knows the words of captions like: a blue star in front of a red "
                    "circle on a white background, patchy. Without patchy, things are striped. Other words are "
                    "skipped.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="For VAE Encode and VAE Decode, at 64x64 pixels."),
                io.ControlNet.Output(
                    display_name="CONTROL_NET",
                    tooltip="For Apply ControlNet, with outlines from Detect Edges (Canny) at low 0.3 and high 0.6. "
                    "With the variant t2i_adapter it is a T2I-Adapter, else a ControlNet.",
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
    """A clip of the world that the demo models know."""

    FPS = 8

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffDemoClip",
            display_name="BIVDiff Demo Clip",
            category=f"{shared_inputs.CATEGORY}/demo",
            description="A short clip to try the chain on, with nothing to upload: a blue square moves back and forth "
            "on a yellow background with patches, 64x64 pixels, 8 frames a second, no sound. The demo models know it "
            "as: a blue square on a yellow background, patchy.",
            search_aliases=["example video", "test clip", "sample video", "toy clip", "demo video"],
            inputs=[
                io.Int.Input(
                    "frames",
                    default=64,
                    min=2,
                    max=1024,
                    tooltip="How many frames. 8 is what the demo models know; 64 is enough for the stride and count of "
                    "every template.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="VIDEO", tooltip="For Get Video Components, in place of Load Video.")
            ],
        )

    @classmethod
    def run(cls, frames: int) -> io.NodeOutput:
        components = Types.VideoComponents(images=make_demo_clip(frames), frame_rate=Fraction(cls.FPS))
        return io.NodeOutput(InputImpl.VideoFromComponents(components))

"""Video models that the host itself cannot load."""

from comfy_api.latest import io

from ..bivdiff_core.host.loaders.video_folder import load_video_folder, video_folders
from . import controls
from .node import Node


class VideoModelLoader(Node):
    """Loads ModelScope, ZeroScope and their kin, and VidRD."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffVideoModelLoader",
            display_name="Load Video Diffusion Model",
            category=controls.CATEGORY,
            description="Loads a video model saved by diffusers: ModelScope (text-to-video-ms-1.7b), ZeroScope v2 and "
            "any other with a UNet3DConditionModel. Put its folder into models/diffusers. For VidRD put the folder of "
            "Stable Diffusion 2.1 base there, and VidRD's ModelT2V.pth into it, beside unet. Fine-tunes in "
            "ModelScope's own layout, with a configuration.json, load as they are.",
            search_aliases=["zeroscope", "modelscope", "vidrd", "text to video", "load video model", "unet3d"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=video_folders(),
                    tooltip="A folder in models/diffusers with unet, text_encoder, vae and scheduler in it, or with "
                    "ModelScope's configuration.json, as downloaded from the model's page.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For DDIM Inverse (Video) and Video Temporal Smoother."),
                io.Clip.Output(
                    display_name="CLIP", tooltip="The video model's own text encoder; an image model's does not fit."
                ),
                io.Vae.Output(
                    display_name="VAE", tooltip="Stable Diffusion's; frames of SD 1.5 and 2 share its latents."
                ),
            ],
        )

    @classmethod
    def run(cls, name) -> io.NodeOutput:
        return io.NodeOutput(*load_video_folder(name))

"""Loader of video models that ComfyUI itself cannot load."""

from comfy_api.latest import io

from ..bivdiff_core.host.loaders.video_folder import list_video_folders, load_video_folder, missing_model_message
from . import shared_inputs
from .base import PackNode

NO_MODELS_FOUND = "none yet"
"""Only choice of an empty list; running it shows what to download."""


class VideoModelLoader(PackNode):
    """Loads ModelScope, ZeroScope and similar models, and VidRD."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffVideoModelLoader",
            display_name="Load Video Diffusion Model",
            category=shared_inputs.CATEGORY,
            description="Loads a video model saved by diffusers: ModelScope (text-to-video-ms-1.7b), ZeroScope v2 and "
            "any other with a UNet3DConditionModel. Put its folder into models/diffusers. For VidRD, put the folder "
            "of Stable Diffusion 2.1 base there and VidRD's ModelT2V.pth into that folder, beside unet. ModelScope's "
            "original layout, with text2video_pytorch_model.pth, works too.",
            search_aliases=["zeroscope", "modelscope", "vidrd", "text to video", "load video model", "unet3d"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=list_video_folders() or [NO_MODELS_FOUND],
                    tooltip="A folder in models/diffusers with unet, text_encoder, vae and scheduler, or with "
                    "ModelScope's text2video_pytorch_model.pth, as downloaded from the model's page.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For DDIM Inverse (Video) and Video Temporal Smoother."),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="The video model's text encoder. Encode the video's prompts with it; an image model's "
                    "CLIP does not fit.",
                ),
                io.Vae.Output(
                    display_name="VAE",
                    tooltip="Stable Diffusion's VAE; frames of SD 1.5 and SD 2 share its latent space.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return name is None or name in list_video_folders() or missing_model_message(name)

    @classmethod
    def run(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(*load_video_folder(name))

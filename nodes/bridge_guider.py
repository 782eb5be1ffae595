"""Bridging during denoising: the alternative that BIVDiff's paper compares itself with."""

from comfy_api.latest import io

from ..bivdiff_core.bridging import STRATEGIES
from ..bivdiff_core.host.comfy_types import Conditioning, Model
from ..bivdiff_core.host.prompts import PromptPair
from ..bivdiff_core.host.two_model_guider import make_two_model_guider
from ..bivdiff_core.host.validation import set_frame_chunks
from . import shared_inputs
from .base import PackNode


class BridgeGuider(PackNode):
    """A guider that denoises with an image model and a video model together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffBridgeGuider",
            display_name="Bridge Guider",
            category=shared_inputs.CATEGORY,
            description="Denoises with an image model and a video model together, for SamplerCustomAdvanced: one "
            "pass, no inversion. The image model keeps its ControlNet while the video model reduces flicker. BIVDiff "
            "itself runs one model after the other; use this node to compare, or to start from plain noise (Frame "
            "Noise).",
            search_aliases=["two models", "parallel sampling", "alternating sampler", "iv-mixed", "bivdiff"],
            inputs=[
                io.Model.Input("image_model", tooltip="The image model, with its LoRAs and patches."),
                io.Conditioning.Input(
                    "image_positive",
                    tooltip="Prompt for the image model. Wire it through ControlNet and the like here, with one hint "
                    "for each frame.",
                ),
                io.Conditioning.Input(
                    "image_negative", tooltip="Negative prompt for the image model: what to keep out."
                ),
                shared_inputs.cfg_input(7.5, "How strictly the image model follows its prompt.", "image_cfg"),
                io.Model.Input("video_model", tooltip="A video model that shares the image model's VAE."),
                io.Conditioning.Input(
                    "video_positive", tooltip="Prompt for the video model, encoded with the video model's CLIP."
                ),
                io.Conditioning.Input(
                    "video_negative", tooltip="Negative prompt for the video model: what to keep out."
                ),
                shared_inputs.cfg_input(7.5, "How strictly the video model follows its prompt.", "video_cfg"),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    default="parallel",
                    tooltip="parallel averages the predictions of both models in every step. alternating runs one "
                    "model per step. interleaved runs the image model in every step and the video model before it in "
                    "some; it needs the sampler ddim or euler.",
                ),
                io.Float.Input(
                    "image_share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Weight of the image model (parallel) or its share of the steps. Lower it if the video "
                    "flickers, raise it if shapes are lost. 1 runs only the image model, 0 only the video model "
                    "(interleaved: both in every step).",
                ),
                shared_inputs.frames_per_batch_input(),
            ],
            outputs=[io.Guider.Output(display_name="GUIDER", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def run(
        cls,
        image_model: Model,
        image_positive: Conditioning,
        image_negative: Conditioning,
        image_cfg: float,
        video_model: Model,
        video_positive: Conditioning,
        video_negative: Conditioning,
        video_cfg: float,
        strategy: str,
        image_share: float,
        frames_per_batch: int,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            make_two_model_guider(
                set_frame_chunks(image_model, frames_per_batch),
                PromptPair(image_positive, image_negative, image_cfg),
                video_model,
                PromptPair(video_positive, video_negative, video_cfg),
                strategy,
                image_share,
            )
        )

"""Prompts and references of single frames, joined for a batch of frames."""

from __future__ import annotations

from comfy_api.latest import io

from ..bivdiff_core.host.comfy_types import Conditioning, Model
from ..bivdiff_core.host.frame_conditioning import batch_conditioning
from . import shared_inputs
from .base import PackNode


class BatchConditioning(PackNode):
    """Joins a list of CONDITIONING to one with a row for each frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffBatchConditioning",
            display_name="Batch Conditioning",
            category=shared_inputs.CATEGORY,
            description="Joins a list of prompts, one for each frame, to one conditioning for the whole batch of "
            "frames. For text nodes that take one picture, such as TextEncodeQwenImageEdit: Rebatch Images with a "
            "batch_size of 1 gives them the frames as a list. The batch then works in chunks and with frame_noise, and "
            "gives the same as one frame after the other.",
            search_aliases=["conditioning list to batch", "prompt per frame", "qwen image edit video", "kontext video"],
            is_input_list=True,
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The list: one prompt for each frame, with the frame's reference latents if there are any. "
                    "Wire it here before ControlNet nodes, which take a hint for each frame after this node.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that reads the prompts. Needed only if their lengths differ, which works with "
                    "SD 1.5, SD 2, SDXL and Qwen-Image.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="One row for each frame, for Frame-wise Image Sampler or DDIM Inverse (Image). The latent "
                    "needs as many frames.",
                )
            ],
        )

    @classmethod
    def run(cls, conditioning: list[Conditioning], model: list[Model] | None = None) -> io.NodeOutput:
        return io.NodeOutput(batch_conditioning(conditioning, model[0] if model else None))

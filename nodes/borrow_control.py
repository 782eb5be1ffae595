"""Borrow Control: an image model's ControlNet for a video model that has none."""

from __future__ import annotations

from comfy_api.latest import io

from ..bivdiff_core.host.borrowed_control import BorrowedControl, borrow_control
from ..bivdiff_core.host.comfy_types import Conditioning, Model
from ..bivdiff_core.host.validation import set_frame_chunks
from . import shared_inputs
from .base import PackNode


class BorrowControl(PackNode):
    """A video MODEL that denoises with the control of an image MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffBorrowControl",
            display_name="Borrow Control",
            category=shared_inputs.CATEGORY,
            description="Lends the ControlNet of an image model to a video model that has none. While the video model "
            "denoises, what the control changes in each frame is added to its prediction. Use the MODEL in Video "
            "Temporal Smoother to keep shapes, or in KSampler to generate a video from noise.",
            search_aliases=["controlnet for video", "control transfer", "zeroscope controlnet", "keep shapes"],
            inputs=[
                io.Model.Input("model", tooltip="The video model that gets the control."),
                io.Model.Input(
                    "image_model",
                    tooltip="The image model that the ControlNet belongs to. It shares the video model's VAE.",
                ),
                io.Conditioning.Input(
                    "with_control",
                    tooltip="The image model's prompt with the control: the positive output of Apply ControlNet, with "
                    "one hint for each frame. A LoRA belongs here too, as a hook (Create Hook LoRA).",
                ),
                io.Conditioning.Input(
                    "without_control",
                    tooltip="The same prompt from before Apply ControlNet. What both prompts share cancels.",
                ),
                io.Float.Input(
                    "weight",
                    default=3.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the control acts. Raise it if shapes are lost, lower it if colours burn or "
                    "the video flickers. 3 was the best of 2, 3 and 4 on the demo models. 0 is the video model alone.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the denoising the control begins, as in Apply ControlNet. To smooth frames 0.5, "
                    "for a video from noise 0.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the denoising the control ends. Lower it for fewer model calls.",
                ),
                shared_inputs.frames_per_batch_input(),
                io.Model.Input(
                    "controlled_model",
                    optional=True,
                    tooltip="For control that is part of a model: InstructPix2Pix, an inpainting model, or image_model "
                    "with IP-Adapter. It predicts with with_control, and image_model with without_control.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The video model with the control, for Video Temporal Smoother, KSampler or "
                    "SamplerCustomAdvanced.",
                )
            ],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        image_model: Model,
        with_control: Conditioning,
        without_control: Conditioning,
        weight: float,
        start_percent: float,
        end_percent: float,
        frames_per_batch: int,
        controlled_model: Model | None = None,
    ) -> io.NodeOutput:
        if weight == 0:
            return io.NodeOutput(model)
        plain = set_frame_chunks(image_model, frames_per_batch)
        controlled = plain if controlled_model is None else set_frame_chunks(controlled_model, frames_per_batch)
        control = BorrowedControl(controlled, plain, with_control, without_control, weight, start_percent, end_percent)
        return io.NodeOutput(borrow_control(model, control))

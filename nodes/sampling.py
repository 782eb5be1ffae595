"""Stages 1 and 3 of BIVDiff: frames from an image model, and smoothing by a video model."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.grids import Schedule
from ..bivdiff_core.host import stages, validation
from ..bivdiff_core.host.comfy_types import Conditioning, Latent, Model
from ..bivdiff_core.host.prompts import PromptPair
from ..bivdiff_core.host.windows import WindowSettings
from ..bivdiff_core.node_warnings import warn
from . import shared_inputs
from .base import PackNode


class FrameSampler(PackNode):
    """KSampler for the frames of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffFrameSampler",
            display_name="Frame-wise Image Sampler",
            category=shared_inputs.CATEGORY,
            description="Generates every frame of a clip independently with an image model: KSampler for more frames "
            "than fit in memory at once. ControlNet hints, masks and per-frame prompts follow their frames. The "
            "frames flicker; Video Temporal Smoother fixes that at the end of the chain. It also denoises an inverted "
            "latent, which restores shapes after smoothing (structure pass).",
            search_aliases=["ksampler frames", "vid2vid", "style video", "upscale video", "qwen", "flux", "bivdiff"],
            inputs=[
                io.Model.Input("model", tooltip="The image model, with its LoRAs and patches."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt. Wire it through ControlNet and the like here, with one hint for each frame.",
                ),
                io.Conditioning.Input("negative", tooltip="What to keep out of the frames."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="One latent for each frame. To generate from the prompt: Empty Latent Image with "
                    "batch_size set to the frame count. To stay close to a clip: the encoded clip; a noise mask keeps "
                    "everything outside it. For the structure pass: an inverted latent. It is denoised from where its "
                    "inversion stopped, over the whole picture; seed, denoise and frame_noise then have no effect.",
                ),
                shared_inputs.seed_input(),
                shared_inputs.steps_input("Denoising steps."),
                shared_inputs.cfg_input(7.5, "How strictly the frames follow the prompt. The paper uses 7.5."),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.SAMPLER_NAMES),
                    default="ddim",
                    tooltip="Any sampler can generate frames; the paper uses ddim. An inverted latent needs a sampler "
                    "that adds no noise: ddim, euler, dpmpp_2m and others.",
                ),
                shared_inputs.scheduler_input("How the noise levels are spaced."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 generates the frames from noise; lower values keep more of the encoded clip.",
                ),
                shared_inputs.frame_noise_input("frame_noise"),
                shared_inputs.frames_per_batch_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The frames. Decode them to see them, and wire them to both DDIM Inverse nodes.",
                )
            ],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: Latent,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        frame_noise: str,
        frames_per_batch: int,
    ) -> io.NodeOutput:
        schedule = Schedule(steps, scheduler)
        stage_input = validation.validate_stage(
            validation.GENERATE_OR_DENOISE_FRAMES,
            model,
            latent_image,
            PromptPair(positive, negative, cfg),
            WindowSettings(frames_per_batch),
        )
        if stage_input.inverted is None:
            return io.NodeOutput(stages.sample_frames(stage_input, schedule, sampler_name, seed, denoise, frame_noise))
        if denoise != 1 or frame_noise != "independent":
            warn("An inverted latent needs no noise: denoise and frame_noise have no effect.")
        return io.NodeOutput(stages.denoise(stage_input, schedule, sampler_name))


class TemporalSmoother(PackNode):
    """Denoises inverted frames with the video model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffTemporalSmoother",
            display_name="Video Temporal Smoother",
            category=shared_inputs.CATEGORY,
            description="Denoises inverted frames with a video model, which makes them consistent over time. The last "
            "stage of BIVDiff; it takes the output of Mixed Inversion Blend.",
            search_aliases=["deflicker", "steady video", "temporal consistency", "wan", "ltx", "bivdiff"],
            inputs=[
                io.Model.Input("model", tooltip="The video model: ModelScope, ZeroScope, AnimateDiff, Wan, ..."),
                io.Conditioning.Input("positive", tooltip="What the video shows, encoded with the video model's CLIP."),
                io.Conditioning.Input("negative", tooltip="What to keep out of the video."),
                io.Latent.Input(
                    "latent",
                    tooltip="The inverted frames. A plain latent or an encoded image is rejected.",
                ),
                shared_inputs.steps_input("Denoising steps; use the same number as in the inversion."),
                shared_inputs.cfg_input(
                    2.0,
                    "How strictly the video follows the prompt. On the demo models 2 kept colours and shapes best; "
                    "the paper uses 7.5. 1 skips the negative prompt, which halves the time, but loses some colours.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(stages.DETERMINISTIC_SAMPLERS),
                    default="ddim",
                    tooltip="Only samplers that add no noise are listed, because added noise would erase the inverted "
                    "frames. The paper uses ddim.",
                ),
                shared_inputs.scheduler_input("Use the same as in the inversion."),
                shared_inputs.strength_input(
                    "How far the latent was inverted; only for a latent that ComfyUI's Save Latent saved. For all "
                    "others, set strength in both DDIM Inverse nodes.",
                    advanced=True,
                ),
                shared_inputs.grid_input(
                    "matched starts at the noise level where the inversion ended and gives better results. reference "
                    "repeats the authors' code step by step; use it only for comparisons."
                ),
                shared_inputs.CONTEXT_LENGTH_INPUT,
                shared_inputs.CONTEXT_OVERLAP_INPUT,
                shared_inputs.sigmas_input(
                    "Models and LoRAs for few steps (Lightning, Turbo, LCM) need their own. The part below the level "
                    "that the inversion reached is used."
                ),
                *shared_inputs.low_noise_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The smoothed video, to decode. A noise mask is only passed on: paste the known pixels "
                    "back after decoding.",
                )
            ],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        strength: float,
        grid: str,
        context_length: int,
        context_overlap: int,
        sigmas: Tensor | None = None,
        low_noise_model: Model | None = None,
        boundary: float = 0.875,
    ) -> io.NodeOutput:
        stage_input = validation.validate_stage(
            validation.SMOOTH_CLIP,
            model,
            latent,
            PromptPair(positive, negative, cfg),
            WindowSettings(context_length, context_overlap),
            strength,
            low_noise_model,
            boundary,
        )
        schedule = Schedule(steps, scheduler, strength, grid, sigmas)
        return io.NodeOutput(stages.denoise(stage_input, schedule, sampler_name))

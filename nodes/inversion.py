"""Stage 2 of BIVDiff: DDIM inversion of the frames, by the image model and by the video model."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.grids import Schedule
from ..bivdiff_core.host import stages, validation
from ..bivdiff_core.host.comfy_types import Conditioning, Latent, Model
from ..bivdiff_core.host.group_norms import GROUP_NORMS, should_pool_norms
from ..bivdiff_core.host.latents import describe_samples
from ..bivdiff_core.host.prompts import PromptPair
from ..bivdiff_core.host.windows import WindowSettings
from ..bivdiff_core.solvers import SOLVERS
from . import shared_inputs
from .base import PackNode, prefix_errors


def _inversion_inputs(model_tooltip: str, latent_tooltip: str) -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip=model_tooltip),
        io.Conditioning.Input(
            "conditioning",
            tooltip="The prompt to invert with, usually empty. Inversion uses no guidance, so there is no negative "
            "prompt. Models with built-in guidance (Flux, HunyuanVideo) use guidance 1, unless FluxGuidance is wired "
            "in before.",
        ),
        io.Latent.Input("latent", tooltip=latent_tooltip),
        shared_inputs.steps_input("Inversion steps; use the same number for denoising."),
        shared_inputs.scheduler_input("How the noise levels are spaced; use the same in Video Temporal Smoother."),
        io.Combo.Input(
            "solver",
            options=[stages.AUTO_SOLVER, *SOLVERS],
            default=stages.AUTO_SOLVER,
            tooltip="auto: ddim for diffusion models, fireflow for flow models. ddim: the paper's solver, with the "
            "least flicker on the demo models; it weakens the noise slightly. uni_inv: most accurate per model call, "
            "restores frames best; use it for Prompt2Prompt. fireflow: closest to true noise. fixed_point: the exact "
            "inverse of DDIM, in three times the time.",
        ),
        shared_inputs.strength_input(
            "How far to invert towards noise. 1 inverts to full noise, as in the paper; use it when a ControlNet pass "
            "restores the shapes. About 0.5 keeps the shapes of frames that are nearly consistent; inconsistent frames "
            "become a blurred average."
        ),
        shared_inputs.grid_input(
            "matched inverts along the noise levels that denoising uses afterwards. reference repeats the authors' "
            "code step by step (solver ddim only); use it only for comparisons."
        ),
    ]


INVERSION_SIGMAS_TOOLTIP = "They are taken in reverse order, up to the strength."

INVERTED_OUTPUT = io.Latent.Output(
    display_name="LATENT",
    tooltip="The inverted frames: noise that denoises back to them. For Mixed Inversion Blend or Video Temporal "
    "Smoother. For SamplerCustomAdvanced, convert it with Inverted Latent to Noise; as that node's latent_image it has "
    "no effect.",
)


class InvertImage(PackNode):
    """The image branch of Mixed Inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffInvertImage",
            display_name="DDIM Inverse (Image)",
            category=shared_inputs.CATEGORY,
            description="Inverts every frame independently with an image model (DDIM inversion). Denoising this noise "
            "restores the frames. Use the plain model, without ControlNet.",
            search_aliases=["ddim inversion", "unsample", "unsampler", "image inversion", "bivdiff"],
            inputs=[
                *_inversion_inputs(
                    "The checkpoint that generated the frames, without ControlNet or LoRA. For an inpainting or "
                    "editing checkpoint, use the plain model that it was made from.",
                    "The frames: from Frame-wise Image Sampler, or any frames through VAE Encode.",
                ),
                shared_inputs.frames_per_batch_input(),
                io.Combo.Input(
                    "group_norms",
                    options=list(GROUP_NORMS),
                    default="auto",
                    optional=True,
                    tooltip="Whether the model's group norms normalise each frame separately (per_frame) or all "
                    "frames together (whole_clip), as in the authors' code. Keep auto: it uses whole_clip with grid "
                    "reference, otherwise per_frame, which flickered less on the demo models. whole_clip needs every "
                    "frame in one model call.",
                    advanced=True,
                ),
                shared_inputs.sigmas_input(INVERSION_SIGMAS_TOOLTIP),
                *shared_inputs.low_noise_inputs(),
            ],
            outputs=[INVERTED_OUTPUT],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        conditioning: Conditioning,
        latent: Latent,
        steps: int,
        scheduler: str,
        solver: str,
        strength: float,
        grid: str,
        frames_per_batch: int,
        group_norms: str = "auto",
        sigmas: Tensor | None = None,
        low_noise_model: Model | None = None,
        boundary: float = 0.875,
    ) -> io.NodeOutput:
        prompts = PromptPair.without_guidance(conditioning)
        spec = validation.INVERT_FRAMES_POOLED if should_pool_norms(group_norms, grid) else validation.INVERT_FRAMES
        stage_input = validation.validate_stage(
            spec,
            model,
            latent,
            prompts,
            WindowSettings(frames_per_batch),
            low_noise_model=low_noise_model,
            boundary=boundary,
        )
        schedule = Schedule(steps, scheduler, strength, grid, sigmas)
        return io.NodeOutput(stages.invert(stage_input, schedule, solver).to_latent())


class InvertVideo(PackNode):
    """The video branch of Mixed Inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffInvertVideo",
            display_name="DDIM Inverse (Video)",
            category=shared_inputs.CATEGORY,
            description="Inverts the whole clip with the video model (DDIM inversion). This noise suits the "
            "video model, but it also contains the flicker; Mixed Inversion Blend decides how much of it to use.",
            search_aliases=["ddim inversion", "unsample", "unsampler", "video inversion", "bivdiff"],
            inputs=[
                *_inversion_inputs(
                    "The video model that will smooth the clip, without LoRAs for few steps (Lightning, LCM).",
                    "The same frames as in the image branch, in the same order.",
                ),
                shared_inputs.CONTEXT_LENGTH_INPUT,
                shared_inputs.CONTEXT_OVERLAP_INPUT,
                shared_inputs.sigmas_input(INVERSION_SIGMAS_TOOLTIP),
                *shared_inputs.low_noise_inputs(),
            ],
            outputs=[INVERTED_OUTPUT],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        conditioning: Conditioning,
        latent: Latent,
        steps: int,
        scheduler: str,
        solver: str,
        strength: float,
        grid: str,
        context_length: int,
        context_overlap: int,
        sigmas: Tensor | None = None,
        low_noise_model: Model | None = None,
        boundary: float = 0.875,
    ) -> io.NodeOutput:
        prompts = PromptPair.without_guidance(conditioning)
        stage_input = validation.validate_stage(
            validation.INVERT_CLIP,
            model,
            latent,
            prompts,
            WindowSettings(context_length, context_overlap),
            low_noise_model=low_noise_model,
            boundary=boundary,
        )
        schedule = Schedule(steps, scheduler, strength, grid, sigmas)
        return io.NodeOutput(stages.invert(stage_input, schedule, solver).to_latent())


class _InvertedNoiseSource:
    """NOISE made from an inverted latent, in the scale that core's samplers expect."""

    seed = 0

    def __init__(self, noise: Tensor):
        self.noise = noise

    def generate_noise(self, latent: Latent) -> Tensor:
        """The noise, for an empty LATENT of the same shape.

        Raises:
            ValueError: another shape, or a latent with an image in it, which would be added to the noise.
        """
        with prefix_errors(InvertedNoise):
            samples = validation.validate_samples(latent)
            if samples.shape != self.noise.shape:
                raise ValueError(
                    f"the sampler's latent is {describe_samples(samples)}, but the noise is "
                    f"{describe_samples(self.noise)}. Give the sampler an empty latent of the clip's size and frames."
                )
            if samples.any():
                raise ValueError(
                    "the sampler's latent is not empty, and its image would be added to the noise, which already holds "
                    "the frames. Give the sampler an empty latent."
                )
        return self.noise.clone()


class InvertedNoise(PackNode):
    """Passes an inverted latent to core's samplers as NOISE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffInvertedNoise",
            display_name="Inverted Latent to Noise",
            category=shared_inputs.CATEGORY,
            description="Turns an inverted latent into NOISE for SamplerCustomAdvanced, so that any guider and any "
            "deterministic sampler can denoise it. Give that sampler an empty latent of the same size, and sigmas "
            "that start where the inversion ended.",
            search_aliases=["noise from latent", "unsampler noise", "inverted noise"],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="From DDIM Inverse or Mixed Inversion Blend. A clean latent is rejected."
                )
            ],
            outputs=[
                io.Noise.Output(
                    display_name="NOISE",
                    tooltip="For SamplerCustomAdvanced, with an empty latent. Do not use samplers that add noise "
                    "(ancestral, sde), which erase the frames, or Context Windows with freenoise, which shuffle them.",
                )
            ],
        )

    @classmethod
    def run(cls, latent: Latent) -> io.NodeOutput:
        return io.NodeOutput(_InvertedNoiseSource(validation.validate_inverted(latent).to_sampler_noise()))

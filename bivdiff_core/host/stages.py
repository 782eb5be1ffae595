"""The stages of the method on validated inputs: generate frames, invert them, denoise them again."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from einops import rearrange
from torch import Tensor

from ..grids import (
    Schedule,
    Scheduler,
    denoising_levels,
    inversion_levels,
    reference_denoising_grid,
    reference_inversion_grid,
    split_levels,
    strength_sigma,
)
from ..node_warnings import warn
from ..noise import correlate_frames
from ..solvers import SOLVERS
from .comfy_types import Latent, Model
from .compat.comfyui_internals import find_model_file
from .inversion_setup import prepare_for_inversion
from .inverted_latents import InversionInfo, InvertedLatent
from .latents import frame_dim, replace_samples
from .model_families import DIFFUSION, FLOW, count_frames, find_expert, is_reference_compatible, latent_format_name
from .prompts import PromptPair, check_prompt_coverage
from .sampler import run_from_latent, run_guider
from .sampling_progress import SamplingProgress
from .validation import StageInput

DETERMINISTIC_SAMPLERS = (
    "ddim",
    "euler",
    "heun",
    "heunpp2",
    "dpm_2",
    "lms",
    "dpmpp_2m",
    "ipndm",
    "deis",
    "res_multistep",
    "gradient_estimation",
    "uni_pc",
    "uni_pc_bh2",
)
"""ComfyUI's samplers without added noise, which would destroy an inverted latent.

Without ipndm_v: on uneven steps its round trip is off by up to three times the latent (analytic denoiser, 20 steps).
"""

AUTO_SOLVER = "auto"
DEFAULT_SOLVERS = {DIFFUSION: "ddim", FLOW: "fireflow"}
"""The solver of `auto` for each kind of noise."""


def sample_frames(
    stage_input: StageInput, schedule: Schedule, sampler_name: str, seed: int, denoise: float, noise_mode: str
) -> Latent:
    """Generate frames like ComfyUI's KSampler, in chunks.

    Args:
        denoise: as in KSampler, 0..1.
        noise_mode: how the noise of the frames is correlated (`noise.correlate_frames`).

    Raises:
        ValueError: denoise leaves no steps, or a frame is not finite.
    """
    model = stage_input.model
    sampler = comfy.samplers.KSampler(
        model, schedule.steps, model.load_device, sampler_name, schedule.scheduler, denoise, model.model_options
    )
    if len(sampler.sigmas) < 2:
        raise ValueError(f"denoise {denoise} leaves no steps. Raise denoise or steps.")
    check_prompt_coverage(model, stage_input.prompts.used_prompts(), sampler.sigmas)
    samples = run_guider(
        make_guider(model, stage_input.prompts),
        comfy.samplers.sampler_object(sampler_name),
        sampler.sigmas,
        make_frame_noise(stage_input.samples, stage_input.latent.get("batch_index"), seed, noise_mode),
        stage_input.samples,
        SamplingProgress(len(sampler.sigmas) - 1, is_inversion=False),
        denoise_mask=stage_input.latent.get("noise_mask"),
        seed=seed,
    )
    return replace_samples(stage_input.latent, samples)


def invert(stage_input: StageInput, schedule: Schedule, solver: str) -> InvertedLatent:
    """Invert clean frames along the MODEL's probability-flow ODE, without guidance.

    A noise_mask is kept, but every pixel is inverted.

    Args:
        solver: one of `SOLVERS`, or `auto` for the default of the MODEL's kind of noise.

    Raises:
        ValueError: before sampling, if schedule, solver and MODEL do not fit each other; after sampling, if a frame is
            not finite.
        torch.OutOfMemoryError: see `explain_out_of_memory`.
    """
    flow = stage_input.noise_kind == FLOW
    solver = _choose_solver(stage_input, schedule, solver)
    sampling = stage_input.model.get_model_object("model_sampling")
    if schedule.grid == "reference":
        _check_reference_grid(stage_input, schedule)
        sigmas = reference_inversion_grid(sampling.sigmas, schedule.steps)
    else:
        sigmas = inversion_levels(schedule, make_scheduler(stage_input.model, schedule), flow)

    runs = _split_runs(stage_input, sigmas)
    inverted = stage_input.model.model.process_latent_in(stage_input.samples.float())
    progress = SamplingProgress(sum(len(part) - 1 for _, part in runs), is_inversion=True)
    for expert, part in runs:
        sigma_min = float(expert.model.get_model_object("model_sampling").sigma_min)
        model = expert.family.adapt_for_inversion(expert.model)
        guider = make_guider(*prepare_for_inversion(model, expert.prompts))
        with explain_out_of_memory(expert):
            function = partial(SOLVERS[solver], sigma_min=sigma_min)
            inverted, _ = run_from_latent(guider, function, part, inverted, flow, progress)
    if stage_input.is_time_sliced:
        inverted = rearrange(inverted, "t c 1 h w -> 1 c t h w")
    levels = torch.cat([runs[0][1], *(part[1:] for _, part in runs[1:])])
    sigma = levels[-1].item()
    info = InversionInfo(
        sigma=sigma,
        at_sigma_max=math.isclose(sigma, float(sampling.sigma_max), rel_tol=1e-5),
        strength=schedule.strength,
        grid=schedule.grid,
        branch="video" if stage_input.spec.is_video else "image",
        latent_format=latent_format_name(stage_input.model),
        family=stage_input.noise_kind,
        levels=tuple(levels.tolist()),
    )
    return InvertedLatent.from_samples(inverted, info, stage_input.latent)


def denoise(stage_input: StageInput, schedule: Schedule, sampler_name: str) -> Latent:
    """Denoise an inverted clip: as a whole with a video MODEL, or frame by frame with an image MODEL.

    A noise_mask stays in the LATENT, but every pixel is denoised.

    Args:
        schedule: its strength is the start if the noise level of the latent is unknown. Grid `reference` takes the
            latent as z at t = 981 and ends at t = 0, like the released code.
        sampler_name: one of `DETERMINISTIC_SAMPLERS`.

    Returns:
        The clean LATENT, in the VAE's space.

    Raises:
        ValueError: before sampling, if schedule, sampler and latent do not fit each other; after sampling, if a frame
            is not finite.
    """
    model = stage_input.model
    if sampler_name not in DETERMINISTIC_SAMPLERS:
        raise ValueError(
            f"{sampler_name} adds noise, which would erase the frames that an inverted latent holds. Set sampler_name "
            "to ddim, or to another sampler that adds no noise."
        )
    if schedule.grid == "reference":
        _check_reference_grid(stage_input, schedule)
        if sampler_name not in ("ddim", "euler"):
            raise ValueError(
                f"grid reference denoises by DDIM and does not work with {sampler_name}. Set sampler_name to ddim."
            )
        sigmas = reference_denoising_grid(model.get_model_object("model_sampling").sigmas, schedule.steps)
    else:
        sigmas = levels_from_latent(stage_input, schedule)
    ksampler = comfy.samplers.sampler_object(sampler_name)
    function = partial(ksampler.sampler_function, **ksampler.extra_options)
    runs = _split_runs(stage_input, sigmas)
    progress = SamplingProgress(sum(len(part) - 1 for _, part in runs), is_inversion=False)
    samples = vae_samples = stage_input.samples
    for expert, part in runs:
        guider = make_guider(expert.model, expert.prompts)
        with explain_out_of_memory(expert):
            samples, vae_samples = run_from_latent(
                guider, function, part, samples, stage_input.noise_kind == FLOW, progress
            )
    return replace_samples(stage_input.latent, vae_samples)


def _split_runs(stage_input: StageInput, levels: Tensor) -> list[tuple[StageInput, Tensor]]:
    """The runs of a stage with their levels: one, or one for each expert that has steps.

    Raises:
        ValueError: no prompt is active at a level.
    """
    runs = [(stage_input, levels)]
    if stage_input.low_noise is not None:
        above, below = split_levels(levels, stage_input.boundary)
        runs = [(stage_input, above), (stage_input.low_noise, below)]
        if levels[0] < levels[-1]:
            runs.reverse()
        runs = [(expert, part) for expert, part in runs if len(part) > 1]
    for expert, part in runs:
        check_prompt_coverage(expert.model, expert.prompts.used_prompts(), part)
        _warn_outside_range(expert, part)
    return runs


def _warn_outside_range(stage_input: StageInput, levels: Tensor) -> None:
    """Warn if a run takes an expert of Wan 2.2 to noise levels that it was not trained for."""
    expert, boundary = find_expert(stage_input.model), stage_input.boundary
    lowest, highest = levels.min().item(), levels.max().item()
    outside = {"high": boundary - lowest, "low": highest - boundary}.get(expert, 0.0)
    if outside > 1e-4:  # 0.9 is no float32
        warn(
            "The name of %s says that it is the %s-noise expert, trained %s sigma %g, but this run covers sigma %.3g "
            "to %.3g. Wire the high-noise expert to model and the low-noise expert to low_noise_model. Up to a "
            "strength of %g the low-noise expert can be wired alone.",
            find_model_file(stage_input.model),
            expert,
            {"high": "above", "low": "below"}[expert],
            boundary,
            lowest,
            highest,
            boundary,
        )


def denoise_samples(
    stage_input: StageInput,
    guider: comfy.samplers.CFGGuider,
    function: Callable[..., Tensor],
    sigmas: Tensor,
    samples: Tensor,
) -> Tensor:
    """Denoise inverted samples; returns clean samples in the VAE's space.

    Args:
        function: a sampler with k-diffusion's signature.
        samples: inverted samples of the clip, or copies of them concatenated in the batch.

    Raises:
        torch.OutOfMemoryError: see `explain_out_of_memory`.
    """
    progress = SamplingProgress(len(sigmas) - 1, is_inversion=False)
    with explain_out_of_memory(stage_input):
        return run_from_latent(guider, function, sigmas, samples, stage_input.noise_kind == FLOW, progress)[1]


@contextmanager
def explain_out_of_memory(stage_input: StageInput) -> Iterator[None]:
    """Add the control to change to out-of-memory errors of a MODEL that processes several frames together.

    Raises:
        torch.OutOfMemoryError: ComfyUI unloads all models when it catches this type.
    """
    try:
        yield
    except Exception as error:
        comfy.model_management.raise_non_oom(error)
        if stage_input.spec.pools_norms:
            raise torch.OutOfMemoryError(
                f"out of memory: group_norms whole_clip processes all {len(stage_input.samples)} frames in one model "
                "call. Set it to per_frame, or use fewer or smaller frames."
            ) from error
        latents = stage_input.samples.shape[frame_dim(stage_input.samples)]
        latents = min(stage_input.window_length or latents, latents)
        if not stage_input.spec.is_video or latents == 1:
            raise
        frames = count_frames(latents, stage_input.model)
        raise torch.OutOfMemoryError(
            f"out of memory: the video model processed {frames} frames at once. Set context_length below {frames} in "
            "all nodes of the video model, or use smaller frames."
        ) from error


def make_scheduler(model: Model, schedule: Schedule) -> Scheduler:
    """ComfyUI's scheduler for a MODEL."""
    return partial(comfy.samplers.calculate_sigmas, model.get_model_object("model_sampling"), schedule.scheduler)


def levels_from_latent(stage_input: StageInput, schedule: Schedule) -> Tensor:
    """Decreasing levels from the noise level of the clip's latent, or from the schedule's strength if it is unknown.

    Raises:
        ValueError: the schedule does not reach that level.
    """
    flow = stage_input.noise_kind == FLOW
    sigma = strength_sigma(schedule.strength, flow) if schedule.strength < 1 else None
    if stage_input.inversion_info is not None:
        sigma = stage_input.inversion_info.sigma
    return denoising_levels(schedule, make_scheduler(stage_input.model, schedule), flow, sigma)


def make_guider(model: Model, prompts: PromptPair) -> comfy.samplers.CFGGuider:
    """ComfyUI's CFGGuider of a MODEL, with prompts and guidance set."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompts.positive, prompts.negative)
    guider.set_cfg(prompts.cfg)
    return guider


def make_frame_noise(samples: Tensor, batch_index: Sequence[int] | None, seed: int, mode: str) -> Tensor:
    """ComfyUI's noise for a latent, correlated between frames.

    Args:
        batch_index: of the LATENT, positions of its frames in the whole clip, so that they get the noise of those
            frames; None for a whole clip. In a latent of videos they are indices of videos.
        mode: see `noise.correlate_frames`.

    Raises:
        ValueError: `batch_index` does not hold a position for each frame.
    """
    dim = frame_dim(samples)
    if batch_index is None:
        return correlate_frames(comfy.sample.prepare_noise(samples, seed), mode, dim)
    indices = _parse_batch_index(batch_index, len(samples))
    if mode == "independent" or dim != 0:
        return correlate_frames(comfy.sample.prepare_noise(samples, seed, indices), mode, dim)
    whole = comfy.sample.prepare_noise(samples, seed, range(max(indices) + 1))
    return correlate_frames(whole, mode)[indices]


def _parse_batch_index(batch_index: Sequence[int], count: int) -> list[int]:
    try:
        indices = [operator.index(index) for index in batch_index]
    except TypeError:
        indices = []
    if len(indices) != count or min(indices) < 0:
        raise ValueError(
            f"the latent's batch_index is {batch_index}, expected {count} whole numbers from 0 on: the position of "
            "each frame in the clip. An earlier node has set it: wire the latent from before that node, or encode the "
            "frames again."
        )
    return indices


def _choose_solver(stage_input: StageInput, schedule: Schedule, solver: str) -> str:
    if solver == AUTO_SOLVER:
        return "ddim" if schedule.grid == "reference" else DEFAULT_SOLVERS[stage_input.noise_kind]
    if solver not in stage_input.family.solvers:
        raise ValueError(
            f"solver {solver} does not work with a {stage_input.family.name} model, which cannot be called at the last "
            f"noise level. Set solver to {' or '.join(stage_input.family.solvers)}."
        )
    if schedule.grid == "reference" and solver != "ddim":
        raise ValueError(
            f"grid reference repeats the released code's DDIM loop and does not work with solver {solver}. Set solver "
            "to ddim."
        )
    return solver


def _check_reference_grid(stage_input: StageInput, schedule: Schedule) -> None:
    strength = (stage_input.inversion_info or schedule).strength
    if not is_reference_compatible(stage_input.model) or strength < 1:
        raise ValueError(
            "grid reference needs what the released code supports: an eps model with 1000 timesteps, frames in the "
            "batch, and strength 1. Set grid to matched."
        )
    if stage_input.low_noise is not None:
        raise ValueError("grid reference is for one model. Unlink low_noise_model, or set grid to matched.")
    if schedule.sigmas is not None:
        raise ValueError("grid reference has its own noise levels. Unlink sigmas, or set grid to matched.")
    if schedule.steps > 999:
        raise ValueError(f"grid reference takes at most 999 steps, got {schedule.steps}. Lower steps.")

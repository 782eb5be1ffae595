"""The stages of the method on validated inputs: generate frames, invert them, denoise them again."""

import math
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
    denoising_grid,
    matched_inversion_grid,
    reference_denoising_grid,
    reference_inversion_grid,
    strength_sigma,
)
from ..noise import correlate_frames
from ..solvers import SOLVERS
from .comfy_types import Latent, Model
from .inversion_setup import prepare_for_inversion
from .inverted_latents import InversionInfo, make_inverted_latent
from .latents import frame_dim, replace_samples
from .model_families import FLOW, is_reference_compatible
from .prompts import PromptPair, check_prompt_coverage
from .sampler import UnitScaleSampler, run_guider
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
    "ipndm_v",
    "deis",
    "res_multistep",
    "gradient_estimation",
    "uni_pc",
    "uni_pc_bh2",
)
"""ComfyUI's samplers without added noise. Added noise would destroy an inverted latent."""


def sample_frames(
    clip: StageInput, schedule: Schedule, sampler_name: str, seed: int, denoise: float, noise_mode: str
) -> Latent:
    """Generate frames like ComfyUI's KSampler, in chunks.

    Args:
        denoise: as in KSampler, 0..1.
        noise_mode: how the noise of the frames is correlated (`noise.correlate_frames`).

    Raises:
        ValueError: denoise leaves no steps, or a frame is not finite.
    """
    model = clip.model
    sampler = comfy.samplers.KSampler(
        model, schedule.steps, model.load_device, sampler_name, schedule.scheduler, denoise, model.model_options
    )
    if len(sampler.sigmas) < 2:
        raise ValueError(f"denoise {denoise} leaves no steps. Raise denoise or steps.")
    check_prompt_coverage(model, clip.prompts, sampler.sigmas)
    samples = run_guider(
        make_guider(model, clip.prompts),
        comfy.samplers.sampler_object(sampler_name),
        sampler.sigmas,
        clip.samples,
        noise=make_frame_noise(clip.samples, clip.latent.get("batch_index"), seed, noise_mode),
        denoise_mask=clip.latent.get("noise_mask"),
        seed=seed,
    )
    return replace_samples(clip.latent, samples)


def invert(clip: StageInput, schedule: Schedule, solver: str) -> Latent:
    """Invert clean frames along the MODEL's probability-flow ODE, without guidance.

    A noise_mask stays in the LATENT, but every pixel is inverted.

    Returns:
        The inverted LATENT, samples in model space.

    Raises:
        ValueError: before sampling, if schedule, solver and MODEL do not fit each other; after sampling, if a frame is
            not finite.
        torch.OutOfMemoryError: see `explain_out_of_memory`.
    """
    _check_solver(clip, solver)
    sampling = clip.model.get_model_object("model_sampling")
    flow = clip.noise_kind == FLOW
    if schedule.grid == "reference":
        _check_reference_grid(clip, schedule)
        if solver != "ddim":
            raise ValueError(
                "grid reference repeats the released code's DDIM loop and does not work with solver "
                f"{solver}. Set solver to ddim."
            )
        sigmas = reference_inversion_grid(sampling.sigmas, schedule.steps)
    else:
        levels = comfy.samplers.calculate_sigmas(sampling, schedule.scheduler, schedule.steps)
        sigmas = matched_inversion_grid(levels, schedule, flow)

    function = partial(SOLVERS[solver], sigma_min=float(sampling.sigma_min))
    check_prompt_coverage(clip.model, clip.prompts, sigmas)
    model, prompts = prepare_for_inversion(clip.family.adapt_for_inversion(clip.model), clip.prompts)
    with explain_out_of_memory(clip):
        out = run_guider(make_guider(model, prompts), UnitScaleSampler(function, flow), sigmas, clip.samples)
    inverted = model.model.process_latent_in(out.float())
    if clip.is_time_sliced:
        inverted = rearrange(inverted, "t c 1 h w -> 1 c t h w")
    sigma = sigmas[-1].item()
    inversion = InversionInfo(
        sigma=sigma,
        at_sigma_max=math.isclose(sigma, float(sampling.sigma_max), rel_tol=1e-5),
        strength=schedule.strength,
        grid=schedule.grid,
        branch="video" if clip.spec.is_video else "image",
        latent_format=type(model.get_model_object("latent_format")).__name__,
        family=clip.noise_kind,
    )
    return make_inverted_latent(clip.latent, inverted, inversion)


def denoise(clip: StageInput, schedule: Schedule, sampler_name: str) -> Latent:
    """Denoise an inverted clip: as a whole with a video MODEL, or frame by frame with an image MODEL.

    A noise_mask stays in the LATENT, but every pixel is denoised.

    Args:
        schedule: its strength is the start if the LATENT has no inversion record. Grid `reference` takes the latent as
            z at t = 981 and ends at t = 0, like the released code.
        sampler_name: one of `DETERMINISTIC_SAMPLERS`.

    Returns:
        The clean LATENT, in the VAE's space.

    Raises:
        ValueError: before sampling, if schedule, sampler and latent do not fit each other; after sampling, if a frame
            is not finite.
    """
    model = clip.model
    if sampler_name not in DETERMINISTIC_SAMPLERS:
        raise ValueError(
            f"{sampler_name} adds noise, which would erase the frames that an inverted latent holds. Set sampler_name "
            "to ddim, or to another sampler that adds no noise."
        )
    if schedule.grid == "reference":
        _check_reference_grid(clip, schedule)
        if sampler_name not in ("ddim", "euler"):
            raise ValueError(
                f"grid reference denoises by DDIM and does not work with {sampler_name}. Set sampler_name to ddim."
            )
        sigmas = reference_denoising_grid(model.get_model_object("model_sampling").sigmas, schedule.steps)
    else:
        levels = comfy.samplers.KSampler(
            model, schedule.steps, model.load_device, sampler_name, schedule.scheduler, None, model.model_options
        ).sigmas
        sigmas = denoising_sigmas(clip, levels, schedule)
    check_prompt_coverage(model, clip.prompts, sigmas)
    ksampler = comfy.samplers.sampler_object(sampler_name)
    function = partial(ksampler.sampler_function, **ksampler.extra_options)
    return replace_samples(
        clip.latent, denoise_samples(clip, make_guider(model, clip.prompts), function, sigmas, clip.samples)
    )


def denoise_samples(
    clip: StageInput, guider: comfy.samplers.CFGGuider, function: Callable[..., Tensor], sigmas: Tensor, samples: Tensor
) -> Tensor:
    """Denoise inverted samples; returns clean samples in the VAE's space.

    Args:
        function: a sampler with k-diffusion's signature.
        samples: samples of the clip in model space, or several of them concatenated in the batch.

    Raises:
        torch.OutOfMemoryError: see `explain_out_of_memory`.
    """
    out = clip.model.model.process_latent_out(samples.float())
    with explain_out_of_memory(clip):
        return run_guider(guider, UnitScaleSampler(function, clip.noise_kind == FLOW), sigmas, out)


@contextmanager
def explain_out_of_memory(clip: StageInput) -> Iterator[None]:
    """Add the control to change to out-of-memory errors of a MODEL that processes several frames together.

    Raises:
        torch.OutOfMemoryError: ComfyUI unloads all models when it catches this type.
    """
    try:
        yield
    except Exception as error:
        comfy.model_management.raise_non_oom(error)
        if clip.spec.pools_norms:
            raise torch.OutOfMemoryError(
                f"out of memory: group_norms whole_clip processes all {len(clip.samples)} frames in one model call. "
                "Set it to per_frame, or use fewer or smaller frames."
            ) from error
        frames = clip.samples.shape[frame_dim(clip.samples)]
        window_frames = min(clip.window_length or frames, frames)
        if not clip.spec.is_video or window_frames == 1:
            raise
        raise torch.OutOfMemoryError(
            f"out of memory: the video model processed {window_frames} frames at once. Set context_length below "
            f"{window_frames} in all nodes of the video model, or use smaller frames."
        ) from error


def denoising_sigmas(clip: StageInput, levels: Tensor, schedule: Schedule) -> Tensor:
    """A schedule's levels from the last level of the clip's inversion, or from the schedule's strength if unknown.

    Raises:
        ValueError: the levels do not reach that start.
    """
    flow, inversion = clip.noise_kind == FLOW, clip.inversion
    if (inversion or schedule).strength == 1:
        start_sigma = None
    else:
        start_sigma = inversion.sigma if inversion else strength_sigma(schedule.strength, flow)
    return denoising_grid(levels, schedule.scheduler, flow, start_sigma)


def make_guider(model: Model, prompts: PromptPair) -> comfy.samplers.CFGGuider:
    """ComfyUI's CFGGuider of a MODEL, with prompts and guidance set."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompts.positive, prompts.negative)
    guider.set_cfg(prompts.cfg)
    return guider


def make_frame_noise(samples: Tensor, frame_indices: Sequence[int] | None, seed: int, mode: str) -> Tensor:
    """ComfyUI's noise for a latent, correlated between frames.

    Args:
        frame_indices: positions of the latent's frames in the whole clip (a LATENT's batch_index), so that they get the
            noise of those frames; None for a whole clip. In a latent of videos they are indices of videos.
        mode: see `noise.correlate_frames`.
    """
    dim = frame_dim(samples)
    if frame_indices is None or mode == "independent" or dim != 0:
        return correlate_frames(comfy.sample.prepare_noise(samples, seed, frame_indices), mode, dim)
    whole = comfy.sample.prepare_noise(samples, seed, range(max(frame_indices) + 1))
    return correlate_frames(whole, mode)[list(frame_indices)]


def _check_solver(clip: StageInput, solver: str) -> None:
    if solver not in SOLVERS:  # ComfyUI does not check a linked value
        raise ValueError(f"solver {solver} is not one of {', '.join(SOLVERS)}. Wire Solver List to it, or unlink it.")
    if solver not in clip.family.solvers:
        raise ValueError(
            f"solver {solver} does not work with a {clip.family.name} model, which cannot be called at the last noise "
            f"level. Set solver to {' or '.join(clip.family.solvers)}."
        )


def _check_reference_grid(clip: StageInput, schedule: Schedule) -> None:
    if not is_reference_compatible(clip.model) or (clip.inversion or schedule).strength < 1:
        raise ValueError(
            "grid reference needs what the released code supports: an eps model with 1000 timesteps, frames in the "
            "batch, and strength 1. Set grid to matched."
        )
    if schedule.steps > 999:
        raise ValueError(f"grid reference takes at most 999 steps, got {schedule.steps}. Lower steps.")

"""The chain's stages on an admitted clip: make frames, invert them, denoise them again."""

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
"""Host samplers that add no noise of their own, which an inverted latent would not survive."""


def sample_frames(
    clip: StageInput, schedule: Schedule, sampler_name: str, seed: int, denoise: float, noise_mode: str
) -> Latent:
    """The host's KSampler on frames in chunks.

    Args:
        denoise: as KSampler's, 0..1.
        noise_mode: how the frames' noise is related (`noise.correlate_frames`).

    Raises:
        ValueError: no steps are left, or a frame is not finite.
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
    """Invert clean frames along the MODEL's own ODE, without guidance.

    A noise_mask stays in the LATENT for later, but every pixel is inverted.

    Returns:
        The inverted LATENT, samples in model space.

    Raises:
        ValueError: before any sampling where schedule, solver and MODEL do not fit; after it where a frame is not
            finite.
        torch.OutOfMemoryError: as `explain_out_of_memory` says.
    """
    _check_solver(clip, solver)
    sampling = clip.model.get_model_object("model_sampling")
    flow = clip.noise == FLOW
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
    model, prompts = prepare_for_inversion(clip.family.for_inversion(clip.model), clip.prompts)
    with explain_out_of_memory(clip):
        out = run_guider(make_guider(model, prompts), UnitScaleSampler(function, flow), sigmas, clip.samples)
    inverted = model.model.process_latent_in(out.float())
    if clip.sliced:
        inverted = rearrange(inverted, "t c 1 h w -> 1 c t h w")
    sigma = sigmas[-1].item()
    inversion = InversionInfo(
        sigma=sigma,
        at_sigma_max=math.isclose(sigma, float(sampling.sigma_max), rel_tol=1e-5),
        strength=schedule.strength,
        grid=schedule.grid,
        branch="video" if clip.role.video else "image",
        latent_format=type(model.get_model_object("latent_format")).__name__,
        family=clip.noise,
    )
    return make_inverted_latent(clip.latent, inverted, inversion)


def denoise(clip: StageInput, schedule: Schedule, sampler_name: str) -> Latent:
    """Denoise an inverted clip, unmasked: as a whole with a video MODEL, or frame by frame with an image MODEL.

    Args:
        schedule: its strength says where to start if the LATENT does not; grid `reference` takes the latent as z at
            t = 981 and ends at t = 0 like the released code.
        sampler_name: one of `DETERMINISTIC_SAMPLERS`.

    Returns:
        The clean LATENT, in the VAE's space, with the noise_mask it came with.

    Raises:
        ValueError: before any sampling where schedule, sampler and latent do not fit; after it where a frame is not
            finite.
    """
    model = clip.model
    if sampler_name not in DETERMINISTIC_SAMPLERS:
        raise ValueError(
            f"{sampler_name} adds noise of its own, which would erase the frames that an inverted latent holds. Set "
            "sampler_name to ddim, or another that adds none."
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
    clip: StageInput, guide: comfy.samplers.CFGGuider, function: Callable[..., Tensor], sigmas: Tensor, samples: Tensor
) -> Tensor:
    """Clean samples, in the VAE's space, out of inverted ones.

    Args:
        function: as k-diffusion's samplers.
        samples: the clip's, in model space, or batches of them.

    Raises:
        torch.OutOfMemoryError: as `explain_out_of_memory` says.
    """
    out = clip.model.model.process_latent_out(samples.float())
    with explain_out_of_memory(clip):
        return run_guider(guide, UnitScaleSampler(function, clip.noise == FLOW), sigmas, out)


@contextmanager
def explain_out_of_memory(clip: StageInput) -> Iterator[None]:
    """Say which control needs less memory, where a MODEL that sees several frames at once runs out of it.

    Raises:
        torch.OutOfMemoryError: by which the host knows to unload all models.
    """
    try:
        yield
    except Exception as error:
        comfy.model_management.raise_non_oom(error)
        if clip.role.pools:
            raise torch.OutOfMemoryError(
                f"out of memory: group_norms whole_clip puts all {len(clip.samples)} frames through the model at once. "
                "Set it to per_frame, or take fewer or smaller frames."
            ) from error
        frames = clip.samples.shape[frame_dim(clip.samples)]
        seen = min(clip.window_length or frames, frames)
        if not clip.role.video or seen == 1:
            raise
        raise torch.OutOfMemoryError(
            f"out of memory: the video model saw {seen} frames at once. Set context_length below {seen} in all "
            "nodes of the video model, or take smaller frames."
        ) from error


def denoising_sigmas(clip: StageInput, levels: Tensor, schedule: Schedule) -> Tensor:
    """A schedule's levels from where an inverted clip stopped, or from the schedule's strength if it does not say.

    Raises:
        ValueError: the levels do not reach that.
    """
    flow, inversion = clip.noise == FLOW, clip.inversion
    if (inversion or schedule).strength == 1:
        top = None
    else:
        top = inversion.sigma if inversion else strength_sigma(schedule.strength, flow)
    return denoising_grid(levels, schedule.scheduler, flow, top)


def make_guider(model: Model, prompts: PromptPair) -> comfy.samplers.CFGGuider:
    """The host's guider of a MODEL, prompts and guidance set."""
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(prompts.positive, prompts.negative)
    made.set_cfg(prompts.cfg)
    return made


def make_frame_noise(samples: Tensor, places: Sequence[int] | None, seed: int, mode: str) -> Tensor:
    """The host's noise for a latent, related from frame to frame.

    Args:
        places: of the latent's frames in the whole clip (a LATENT's batch_index), whose noise they get; None for a
            whole clip. Of a latent of videos they count the videos.
        mode: see `noise.correlate_frames`.
    """
    dim = frame_dim(samples)
    if places is None or mode == "independent" or dim != 0:
        return correlate_frames(comfy.sample.prepare_noise(samples, seed, places), mode, dim)
    whole = comfy.sample.prepare_noise(samples, seed, range(max(places) + 1))
    return correlate_frames(whole, mode)[list(places)]


def _check_solver(clip: StageInput, solver: str) -> None:
    if solver not in SOLVERS:  # the host does not check a word that is wired in
        raise ValueError(f"solver {solver} is not one of {', '.join(SOLVERS)}. Wire Solver List to it, or unlink it.")
    if solver not in clip.family.solvers:
        raise ValueError(
            f"solver {solver} does not work with a {clip.family.name} model, which cannot be called at the last noise "
            f"level. Set solver to {' or '.join(clip.family.solvers)}."
        )


def _check_reference_grid(clip: StageInput, schedule: Schedule) -> None:
    if not is_reference_compatible(clip.model) or (clip.inversion or schedule).strength < 1:
        raise ValueError(
            "grid reference works as the released code does: an eps model of 1000 timesteps, frames in the batch, "
            "strength 1. Set grid to matched."
        )
    if schedule.steps > 999:
        raise ValueError(f"grid reference takes at most 999 steps, got {schedule.steps}. Lower steps.")

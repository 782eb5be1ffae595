"""The chain's three runs through a host guider: make frames, invert them, denoise inverted latents.

Everything goes through `CFGGuider.sample`, so wrappers, hooks and injections that other packs put on a MODEL take
part. Samplers of our own start from the latent as it is: the host's would mix noise in and rescale.
"""

import copy
import math
from collections.abc import Callable
from functools import partial

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..grids import (
    denoising_grid,
    matched_inversion_grid,
    reference_denoising_grid,
    reference_inversion_grid,
    strength_sigma,
    unit_scale,
)
from ..noise import correlate_frames
from ..solvers import SOLVERS
from . import animatediff
from .conditioning import check_conditioning, unguided
from .latents import (
    FLOW,
    TAG,
    as_clip,
    check_encoded,
    check_finite,
    check_inverted,
    check_latent,
    describe,
    description,
    frame_dim,
    sampling_family,
)
from .windows import FrameWindows, check_frame_counts, check_windows, hosted, set_windows

GRIDS = ("matched", "reference")
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

AT_THE_NEXT_LEVEL = ("uni_inv", "fixed_point")
"""Solvers that read the slope at the level that a step leads to, in the end at the grid's last."""

CLIP_CONDITIONING = ("concat_latent_image", "concat_mask", "reference_latents", "time_dim_concat", "keyframe_idxs")
"""Conditioning of a whole video, meaningless for its time slices taken one by one."""


class Progress:
    """A node's bar, in steps times windows; stops the run on the first non-finite frame.

    Every step previews the next frame, so that the run shows them all: the host's previews are single pictures.
    An inversion previews the frame as it is by now, and says that it is to be noise; other runs what it is to become.
    """

    def __init__(self, model, node: str, steps: int, inverts: bool):
        self.node = node
        self.inverts = inverts
        self.steps = steps
        self.done = 0
        self.windows = 1
        self.previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
        self.bar = comfy.utils.ProgressBar(steps)

    def on_window(self, done: int, windows: int) -> None:
        self.windows = windows
        if done < windows:  # the last one is the step's own report
            self.bar.update_absolute(self.done * windows + done, self.steps * windows)

    def __call__(self, step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        check_finite(denoised, self.node, step)
        self.done = step + 1
        preview = self.previewer and self.preview(x if self.inverts else denoised, step)
        self.bar.update_absolute(self.done * self.windows, steps * self.windows, preview)

    def preview(self, latent: Tensor, step: int) -> tuple[str, Image.Image, int]:
        """A frame of a latent as the host sends it to the browser."""
        dim = frame_dim(latent)
        frame = latent.narrow(dim, step % latent.shape[dim], 1)
        if not self.inverts:
            return self.previewer.decode_latent_to_preview_image("JPEG", frame)
        form, picture, side = self.previewer.decode_latent_to_preview_image("JPEG", frame / frame.std())
        return form, captioned(ImageOps.contain(picture, (side, side)), "turning into noise"), side


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text over its lower edge."""
    width, height = picture.size
    line = width // 10
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - line, width, height), "black")
    draw.text((width / 2, height - line / 2), text, "white", ImageFont.load_default(line * 0.7), anchor="mm")
    return picture


class _Predictor(comfy.samplers.KSamplerX0Inpaint):
    """The guider as k-diffusion's model; a cancel takes effect before the next call."""

    def __call__(self, x, sigma, model_options=None, seed=None):
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class UnitScaleSampler(comfy.samplers.Sampler):
    """Runs a k-diffusion function from a latent in diffusers' scale to one in diffusers' scale.

    `latent_image` is taken as z at the grid's first level, x = z * sqrt(1 + sigma^2) (flow models: x = z), and the
    result is brought back from the last level likewise. Noise and mask are ignored.
    """

    def __init__(self, function: Callable[..., Tensor], flow: bool):
        self.function = function
        self.scale = (lambda sigma: 1.0) if flow else unit_scale

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        def report(step: dict) -> None:
            callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)

        first, last = sigmas[0].item(), sigmas[-1].item()
        x = self.function(
            _Predictor(model_wrap, sigmas),
            latent_image * self.scale(first),
            sigmas.clone(),  # uni_pc writes into it
            extra_args=extra_args,
            callback=report,
            disable=disable_pbar,
        )
        return x / self.scale(last)


def run(
    guider,
    node: str,
    sampler,
    sigmas: Tensor,
    latent_image: Tensor,
    *,
    noise: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample, without noise where none is given; progress and the NaN guard as every node of the chain has them."""
    model = guider.model_patcher
    progress = Progress(model, node, len(sigmas) - 1, inverts=bool(sigmas[0] < sigmas[-1]))
    _watch_windows(guider, progress)
    samples = guider.sample(
        torch.zeros_like(latent_image) if noise is None else noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask,
        callback=progress,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    check_finite(samples, node)
    return samples


def _watch_windows(guider, progress: Progress) -> None:
    windows = hosted(guider.model_options.get("context_handler"))
    if windows is not None:
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options["context_handler"] = windows = copy.copy(windows)
        windows.on_window = progress.on_window


def finished(latent: dict, samples: Tensor) -> dict:
    """The incoming LATENT with new samples, on the host's device for results, and without a stale description."""
    out = {k: v for k, v in latent.items() if k not in (TAG, "downscale_ratio_spacial", "downscale_ratio_temporal")}
    out["samples"] = samples.to(
        comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    )
    return out


def _cond_dicts(conditioning: list) -> list[dict]:
    return [{"cross_attn": cond, **extra} for cond, extra in conditioning]


def frame_noise(latent: dict, seed: int, mode: str) -> Tensor:
    """The host's noise for a LATENT (its batch_index counts), related from frame to frame as `mode` says."""
    samples = latent["samples"]
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    return correlate_frames(noise, mode, frame_dim(samples))


def sample_frames(
    model,
    positive: list,
    negative: list,
    latent: dict,
    *,
    node: str,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    noise_mode: str,
) -> dict:
    """The host's KSampler on a MODEL with its frames in chunks (`image_branch`).

    Args:
        latent: LATENT of frames, `[F, C, H, W]` or `[F, C, 1, H, W]`, empty or encoded.
        noise_mode: how the frames' noise is related (`noise.correlate_frames`).

    Raises:
        ValueError: the latent or the conditioning do not fit the MODEL or each other, or a frame is not finite.
    """
    latent = {
        **latent,
        "samples": comfy.sample.fix_empty_latent_channels(
            model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
        ),
    }
    samples = check_latent(latent, model, node)
    if frame_dim(samples) != 0:
        raise ValueError(
            f"{node}: the latent is a video of {samples.shape[2]} latent frames, which this model would make as one. "
            "For frames on their own give it Empty Latent Image with batch_size set to the frame count."
        )
    check_windows(model, samples, node)
    check_conditioning(model, [*positive, *negative], node)
    check_frame_counts([_cond_dicts(positive), _cond_dicts(negative)], samples.shape[0], node)
    _check_picture(model, positive, latent, node)
    sampler = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    if len(sampler.sigmas) < 2:
        raise ValueError(f"{node}: denoise {denoise} leaves no steps to do. Raise denoise, or steps.")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    samples = run(
        guider,
        node,
        comfy.samplers.sampler_object(sampler_name),
        sampler.sigmas,
        samples,
        noise=frame_noise(latent, seed, noise_mode),
        denoise_mask=latent.get("noise_mask"),
        seed=seed,
    )
    return finished(latent, samples)


def invert(
    model,
    conditioning: list,
    latent: dict,
    *,
    node: str,
    branch: str,
    steps: int,
    scheduler: str,
    solver: str,
    strength: float,
    grid: str,
) -> dict:
    """Carry clean frames back to noise along the MODEL's own ODE, without guidance.

    A noise_mask stays in the LATENT for later, but every pixel is inverted.

    Args:
        model: with its windows set (`image_branch`, `video_branch`).
        latent: LATENT of clean frames in the VAE's space, `[F, C, H, W]` or `[B, C, T, H, W]`.
        branch: `image` takes the time slices of a 5-D latent one by one, `video` takes clips whole.
        strength: below 1 the inversion stops halfway (`grids.strength_sigma`).
        grid: `matched` or `reference` (solver ddim, eps, 4-D, strength 1).

    Returns:
        The inverted LATENT, samples in model space.

    Raises:
        ValueError: before any sampling where the inputs do not fit; after it where a frame is not finite.
    """
    if solver not in SOLVERS:  # the host does not check a word that is wired in
        raise ValueError(
            f"{node}: solver {solver} is none of {', '.join(SOLVERS)}. Wire Solver List to it, or unlink it."
        )
    samples = check_latent(latent, model, node, video=branch == "video")
    check_encoded(samples, node)
    slices = branch == "image" and samples.ndim == 5 and samples.shape[2] > 1
    if slices:
        if samples.shape[0] > 1:
            raise ValueError(f"{node}: the latent holds {samples.shape[0]} videos. Pass one (Latent From Batch).")
        samples = rearrange(samples, "1 c t h w -> t c 1 h w")
        conditioning = [
            (cond, {k: v for k, v in extra.items() if k not in CLIP_CONDITIONING}) for cond, extra in conditioning
        ]
    check_windows(model, samples, node)
    animatediff.check_run(model, samples.shape[0], node)
    check_conditioning(model, conditioning, node)
    if branch == "image" or samples.ndim == 4:
        check_frame_counts([_cond_dicts(conditioning)], samples.shape[0], node)
    flow = sampling_family(model, node) == FLOW
    sampling = model.get_model_object("model_sampling")
    if solver in AT_THE_NEXT_LEVEL and getattr(model.model.diffusion_model, "time_r_in", None) is not None:
        raise ValueError(
            f"{node}: a mean-flow model looks ahead to the next noise level, and solver {solver} asks it at the last "
            "one. Set solver ddim or fireflow."
        )
    if grid == "reference":
        _check_reference(model, samples, steps, strength, node)
        if solver != "ddim":
            raise ValueError(f"{node}: grid reference is the released code's DDIM loop, not {solver}. Set solver ddim.")
        sigmas = reference_inversion_grid(sampling.sigmas, steps)
    else:
        schedule = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
        sigmas = named(node, matched_inversion_grid, schedule, flow, strength)

    guider = comfy.samplers.CFGGuider(animatediff.for_inversion(model))
    conditioning = unguided(model, conditioning)
    guider.set_conds(conditioning, conditioning)
    function = partial(SOLVERS[solver], sigma_min=float(sampling.sigma_min))
    inverted = model.model.process_latent_in(
        run(guider, node, UnitScaleSampler(function, flow), sigmas, samples).float()
    )
    if slices:
        inverted = rearrange(inverted, "t c 1 h w -> 1 c t h w")

    out = finished(latent, inverted)
    sigma = sigmas[-1].item()
    out[TAG] = describe(
        model,
        node,
        sigma=sigma,
        at_sigma_max=math.isclose(sigma, float(sampling.sigma_max), rel_tol=1e-5),
        strength=strength,
        grid=grid,
        branch=branch,
    )
    return out


def smooth(
    model,
    positive: list,
    negative: list,
    latent: dict,
    *,
    node: str,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    strength: float,
    grid: str,
) -> dict:
    """Denoise an inverted latent with the video MODEL, unmasked.

    Args:
        model: with its windows set (`video_branch`).
        latent: inverted LATENT, samples in model space.
        strength: where to start if the LATENT does not say.
        grid: `matched`, or `reference` to take the latent as z at t = 981 and end at t = 0 like the released code.

    Returns:
        The clean LATENT, in the VAE's space, with the noise_mask it came with.

    Raises:
        ValueError: before any sampling where the inputs do not fit; after it where a frame is not finite.
    """
    check_inverted(latent, node)
    samples = check_latent(latent, model, node, video=True)
    check_made_for(model, latent, node)
    check_windows(model, samples, node)
    animatediff.check_run(model, samples.shape[0], node)
    check_conditioning(model, [*positive, *negative], node)
    if samples.ndim == 4:
        check_frame_counts([_cond_dicts(positive), _cond_dicts(negative)], samples.shape[0], node)
    flow = sampling_family(model, node) == FLOW
    told = description(latent)
    if grid == "reference":
        _check_reference(model, samples, steps, told.get("strength", strength), node)
        if sampler_name not in ("ddim", "euler"):
            raise ValueError(f"{node}: grid reference denoises by DDIM, not {sampler_name}. Set sampler_name ddim.")
        sigmas = reference_denoising_grid(model.get_model_object("model_sampling").sigmas, steps)
    else:
        schedule = comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, None, model.model_options
        ).sigmas
        sigmas = denoising_sigmas(latent, schedule, flow, strength, node)

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    ksampler = comfy.samplers.sampler_object(sampler_name)
    sampler = UnitScaleSampler(partial(ksampler.sampler_function, **ksampler.extra_options), flow)
    out = run(guider, node, sampler, sigmas, model.model.process_latent_out(samples.float()))
    return finished(latent, out)


def denoising_sigmas(latent: dict, schedule: Tensor, flow: bool, strength: float, node: str) -> Tensor:
    """The schedule from where an inverted LATENT stopped, or from `strength` if it does not say.

    Raises:
        ValueError: a flow model's schedule does not reach noise.
    """
    told = description(latent)
    full = told.get("strength", strength) == 1
    top = None if full else told.get("sigma", strength_sigma(strength, flow))
    return named(node, denoising_grid, schedule, flow, top)


def image_branch(model, frames_per_batch: int, node: str):
    """The MODEL with its frames in independent chunks, 0 for as many as memory holds.

    Raises:
        ValueError: a MODEL whose frames depend on each other.
    """
    return set_windows(model, FrameWindows(frames_per_batch), node)


def video_branch(model, latent: dict, context_length: int, context_overlap: int, node: str):
    """The MODEL with overlapping windows over a long clip, as it is where context_length is 0.

    Raises:
        ValueError: windows that do not move on, or several videos to be cut at once.
    """
    if context_length == 0:
        return model
    if context_overlap >= context_length:
        raise ValueError(
            f"{node}: windows of {context_length} frames that overlap by {context_overlap} do not move on. Set "
            "context_overlap below context_length."
        )
    samples = as_clip(latent["samples"])
    if samples.ndim == 5 and samples.shape[0] > 1:
        raise ValueError(
            f"{node}: the latent holds {samples.shape[0]} videos, and windows cut one at a time. Pass one (Latent From "
            "Batch), or set context_length 0."
        )
    return set_windows(model, FrameWindows(context_length, context_overlap, frame_dim(samples)), node)


def check_made_for(model, latent: dict, node: str) -> None:
    """Refuse an inverted latent of another latent space or kind of noise than the MODEL's, if it says so.

    Raises:
        ValueError: naming both.
    """
    told = description(latent)
    ours = describe(model, node, sigma=0, at_sigma_max=False, strength=1, grid="matched", branch="mix")
    for key, what in (("latent_format", "latent space"), ("family", "kind of noise")):
        if told.get(key, ours[key]) != ours[key]:
            raise ValueError(
                f"{node}: the latent was inverted in {what} {told[key]}, but this model's is {ours[key]}. Invert with "
                "a model that shares its VAE; otherwise decode and encode again."
            )


def _check_picture(model, positive: list, latent: dict, node: str) -> None:
    """Refuse an inpainting or InstructPix2Pix MODEL without the picture that it works on.

    The host would show it a blank one.
    """
    if any("concat_latent_image" in extra for _, extra in positive):
        return
    if isinstance(model.model, comfy.model_base.IP2P):
        raise ValueError(
            f"{node}: an InstructPix2Pix model edits a picture, and none is wired. Wire both prompts through "
            "InstructPixToPixConditioning, with the clip's frames as pixels."
        )
    if "masked_image" in model.model.concat_keys and "noise_mask" not in latent:
        raise ValueError(
            f"{node}: an inpainting model fills in a mask, and none is wired. Wire both prompts through "
            "InpaintModelConditioning, or the encoded clip through Set Latent Noise Mask."
        )


def _check_reference(model, samples: Tensor, steps: int, strength: float, node: str) -> None:
    sampling = model.get_model_object("model_sampling")
    known = (
        isinstance(sampling, comfy.model_sampling.EPS)
        and not isinstance(sampling, (comfy.model_sampling.V_PREDICTION, comfy.model_sampling.X0))
        and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
        and len(sampling.sigmas) == 1000
    )
    if samples.ndim == 5 or not known or strength < 1:
        raise ValueError(
            f"{node}: grid reference reproduces the released code: an eps model of 1000 timesteps with frames in the "
            "batch, strength 1. Set grid matched."
        )
    if steps > 999:
        raise ValueError(
            f"{node}: grid reference has room for 999 steps between t = 1 and 999, not {steps}. Lower steps."
        )


def named(node: str, function: Callable, *args):
    """Put the node's name before what the maths, which knows no nodes, has to say."""
    try:
        return function(*args)
    except ValueError as e:
        raise ValueError(f"{node}: {e}") from None

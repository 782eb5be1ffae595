"""The one way in: a node's inputs are checked against each other, and admitted or refused before any sampling.

The order is the same for every node: the latent alone, the latent against the MODEL, the MODEL against what the node
needs, what the latent is, windows, conditioning. What may be wrong is only warned of; the node shows it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import comfy.sample
from comfy.hooks import EnumHookType
from einops import rearrange
from torch import Tensor

from ..demo.models import AUTOENCODER_CONFIG
from ..measure.latent_statistics import (
    NOISE_STD_RANGE,
    has_noise_std,
    is_plausible_noise,
    is_white_noise,
    noise_statistics,
)
from ..noise import MAX_NOISE_CORRELATION
from .comfy_types import Latent, Model
from .compat import animatediff_evolved
from .compat.comfyui_internals import find_model_modifications, list_patches
from .group_norms import pool_norms
from .inverted_latents import InversionInfo, read_inversion_info
from .latents import frame_dim, to_clip
from .loaders.demo_latents import DemoLatents
from .model_families import ModelFamily, find_family, find_noise_kind, has_distilled_guidance, has_video_latents
from .prompts import PromptPair, check_image_input, check_prompt, disable_distilled_guidance
from .windows import FrameWindows, WindowSettings, check_conditioning, check_windows, set_windows

log = logging.getLogger(__name__)

WHOLE_CLIP_CONDITIONING = (
    "concat_latent_image",
    "concat_mask",
    "reference_latents",
    "time_dim_concat",
    "keyframe_idxs",
)
"""Conditioning of a whole video, meaningless for its time slices taken one by one."""


@dataclass(frozen=True)
class StageSpec:
    """What a node does with a MODEL and a LATENT.

    Args:
        video: whether the MODEL is to see the clip as a whole, as opposed to its frames one by one.
        latent: `start` (empty or encoded), `clean` (encoded) or `inverted`.
        inverts: whether noise rises.
        pools: whether an image MODEL's group norms see all frames together (`norms.pool_norms`).
    """

    video: bool
    latent: str
    inverts: bool = False
    pools: bool = False


GENERATE_FRAMES = StageSpec(video=False, latent="start")
INVERT_FRAMES = StageSpec(video=False, latent="clean", inverts=True)
INVERT_FRAMES_POOLED = StageSpec(video=False, latent="clean", inverts=True, pools=True)
INVERT_CLIP = StageSpec(video=True, latent="clean", inverts=True)
SMOOTH_CLIP = StageSpec(video=True, latent="inverted")
DENOISE_FRAMES = StageSpec(video=False, latent="inverted")


@dataclass(frozen=True)
class StageInput:
    """An admitted request: MODEL, LATENT and prompts that fit each other, and what is known of them.

    Args:
        role: what the node does with it.
        model: with its windows set.
        window_length: of a video model, in frames; 0 where it sees the whole clip.
        family: the MODEL's kind.
        noise: kind of noise, `diffusion` or `flow`; empty where the node need not know.
        latent: as it came.
        samples: as the MODEL takes them.
        sliced: whether they are the time slices of a video, `[T, C, 1, H, W]`, that goes on as `[1, C, T, H, W]`.
        prompts: as the MODEL takes them.
        inversion: how the latent was inverted, where it says so.
    """

    role: StageSpec
    model: Model
    window_length: int
    family: ModelFamily
    noise: str
    latent: Latent
    samples: Tensor
    sliced: bool
    prompts: PromptPair
    inversion: InversionInfo | None


def validate_stage(
    role: StageSpec, model: Model, latent: Latent, prompts: PromptPair, windows: WindowSettings, strength: float = 1.0
) -> StageInput:
    """Check a node's inputs against each other.

    Args:
        windows: in which the MODEL is to see the frames.
        strength: how far a latent was inverted that does not say so itself.

    Raises:
        ValueError: what arrived, what was expected, and which control or wire fixes it.
    """
    samples = validate_samples(latent)
    if role.latent == "start":
        # An older host takes fewer of these, and its latents bring no others.
        ratios = {name: latent[name] for name in latent if name.startswith("downscale_ratio_")}
        samples = comfy.sample.fix_empty_latent_channels(model, samples, **ratios)
    samples = _validate_layout(samples, model, role)
    if latent.get("noise_mask") is not None:
        _check_mask(latent["noise_mask"], samples)
    family = validate_model(model, role.video, prompts, one_by_one=windows.length == 1)
    _warn_lost_patches(family, model)
    noise = "" if role.latent == "start" else find_noise_kind(model)
    inversion = _validate_content(role, model, noise, latent, samples, strength)

    sliced = role.inverts and not role.video and samples.ndim == 5 and samples.shape[2] > 1
    if sliced:
        samples, prompts = _slice_time(samples, prompts)
    model = _set_stage_windows(role, model, windows, samples)
    check_windows(model, samples)
    if role.latent != "start":
        animatediff_evolved.check_sampling(model, samples.shape[0], role.inverts)
    prompts = _validate_prompts(role, family, model, prompts, latent, samples)
    handler = model.model_options.get("context_handler")
    length = getattr(handler, "context_length", windows.length)
    return StageInput(role, model, length, family, noise, latent, samples, sliced, prompts, inversion)


def set_frame_chunks(model: Model, frames_per_batch: int) -> Model:
    """An image MODEL with its frames in independent chunks, 0 for as many as free memory holds.

    Raises:
        ValueError: a MODEL whose frames depend on each other.
    """
    if model.model_options.get("context_handler") is None:
        validate_model(model, video=False, one_by_one=frames_per_batch == 1)
    else:  # windows that it brings stay in force, and there are no chunks
        animatediff_evolved.check_independent_frames(model)
    return set_windows(model, FrameWindows(frames_per_batch))


def _set_stage_windows(role: StageSpec, model: Model, windows: WindowSettings, samples: Tensor) -> Model:
    if role.video:
        return _set_clip_windows(model, windows, samples)
    if not role.pools:
        return set_windows(model, FrameWindows(windows.length))
    if samples.ndim == 4 and 0 < windows.length < len(samples):
        raise ValueError(
            f"group_norms whole_clip needs all {len(samples)} frames in one call, not {windows.length}. Set "
            "frames_per_batch to 0, or group_norms to per_frame."
        )
    return pool_norms(model)


def _set_clip_windows(model: Model, windows: WindowSettings, samples: Tensor) -> Model:
    """A video MODEL with overlapping windows over a clip, as it is where their length is 0."""
    if windows.length == 0:
        return model
    if windows.overlap >= windows.length:
        raise ValueError(
            f"windows of {windows.length} frames cannot overlap by {windows.overlap}. Set context_overlap below "
            "context_length."
        )
    if samples.ndim == 5 and samples.shape[0] > 1:
        raise ValueError(
            f"the latent holds {samples.shape[0]} videos, but windows work on one at a time. Take one with Get Latent "
            "From Batch, or set context_length to 0."
        )
    return set_windows(model, FrameWindows(windows.length, windows.overlap, frame_dim(samples)))


def validate_samples(latent: Latent) -> Tensor:
    """The samples of a LATENT of one part that holds frames.

    Raises:
        ValueError: sound beside the video, or no frames.
    """
    samples = latent["samples"]
    if samples.is_nested:
        raise ValueError(
            "got a latent of several parts (video and audio), expected the video alone. Wire the video part from "
            "Separate AV Latent."
        )
    if samples.numel() == 0:
        raise ValueError("the latent holds no frames. Check the start and count of Select Frames.")
    return samples


def validate_inverted(latent: Latent, strength: float = 1.0) -> InversionInfo | None:
    """How a LATENT was inverted, where it says so; noise that does not say so passes too.

    One rule for every node: what says that it was inverted is believed, and what does not must look like noise.

    Args:
        strength: how far it went if it does not say so.

    Raises:
        ValueError: the latent plainly does not look like noise.
    """
    samples = validate_samples(latent)
    inversion = read_inversion_info(latent)
    std, spatial = noise_statistics(samples)
    seen = f"its noise std is {std:.2f} and neighbouring values correlate at {spatial:.2f}"
    if inversion is not None:
        if strength not in (1, inversion.strength):  # 1 is where nobody has set it
            log.warning(
                "strength %g has no effect: the latent says that it was inverted to %g, and is denoised from there. "
                "To change that set strength in both DDIM Inverse nodes.",
                strength,
                inversion.strength,
            )
        if inversion.strength == 1 and not is_plausible_noise(std, spatial):
            log.warning(
                "The inverted latent is far from noise: %s, expected about 1 and 0. Smooth footage (a sky, a wall) "
                "gives that at any number of steps; if the video smears, check the latent with Inverted Latent Report.",
                seen,
            )
    elif not has_noise_std(std) or (strength == 1 and not is_plausible_noise(std, spatial)):
        low, high = NOISE_STD_RANGE
        raise ValueError(
            f"this latent does not look like noise: {seen}, expected {low:g} to {high:g} and below "
            f"{MAX_NOISE_CORRELATION:g}. Wire the output of DDIM Inverse or Mixed Inversion Blend. If it is an "
            "inverted latent from a file, set strength to that of its inversion, or save it with Save Inverted Latent."
        )
    elif strength == 1 and not is_white_noise(samples):
        log.warning(
            "The latent does not say how far it was inverted and is taken for full noise, although it does not "
            "look quite like it: %s. If its inversion had a strength below 1, set that strength here too, or save it "
            "with Save Inverted Latent.",
            seen,
        )
    return inversion


def validate_model(
    model: Model, video: bool, prompts: PromptPair | None = None, one_by_one: bool = False
) -> ModelFamily:
    """A MODEL's family, if it sees what it is to see.

    Args:
        video: whether it is to see a clip as a whole.
        prompts: whose hooks may change what the MODEL sees.
        one_by_one: whether frames go through one a call, when a video model is an image model too.

    Raises:
        ValueError: an image model where a video model belongs, or the other way round.
    """
    family = find_family(model)
    if video and not family.video:
        found = find_model_modifications(model) + (_describe_hooks(prompts) if prompts else [])
        if not found:
            raise ValueError(
                "got an image model, expected a video model: frames would go through one by one and flicker as before. "
                "Wire ZeroScope or ModelScope (Load Video Diffusion Model), AnimateDiff, Wan or another model that "
                "sees frames together."
            )
        log.warning(
            "The model looks like an image model, with %s. Unless one of these lets it see frames together, the video "
            "will not be steadier: wire a video model.",
            ", ".join(found),
        )
    if not video:
        animatediff_evolved.check_independent_frames(model)
    if not video and family.video and not one_by_one and not has_video_latents(model):
        raise ValueError(
            f"got a video model ({family.name}), expected an image model: frames are processed one by one here. Wire "
            "the image model of the frames, or set frames_per_batch to 1 if there is none; the video model belongs in "
            "DDIM Inverse (Video) and Video Temporal Smoother."
        )
    return family


def _warn_lost_patches(family: ModelFamily, model: Model) -> None:
    lost = [name for name in list_patches(model) if family.patches is not None and name not in family.patches]
    if lost:
        log.warning(
            "Patches of other nodes have no effect on this model: %s (a %s does not support them). Remove them, or use "
            "them on the image model.",
            ", ".join(lost),
            family.name,
        )


def _describe_hooks(prompts: PromptPair) -> list[str]:
    """Hooks on CONDITIONING that change more than weights, in words."""
    groups = [extra["hooks"] for _, extra in [*prompts.positive, *prompts.negative] if "hooks" in extra]
    kinds = {hook.hook_type.value for group in groups for hook in group.hooks if hook.hook_type != EnumHookType.Weight}
    return [f"hooks ({', '.join(sorted(kinds))})"] if kinds else []


def _validate_layout(samples: Tensor, model: Model, role: StageSpec) -> Tensor:
    """Samples of the layout and channels that the MODEL takes; a clip where the MODEL is to see motion."""
    latent_format = model.get_model_object("latent_format")
    dims = latent_format.latent_dimensions + 2
    if samples.ndim != dims:
        need = "frames in the batch, [F, C, H, W]" if dims == 4 else "a video latent, [1, C, T, H, W]"
        raise ValueError(
            f"the latent is {samples.ndim}-D, {list(samples.shape)}, but this model needs {need}. Encode the frames "
            "with the VAE that belongs to this model."
        )
    if samples.shape[1] != latent_format.latent_channels:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels but this model needs {latent_format.latent_channels}. Encode "
            "the frames with the VAE that belongs to this model."
        )
    size = AUTOENCODER_CONFIG["sample_size"]
    height, width = (8 * side for side in samples.shape[-2:])
    if isinstance(latent_format, DemoLatents) and (height, width) != (size, size):
        raise ValueError(
            f"the frames are {width}x{height} pixels, expected {size}x{size}: the demo models know no other size. "
            f"Scale them with Upscale Image to width and height {size}, or wire models of your own."
        )
    if role.video:
        samples = to_clip(samples)
    dim = frame_dim(samples)
    if role.video and samples.shape[dim] == 1:
        raise ValueError(
            "the latent has one frame, and a video model needs at least 2. Take more of the clip: raise count or lower "
            "stride in Select Frames."
        )
    if not role.video and not role.inverts and dim != 0:
        raise ValueError(
            f"the latent is a video of {samples.shape[2]} latent frames, which this model would draw as one clip. For "
            "single frames wire Empty Latent Image with batch_size set to the frame count, or frames encoded one by "
            "one."
        )
    return samples


def _check_mask(mask: Tensor, samples: Tensor) -> None:
    """The host would repeat a noise_mask of another frame count, and stretch one of another shape, silently."""
    frames = samples.shape[frame_dim(samples)]
    count = mask.shape[-3] if mask.ndim == 5 else mask.shape[0]
    (mask_height, mask_width), (height, width) = mask.shape[-2:], samples.shape[-2:]
    if count not in (1, frames):
        raise ValueError(
            f"the mask has {count} frames but the latent has {frames}. Give one mask, or one for each frame."
        )
    if not math.isclose(mask_width / mask_height, width / height, rel_tol=0.02):
        raise ValueError(
            f"the mask is {mask_width}x{mask_height} but the latent {width}x{height}. Give Set Latent Noise Mask a "
            "mask of the frames' size."
        )


def _validate_content(
    role: StageSpec, model: Model, noise: str, latent: Latent, samples: Tensor, strength: float
) -> InversionInfo | None:
    """How a latent was inverted, if that is what the node takes; frames where it takes frames."""
    if role.latent == "inverted":
        inversion = validate_inverted(latent, strength)
        if inversion is not None:
            _check_latent_space(inversion, model, noise)
        return inversion
    if read_inversion_info(latent) is not None:
        raise ValueError(
            "got an inverted latent, expected frames. Wire the output of Frame-wise Image Sampler or VAE Encode; "
            "inverted latents go to Mixed Inversion Blend, Video Temporal Smoother or Inverted Latent to Noise."
        )
    white = is_white_noise(samples)
    if role.latent == "start" and white:
        raise ValueError(
            "the latent looks like noise but does not say how far it was inverted, and fresh noise would be added to "
            "it. If it is an inverted latent from a file, load it with Load Inverted Latent; to draw frames, wire "
            "Empty Latent Image or VAE Encode."
        )
    if role.latent == "clean":
        if not samples.any():
            raise ValueError(
                "the latent is empty (all zeros): there is nothing to invert. Wire the image model's frames, or VAE "
                "Encode."
            )
        if white:
            log.warning(
                "The latent to invert looks like noise, not like frames. Wire the output of Frame-wise Image Sampler "
                "or VAE Encode, not of another DDIM Inverse."
            )
    return None


def _check_latent_space(inversion: InversionInfo, model: Model, noise: str) -> None:
    ours = type(model.get_model_object("latent_format")).__name__
    for what, theirs, mine in (
        ("latent space", inversion.latent_format, ours),
        ("kind of noise", inversion.family, noise),
    ):
        if theirs != mine:
            raise ValueError(
                f"the latent was inverted in {what} {theirs}, but this model's is {mine}. Invert with a model that "
                "shares its VAE, or decode and encode again."
            )


def _slice_time(samples: Tensor, prompts: PromptPair) -> tuple[Tensor, PromptPair]:
    """A video's time slices as clips of length 1, and prompts without what belongs to the whole."""
    if samples.shape[0] > 1:
        raise ValueError(f"the latent holds {samples.shape[0]} videos. Take one with Get Latent From Batch.")
    plain = [
        (text, {key: value for key, value in extra.items() if key not in WHOLE_CLIP_CONDITIONING})
        for text, extra in prompts.positive
    ]
    return rearrange(samples, "1 c t h w -> t c 1 h w"), PromptPair.without_guidance(plain)


def _validate_prompts(
    role: StageSpec, family: ModelFamily, model: Model, prompts: PromptPair, latent: Latent, samples: Tensor
) -> PromptPair:
    """CONDITIONING that the MODEL can read, of as many frames as the latent; an inversion's without guidance."""
    conds = [*prompts.positive, *prompts.negative]
    for text, extra in conds:
        check_prompt(text, extra, family, family.text_width(model.model))
    if not role.video and not role.inverts:
        check_image_input(family, prompts, latent)
    if frame_dim(samples) == 0:
        check_conditioning([[{"cross_attn": text, **extra} for text, extra in conds]], samples.shape[0])
    if not role.inverts:
        return prompts
    if not role.video and any("control" in extra for _, extra in conds):
        log.warning(
            "Got a prompt with a ControlNet, expected a plain one: the noise leaves out what the control shows, and "
            "the video model, which has no such control, would lose those shapes. Wire the prompt from before Apply "
            "ControlNet."
        )
    return disable_distilled_guidance(prompts) if has_distilled_guidance(model) else prompts

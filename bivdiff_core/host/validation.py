"""Validate a node's inputs against each other, before any sampling.

The order is the same for every node: the latent, the latent against the MODEL, the MODEL against the stage, the content
of the latent, windows, conditioning. Errors stop the run. Doubtful inputs raise warnings, which the node shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
from ..node_warnings import warn
from ..noise import MAX_NOISE_CORRELATION
from .comfy_types import Latent, Model
from .compat import animatediff_evolved
from .compat.comfyui_internals import find_model_modifications, list_patches
from .control_hints import check_clip_conditioning, check_conditioning
from .group_norms import pool_norms
from .inverted_latents import InversionInfo, InvertedLatent
from .latents import check_finite, describe_samples, frame_dim, to_clip
from .loaders.demo_latents import DemoLatents
from .model_families import (
    ModelFamily,
    count_frames,
    describe_distillation,
    find_difference,
    find_family,
    find_noise_kind,
    frames_per_latent,
    has_distilled_guidance,
    has_time_axis,
    latent_format_name,
)
from .prompts import PromptPair, check_image_input, check_prompt, disable_distilled_guidance
from .windows import (
    FrameWindows,
    WindowSettings,
    as_frame_windows,
    check_windows,
    set_windows,
    warn_about_changing_windows,
)

WHOLE_CLIP_CONDITIONING = (
    *("audio_embed", "camera_conditions", "concat_latent_image", "concat_mask", "context_latents", "control_video"),
    *("driving_mask_28ch", "face_video_pixels", "keyframe_idxs", "pose_video_latent", "ref_mask_28ch"),
    *("reference_latents", "reference_motion", "time_dim_concat", "vace_frames", "vace_mask", "vace_strength"),
)
"""Conditioning of a whole video, which has no meaning for single frames."""


@dataclass(frozen=True)
class StageSpec:
    """What a stage does with a MODEL and a LATENT.

    Args:
        is_video: whether the MODEL processes the clip as a whole (a video model) or single frames (an image model).
        latent_kind: expected content: `start` (empty or encoded), `clean` (encoded), `inverted`, or `any` of start and
            inverted.
        is_inversion: whether the stage inverts; otherwise it denoises.
        pools_norms: whether an image MODEL's group norms pool all frames (`group_norms.pool_norms`).
    """

    is_video: bool
    latent_kind: str
    is_inversion: bool = False
    pools_norms: bool = False


GENERATE_OR_DENOISE_FRAMES = StageSpec(is_video=False, latent_kind="any")
INVERT_FRAMES = StageSpec(is_video=False, latent_kind="clean", is_inversion=True)
INVERT_FRAMES_POOLED = StageSpec(is_video=False, latent_kind="clean", is_inversion=True, pools_norms=True)
INVERT_CLIP = StageSpec(is_video=True, latent_kind="clean", is_inversion=True)
SMOOTH_CLIP = StageSpec(is_video=True, latent_kind="inverted")
DENOISE_FRAMES = StageSpec(is_video=False, latent_kind="inverted")


@dataclass(frozen=True)
class StageInput:
    """Validated inputs of a stage: MODEL, LATENT and prompts that fit each other.

    Args:
        spec: the stage.
        model: MODEL with its windows set.
        window_length: latents per window of a video model; 0 if it processes the whole clip.
        family: the MODEL's family.
        noise_kind: `diffusion` or `flow`; empty if the stage does not need it.
        latent: the node's input, unchanged.
        samples: the latent's samples in the layout that the MODEL expects.
        is_time_sliced: whether `samples` are time slices of a video, `[T, C, 1, H, W]`; the result must be joined to
            `[1, C, T, H, W]`.
        prompts: prompts in the form that the MODEL expects.
        inverted: the inverted latent; None if the stage starts from another one.
        boundary: noise level that separates the two experts of a model.
        low_noise: the same stage with the expert for the noise levels below `boundary`; None with one model.
    """

    spec: StageSpec
    model: Model
    window_length: int
    family: ModelFamily
    noise_kind: str
    latent: Latent
    samples: Tensor
    is_time_sliced: bool
    prompts: PromptPair
    inverted: InvertedLatent | None
    boundary: float
    low_noise: StageInput | None = None

    @property
    def inversion_info(self) -> InversionInfo | None:
        """How the latent was inverted; None if unknown or not inverted."""
        return None if self.inverted is None else self.inverted.info


def validate_stage(
    spec: StageSpec,
    model: Model,
    latent: Latent,
    prompts: PromptPair,
    windows: WindowSettings,
    strength: float = 1.0,
    low_noise_model: Model | None = None,
    boundary: float = 0.875,
) -> StageInput:
    """Check a node's inputs against each other.

    Args:
        windows: frames per model call.
        strength: strength of the inversion, for a latent without inversion record.
        low_noise_model: the expert for the noise levels below `boundary` (Wan 2.2); None with one model.
        boundary: as in `StageInput`; text to video by default.

    Raises:
        ValueError: what arrived, what was expected, and which control or wire fixes it.
    """
    samples = validate_samples(latent)
    inverted = InvertedLatent.from_latent(latent)
    if spec.latent_kind == "any":
        spec = replace(spec, latent_kind="inverted" if inverted.info else "start")
    if spec.latent_kind == "start":
        # Older ComfyUI versions have fewer of these parameters, and their latents fewer of these keys.
        ratios = {name: latent[name] for name in latent if name.startswith("downscale_ratio_")}
        samples = comfy.sample.fix_empty_latent_channels(model, samples, **ratios)
    samples = _validate_layout(samples, model, spec)
    if latent.get("noise_mask") is not None:
        _check_mask(latent["noise_mask"], samples)
    family = validate_model(model, spec.is_video, prompts, per_frame=windows.length == 1)
    if spec.is_video and spec.latent_kind == "clean":
        _reject_single_frames(latent["samples"], model)
    _warn_unsupported_patches(family, model)
    noise_kind = "" if spec.latent_kind == "start" else find_noise_kind(model)
    _validate_content(spec, model, noise_kind, inverted, samples, strength)

    is_time_sliced = spec.is_inversion and not spec.is_video and samples.ndim == 5 and samples.shape[2] > 1
    if is_time_sliced:
        _check_single_video(samples)
        samples = rearrange(samples, "1 c t h w -> t c 1 h w")
    if is_time_sliced or (spec.is_inversion and not spec.is_video and family.is_video):
        prompts = _without_clip_conditioning(prompts)
    stage_input = StageInput(
        spec=spec,
        model=model,
        window_length=windows.length,
        family=family,
        noise_kind=noise_kind,
        latent=latent,
        samples=samples,
        is_time_sliced=is_time_sliced,
        prompts=prompts,
        inverted=inverted if spec.latent_kind == "inverted" else None,
        boundary=boundary,
    )
    fitted = _fit_model(stage_input, windows)
    if low_noise_model is None:
        return fitted
    expert = _fit_model(_with_low_noise_model(stage_input, low_noise_model), windows)
    return replace(fitted, low_noise=expert)


def _fit_model(stage_input: StageInput, windows: WindowSettings) -> StageInput:
    """Set the windows of a stage's MODEL, and check MODEL and prompts against the latent."""
    spec, samples = stage_input.spec, stage_input.samples
    model = _set_stage_windows(spec, stage_input.model, windows, samples)
    check_windows(model, samples)
    if spec.is_inversion:
        _warn_distilled(model)
    if spec.latent_kind != "start":
        warn_about_changing_windows(model, samples)
        animatediff_evolved.check_sampling(model, samples.shape[0], spec.is_inversion)
    prompts = _validate_prompts(spec, stage_input.family, model, stage_input.prompts, stage_input.latent, samples)
    handler = model.model_options.get("context_handler")
    length = getattr(handler, "context_length", windows.length)
    return replace(stage_input, model=model, prompts=prompts, window_length=length)


def _with_low_noise_model(stage_input: StageInput, model: Model) -> StageInput:
    """The stage with the expert for low noise, which must be of the same kind.

    Raises:
        ValueError: it has another latent space or kind of noise, or is of another family (Wan beside Qwen-Image).
    """
    low_family, high_family = find_family(model), stage_input.family
    of_family = None if low_family is high_family else ("model family", low_family.name, high_family.name)
    if difference := find_difference(model, stage_input.model) or of_family:
        what, low, high = difference
        raise ValueError(
            f"low_noise_model has {what} {low}, but model has {high}. Wire both experts of one model, or unlink "
            "low_noise_model."
        )
    family = validate_model(model, stage_input.spec.is_video, per_frame=not stage_input.spec.is_video)
    _warn_unsupported_patches(family, model)
    return replace(stage_input, model=model, family=family)


def set_frame_chunks(model: Model, frames_per_batch: int) -> Model:
    """An image MODEL that processes its frames in independent chunks.

    Args:
        frames_per_batch: frames per chunk; 0 means as many as fit in free memory.

    Raises:
        ValueError: the MODEL's frames depend on each other.
    """
    if model.model_options.get("context_handler") is None:
        validate_model(model, is_video=False, per_frame=frames_per_batch == 1)
    else:  # the MODEL's own context windows stay and replace the chunks
        animatediff_evolved.check_independent_frames(model)
    return set_windows(model, FrameWindows(frames_per_batch))


def _set_stage_windows(spec: StageSpec, model: Model, windows: WindowSettings, samples: Tensor) -> Model:
    if spec.is_video:
        return _set_clip_windows(model, windows, samples)
    if not spec.pools_norms:
        return set_windows(model, FrameWindows(windows.length))
    if samples.ndim == 4 and 0 < windows.length < len(samples):
        raise ValueError(
            f"group_norms whole_clip needs all {len(samples)} frames in one call, not {windows.length}. Set "
            "frames_per_batch to 0, or group_norms to per_frame."
        )
    return pool_norms(model)


def _set_clip_windows(model: Model, windows: WindowSettings, samples: Tensor) -> Model:
    """A video MODEL with overlapping windows over a clip; without, if their length is 0 and the MODEL has none."""
    handler = model.model_options.get("context_handler")
    if windows.length == 0:
        return model if as_frame_windows(handler) is None else set_windows(model, handler)
    if windows.overlap >= windows.length:
        raise ValueError(
            f"windows of {windows.length} frames cannot overlap by {windows.overlap} frames. Set context_overlap below "
            "context_length."
        )
    _check_single_video(samples, ", or set context_length to 0")
    return set_windows(model, FrameWindows(*windows.count_latents(frames_per_latent(model)), frame_dim(samples)))


def _check_single_video(samples: Tensor, alternative: str = "") -> None:
    """Reject a latent `[B, C, T, H, W]` of several videos."""
    if samples.ndim == 5 and samples.shape[0] > 1:
        raise ValueError(
            f"the latent holds {samples.shape[0]} videos, expected one. Select one with Get Latent From "
            f"Batch{alternative}."
        )


def validate_samples(latent: Latent) -> Tensor:
    """The samples of a LATENT.

    Raises:
        ValueError: the latent also has an audio part, has no frames, or a frame is not finite.
    """
    samples = latent["samples"]
    if samples.is_nested:
        raise ValueError(
            "got a latent with several parts (video and audio), expected the video part only. Wire the video part from "
            "Separate AV Latent."
        )
    if samples.numel() == 0:
        raise ValueError("the latent holds no frames. Check the start and count of Select Frames.")
    check_finite(samples)
    return samples


def validate_inverted(latent: Latent, strength: float = 1.0) -> InvertedLatent:
    """Parse an inverted LATENT and check it.

    All nodes use the same rule. A latent with an inversion record is accepted, with warnings; one without must look
    like noise.

    Args:
        strength: strength of the inversion, for a latent without record.

    Raises:
        ValueError: the latent has no record and does not look like noise.
    """
    validate_samples(latent)
    inverted = InvertedLatent.from_latent(latent)
    _check_noise(inverted, strength)
    return inverted


def _check_noise(inverted: InvertedLatent, strength: float) -> None:
    info = inverted.info
    std, spatial = noise_statistics(inverted.samples)
    measured = f"its noise std is {std:.2f} and the correlation of adjacent values is {spatial:.2f}"
    if info is not None:
        if strength not in (1, info.strength):  # 1 is the default
            warn(
                "strength %g has no effect: the latent was inverted with strength %g, and denoising starts there. To "
                "change it, set strength in both DDIM Inverse nodes.",
                strength,
                info.strength,
            )
        if info.is_full_noise and not is_plausible_noise(std, spatial):
            warn(
                "The inverted latent is far from noise: %s, expected about 1 and 0. Smooth footage (a sky, a wall) "
                "gives such values at any number of steps. If the video smears, check the latent with Inverted Latent "
                "Report.",
                measured,
            )
    elif not has_noise_std(std) or (strength == 1 and not is_plausible_noise(std, spatial)):
        low, high = NOISE_STD_RANGE
        raise ValueError(
            f"this latent does not look like noise: {measured}, expected {low:g} to {high:g} and below "
            f"{MAX_NOISE_CORRELATION:g}. Wire the output of DDIM Inverse or Mixed Inversion Blend. If it is an "
            "inverted latent from a file, set strength to the strength of its inversion, or save it with Save Inverted "
            "Latent."
        )
    elif strength == 1 and not is_white_noise(inverted.samples):
        warn(
            "The latent does not record how far it was inverted. It is used as full noise but differs from white "
            "noise: %s. If its inversion had a strength below 1, set that strength here too, or save the latent with "
            "Save Inverted Latent.",
            measured,
        )


def validate_model(
    model: Model, is_video: bool, prompts: PromptPair | None = None, per_frame: bool = False
) -> ModelFamily:
    """Check that a MODEL is an image or a video model, as the stage needs; returns its family.

    Args:
        is_video: whether a video model is expected.
        prompts: prompts whose hooks may make an image model process frames together.
        per_frame: whether each model call gets one frame; a video model then works as an image model.

    Raises:
        ValueError: got an image model, expected a video model, or the reverse.
    """
    family = find_family(model)
    if is_video and not family.is_video:
        found = find_model_modifications(model) + (_describe_hooks(prompts) if prompts else [])
        if not found:
            raise ValueError(
                "got an image model, expected a video model: it would process frames independently, so the flicker "
                "would stay. Wire ZeroScope or ModelScope (Load Video Diffusion Model), AnimateDiff, Wan or another "
                "model that processes frames together."
            )
        warn(
            "The model looks like an image model, with %s. Unless one of these makes it process frames together, the "
            "video will flicker as before: wire a video model.",
            ", ".join(found),
        )
    if not is_video:
        animatediff_evolved.check_independent_frames(model)
    if not is_video and family.is_video and not per_frame and not has_time_axis(model):
        raise ValueError(
            f"got a video model ({family.name}), expected an image model: this node processes frames independently. "
            "Wire the image model of the frames, or set frames_per_batch to 1 if there is none. Video models belong in "
            "DDIM Inverse (Video) and Video Temporal Smoother."
        )
    return family


def validate_pair(image_model: Model, video_model: Model) -> None:
    """Check that an image and a video MODEL can predict the same latents in one run.

    Raises:
        ValueError: they differ in latent space or kind of noise, or one of them uses AnimateDiff-Evolved.
    """
    for model in (image_model, video_model):
        animatediff_evolved.check_two_model_sampling(model)
    if difference := find_difference(image_model, video_model):
        what, image, video = difference
        raise ValueError(
            f"the image model's {what} is {image}, the video model's is {video}. Use models that share a VAE, such as "
            "Stable Diffusion 1.5 with ZeroScope."
        )


def _warn_unsupported_patches(family: ModelFamily, model: Model) -> None:
    supported = family.supported_patches
    unsupported = [name for name in list_patches(model) if supported is not None and name not in supported]
    if unsupported:
        warn(
            "Patches of other nodes have no effect on this model: %s (a %s does not support them). Remove them, or use "
            "them on the image model.",
            ", ".join(unsupported),
            family.name,
        )


def _warn_distilled(model: Model) -> None:
    if found := describe_distillation(model):
        warn(
            "The model is distilled to few steps (%s). An inversion follows a model's direction from each noise level "
            "to the next, and a distilled model jumps to the end: the result is wrong at any number of steps. Wire the "
            "plain model here; a distilled one belongs in Video Temporal Smoother only.",
            found,
        )


def _describe_hooks(prompts: PromptPair) -> list[str]:
    """Describe the hooks on CONDITIONING that change more than weights; empty if there are none."""
    groups = [extra["hooks"] for _, extra in [*prompts.positive, *prompts.negative] if "hooks" in extra]
    kinds = {hook.hook_type.value for group in groups for hook in group.hooks if hook.hook_type != EnumHookType.Weight}
    return [f"hooks ({', '.join(sorted(kinds))})"] if kinds else []


def _validate_layout(samples: Tensor, model: Model, spec: StageSpec) -> Tensor:
    """Check layout and channels against the MODEL; returns the samples, as a clip for a video model."""
    latent_format = model.get_model_object("latent_format")
    dims = latent_format.latent_dimensions + 2
    if samples.ndim != dims:
        expected = "a batch of frames" if dims == 4 else "a video latent"
        raise ValueError(
            f"encode the frames with the VAE that belongs to this model, which needs {expected}: the latent is "
            f"{describe_samples(samples)}."
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
            f"the frames are {width}x{height} pixels, expected {size}x{size}: the demo models support no other size. "
            f"Set width and height of Upscale Image to {size}, or wire other models."
        )
    if spec.is_video:
        samples = to_clip(samples)
    dim = frame_dim(samples)
    if spec.is_video and samples.shape[dim] == 1:
        raise ValueError(
            "the latent has one frame, but a video model needs at least 2. Raise count or lower stride in Select "
            "Frames, or raise batch_size in Empty Latent Image."
        )
    if not spec.is_video and not spec.is_inversion and dim != 0:
        raise ValueError(
            f"the latent is a video of {samples.shape[2]} latent frames, which this model would generate as one clip. "
            "For single frames, wire Empty Latent Image with batch_size set to the frame count, or frames encoded "
            "individually."
        )
    return samples


def _reject_single_frames(samples: Tensor, model: Model) -> None:
    """Reject frames `[F, C, 1, H, W]` where the model packs several frames in a latent of a clip."""
    frames, packed = len(samples), frames_per_latent(model)
    if samples.ndim == 5 and samples.shape[2] == 1 < frames and packed > 1:
        raise ValueError(
            f"got {frames} frames encoded one by one, expected a clip: this model packs {packed} frames in a latent, "
            f"so they would become a clip of {count_frames(frames, model)} frames. Decode the frames, and encode them "
            "with Encode Frames and mode clip."
        )


def _check_mask(mask: Tensor, samples: Tensor) -> None:
    """Reject a noise_mask of another frame count or aspect ratio; ComfyUI would silently repeat or stretch it."""
    frames = samples.shape[frame_dim(samples)]
    count = mask.shape[-3] if mask.ndim == 5 else mask.shape[0]
    (mask_height, mask_width), (height, width) = mask.shape[-2:], samples.shape[-2:]
    if count not in (1, frames):
        raise ValueError(
            f"the mask has {count} frames but the latent has {frames}. Use one mask, or one for each frame."
        )
    if not math.isclose(mask_width / mask_height, width / height, rel_tol=0.02):
        raise ValueError(
            f"the mask is {mask_width}x{mask_height} but the latent is {width}x{height}. Wire a mask of the frames' "
            "size to Set Latent Noise Mask."
        )


def _validate_content(
    spec: StageSpec, model: Model, noise_kind: str, inverted: InvertedLatent, samples: Tensor, strength: float
) -> None:
    """Check that a latent holds what the stage expects."""
    if spec.latent_kind == "inverted":
        _check_noise(inverted, strength)
        if inverted.info is not None:
            _check_latent_space(inverted.info, model, noise_kind)
        return
    if inverted.info is not None:
        raise ValueError(
            "got an inverted latent, expected frames. Wire the output of Frame-wise Image Sampler or VAE Encode; "
            "inverted latents go to Mixed Inversion Blend, Video Temporal Smoother or Inverted Latent to Noise."
        )
    white = is_white_noise(samples)
    if spec.latent_kind == "start" and white:
        raise ValueError(
            "the latent looks like noise but does not record how far it was inverted, and this node would add noise "
            "to it. If it is an inverted latent from a file, load it with Load Inverted Latent. To generate frames, "
            "wire Empty Latent Image or VAE Encode."
        )
    if spec.latent_kind == "clean":
        if not samples.any():
            raise ValueError(
                "the latent is empty (all zeros): there is nothing to invert. Wire the image model's frames, or VAE "
                "Encode."
            )
        if white:
            warn(
                "The latent to invert looks like noise, not like frames. Wire the output of Frame-wise Image Sampler "
                "or VAE Encode, not of another DDIM Inverse."
            )


def _check_latent_space(info: InversionInfo, model: Model, noise_kind: str) -> None:
    for what, of_latent, of_model in (
        ("latent space", info.latent_format, latent_format_name(model)),
        ("kind of noise", info.family, noise_kind),
    ):
        if of_latent != of_model:
            raise ValueError(
                f"the latent was inverted in {what} {of_latent}, but this model's is {of_model}. Invert with a model "
                "that shares its VAE, or decode and encode again."
            )


def _without_clip_conditioning(prompts: PromptPair) -> PromptPair:
    """An inversion's prompts without `WHOLE_CLIP_CONDITIONING`."""
    return PromptPair.without_guidance(
        [
            (text, {key: value for key, value in extra.items() if key not in WHOLE_CLIP_CONDITIONING})
            for text, extra in prompts.positive
        ]
    )


def _validate_prompts(
    spec: StageSpec, family: ModelFamily, model: Model, prompts: PromptPair, latent: Latent, samples: Tensor
) -> PromptPair:
    """Check that CONDITIONING fits MODEL and latent; for an inversion, returns it without distilled guidance."""
    conds = [*prompts.positive, *prompts.negative]
    for text, extra in conds:
        check_prompt(text, extra, family, family.text_width(model.model))
    if spec.is_video or not spec.is_inversion:  # the image branch inverts frames without an image
        check_image_input(family, prompts, latent)
    if frame_dim(samples) == 0:
        check_conditioning([[{"cross_attn": text, **extra} for text, extra in conds]], samples.shape[0])
    else:
        latents = samples.shape[2]
        check_clip_conditioning([extra for _, extra in conds], latents, count_frames(latents, model))
    if not spec.is_inversion:
        return prompts
    if not spec.is_video and any("control" in extra for _, extra in conds):
        warn(
            "Got a prompt with a ControlNet, expected one without: the inverted noise would leave out the shapes in "
            "the control hint, and the video model has no such control to restore them. Wire the prompt from before "
            "Apply ControlNet."
        )
    return disable_distilled_guidance(prompts) if has_distilled_guidance(model) else prompts

"""A stand-in for AnimateDiff-Evolved, which no package index has: the classes, attachments and wrappers that a MODEL
of that pack carries (version 1.5.7), acting on them as the pack does where a run of ours depends on it.

The motion model is a single layer that draws every frame towards the mean of the frames seen with it.
"""

import copy
import math
from dataclasses import dataclass, field, replace

import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import PatcherInjection, WrappersMP
from torch import Tensor

ADE = "ADE"


@dataclass
class ContextOptions:
    """Windows, as one of the pack's context nodes describes them."""

    context_length: int | None = None
    context_stride: int | None = None
    context_overlap: int | None = None
    context_schedule: str | None = None
    closed_loop: bool = False
    fuse_method: str = "flat"
    use_on_equal_length: bool = False
    view_options: "ContextOptions | None" = None
    start_percent: float = 0.0
    guarantee_steps: int = 1


@dataclass
class NaiveReuse:
    """A Context Extra: each step's prediction is mixed with the last one's."""

    weighted_mean: float = 0.5
    last: Tensor | None = None


class ContextExtrasGroup:
    """The Context Extras of a MODEL."""

    def __init__(self):
        self.naive_reuse: NaiveReuse | None = None

    def get_extras_list(self) -> list[NaiveReuse]:
        return [] if self.naive_reuse is None else [self.naive_reuse]


class ContextOptionsGroup:
    """Windows one after another in a run; those in force show as attributes of the group."""

    def __init__(self):
        self.contexts: list[ContextOptions] = []
        self.extras = ContextExtrasGroup()

    @classmethod
    def default(cls) -> "ContextOptionsGroup":
        group = cls()
        group.add(ContextOptions())
        return group

    def add(self, context: ContextOptions) -> None:
        self.contexts = sorted([*self.contexts, context], key=lambda c: c.start_percent)

    def clone(self) -> "ContextOptionsGroup":
        group = ContextOptionsGroup()
        group.contexts = list(self.contexts)
        group.extras = self.extras
        return group

    def __getattr__(self, name: str):
        if name in ContextOptions.__dataclass_fields__:
            return getattr(self.contexts[0], name)
        raise AttributeError(name)


class InjectionParams:
    """The attachment ADE_params."""

    def __init__(self):
        self.context_options = ContextOptionsGroup.default()
        self.full_length = None

    def set_context(self, group: ContextOptionsGroup) -> None:
        self.context_options = group.clone()

    def clone(self) -> "InjectionParams":
        params = InjectionParams()
        params.set_context(self.context_options)
        params.full_length = self.full_length
        return params

    def on_model_patcher_clone(self) -> "InjectionParams":
        return self.clone()


class ImageInjections(list):
    """Images that replace the frames in the middle of a run."""

    def is_empty(self) -> bool:
        return not self


@dataclass
class IterationOptions:
    """Whole runs one after another, each from the last one's frames."""

    iterations: int = 1


class NoiseLayers(list):
    """Noises that are laid over the first one."""

    def is_empty(self) -> bool:
        return not self


@dataclass
class SampleSettings:
    """The attachment ADE_sample_settings."""

    noise_type: str = "default"
    seed_gen: str = "comfy"
    seed_override: int | None = None
    seed_offset: int = 0
    batch_offset: int = 0
    noise_layers: NoiseLayers = field(default_factory=NoiseLayers)
    iteration_opts: IterationOptions = field(default_factory=IterationOptions)
    image_injection: ImageInjections = field(default_factory=ImageInjections)
    noise_calibration: object = None
    custom_cfg: float | None = None


@dataclass
class Keyframe:
    """How strong the motion is from a point of the run on."""

    start_percent: float = 0.0
    scale_multival: float | None = None
    inherit_missing: bool = True
    guarantee_steps: int = 1
    default: bool = False
    start_t: float = 999999999.9


class KeyframeGroup:
    """Keyframes in the order of their start."""

    def __init__(self, *keyframes: Keyframe):
        first = [] if any(k.start_percent == 0 for k in keyframes) else [Keyframe(default=True)]
        self.keyframes = sorted([*first, *keyframes], key=lambda k: k.start_percent)

    def clone(self) -> "KeyframeGroup":
        return KeyframeGroup(*(k for k in self.keyframes if not k.default))


class MotionModelAttachment:
    """The attachment ADE of a motion model: which keyframe is in force."""

    def __init__(self, keyframes: KeyframeGroup, per_block_list: list | None = None):
        self.keyframes = keyframes
        self.per_block_list = per_block_list
        self.pre_run()

    def on_model_patcher_clone(self) -> "MotionModelAttachment":
        return MotionModelAttachment(self.keyframes.clone())  # as in the pack, without the per-block settings

    def pre_run(self) -> None:
        self.current_index = -1
        self.current_keyframe = None
        self.current_used_steps = 0
        self.previous_t = -1
        self.current_scale = None
        self.combined_scale = None

    def prepare_current_keyframe(self, motion: "MotionModel", t: float, sigmas: Tensor) -> None:
        """Move on to a later keyframe where sigma has fallen below its start, one at a time while steps are left."""
        if t == self.previous_t:
            return

        def guaranteed(keyframe: Keyframe) -> int:
            return 0 if keyframe.start_t > sigmas.max() else keyframe.guarantee_steps

        before = self.current_index
        if self.current_keyframe is None or self.current_used_steps >= guaranteed(self.current_keyframe):
            for i in range(self.current_index + 1, len(self.keyframes.keyframes)):
                keyframe = self.keyframes.keyframes[i]
                if keyframe.start_t < t:
                    break
                self.current_index, self.current_keyframe, self.current_used_steps = i, keyframe, 0
                if keyframe.scale_multival is not None:
                    self.current_scale = keyframe.scale_multival
                elif not keyframe.inherit_missing:
                    self.current_scale = None
                if guaranteed(keyframe) > 0:
                    break
        if before != self.current_index:
            self.combined_scale = 1.0 if self.current_scale is None else self.current_scale
            motion.scale = self.combined_scale * math.prod(self.per_block_list or [1.0])
        self.current_used_steps += 1
        self.previous_t = t


class MotionModel(torch.nn.Module):
    """Draws the frames of a window together, by half of the way at scale 1."""

    def __init__(self, encoding_max_len: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 0.5), requires_grad=False)
        self.encoding_max_len = encoding_max_len
        self.video_length = None
        self.scale = 1.0

    def mix(self, features: Tensor) -> Tensor:
        clips = features.unflatten(0, (-1, self.video_length))
        return clips.lerp(clips.mean(dim=1, keepdim=True), (self.weight * self.scale).item()).flatten(0, 1)


class Run:
    """What the pack knows of a run, and what tests want to know of it."""

    def __init__(self, params: InjectionParams, settings: SampleSettings, motions: list):
        self.params = params
        self.settings = settings
        self.motions = motions
        self.current_step = 0
        self.started = False

    def windows(self) -> list[list[int]]:
        """All frames in windows: always the same, or (looped_uniform) shifted from step to step."""
        frames, options = self.params.full_length, self.params.context_options
        length, stride = options.context_length, options.context_length - options.context_overlap
        if options.context_schedule == "looped_uniform":
            return [[(i + self.current_step) % frames for i in range(s, s + length)] for s in range(0, frames, stride)]
        starts = [min(start, frames - length) for start in range(0, frames - options.context_overlap, stride)]
        return [list(range(start, start + length)) for start in starts]


RUNS: list[dict] = []
"""A record of every run: noise and seed it began with, and step, sigma, scale and window of every model call."""


def outer_sample_wrapper(executor, noise, latents, sampler, sigmas, mask, callback, disable_pbar, seed, **kwargs):
    guider = executor.class_obj
    model = guider.model_patcher
    options, sampling_function = guider.model_options, comfy.samplers.sampling_function
    guider.model_options = comfy.model_patcher.create_model_options_clone(options)
    params, settings = model.get_attachment("ADE_params").clone(), model.get_attachment("ADE_sample_settings")
    params.full_length = len(latents)
    windows = params.context_options.context_length
    if windows and len(latents) <= windows:
        params.set_context(ContextOptionsGroup.default())
        windows = None
    motions = model.get_additional_models_with_key(ADE)
    views = params.context_options.view_options
    for motion in motions:
        motion.model.video_length = windows or len(latents)
        limit, seen = motion.model.encoding_max_len, views.context_length if views else motion.model.video_length
        if limit is not None and seen > limit:
            raise ValueError(f"AnimateDiff model has upper limit of {limit} frames, but received {seen} latents.")
    RUNS.append({"noise": noise.clone(), "seed": seed, "calls": []})
    if noise.max() != 0 and settings.noise_type == "constant":
        noise = noise[:1].expand_as(noise)

    run = Run(params, settings, motions)
    guider.model_options["transformer_options"]["ADGS"] = run

    def ade_callback(step, x0, x, total_steps):
        callback(step, x0, x, total_steps)
        run.current_step = step + 1

    try:
        comfy.samplers.sampling_function = evolved_sampling_function
        for _ in range(settings.iteration_opts.iterations):
            run.current_step = 0
            for motion in motions:
                motion.get_attachment(ADE).pre_run()
            latents = executor(noise, latents, sampler, sigmas, mask, ade_callback, disable_pbar, seed, **kwargs)
        return latents
    finally:
        comfy.samplers.sampling_function = sampling_function
        guider.model_options = options


def evolved_sampling_function(model, x, timestep, uncond, cond, cond_scale, model_options=None, seed=None):
    run = model_options["transformer_options"]["ADGS"]
    for motion in run.motions:
        attachment = motion.get_attachment(ADE)
        if not run.started:
            for keyframe in attachment.keyframes.keyframes:
                keyframe.start_t = model.model_sampling.percent_to_sigma(keyframe.start_percent)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        attachment.prepare_current_keyframe(motion.model, timestep[0].item(), sigmas)
    run.started = True
    if run.settings.custom_cfg is not None:
        cond_scale = run.settings.custom_cfg
    uncond = None if math.isclose(cond_scale, 1) else uncond
    denoised = comfy.samplers.calc_cond_batch(model, [cond, uncond], x, timestep, model_options)
    return comfy.samplers.cfg_function(model, *denoised, cond_scale, x, timestep, model_options, cond, uncond)


def sliding_calc_cond_batch(executor, model, conds, x, timestep, model_options):
    run = model_options["transformer_options"]["ADGS"]
    options = run.params.context_options
    scale = run.motions[0].model.scale if run.motions else None

    def call(conds, x, timestep, window):
        RUNS[-1]["calls"].append((run.current_step, timestep[0].item(), scale, window))
        return executor(model, conds, x, timestep, model_options)

    if not options.context_length:
        outs = call(conds, x, timestep, None)
        for extra in options.extras.get_extras_list():
            extra.last, outs = outs, [out if extra.last is None else out.lerp(extra.last[0], 0.5) for out in outs]
        return outs
    sums, counts = [torch.zeros_like(x) for _ in conds], x.new_zeros(len(x), 1, 1, 1)
    length = options.context_length
    weights = x.new_ones(length)
    if options.fuse_method == "pyramid":
        weights = torch.minimum(torch.arange(1, length + 1), torch.arange(length, 0, -1)).to(x)
    weights = weights.view(-1, 1, 1, 1)
    for window in run.windows():
        comfy.model_management.throw_exception_if_processing_interrupted()
        outs = call([_cut(cond, window, len(x)) for cond in conds], x[window], timestep[window], window)
        for total, out in zip(sums, outs, strict=True):
            total[window] += out * weights
        counts[window] += weights
    return [total / counts for total in sums]


def _cut(cond: list | None, window: list[int], frames: int) -> list | None:
    """The window's part of everything in a cond that has as many rows as there are frames."""
    if cond is None:
        return None
    cut = []
    for entry in cond:
        entry = {k: v[window] if isinstance(v, Tensor) and len(v) == frames else v for k, v in entry.items()}
        entry["model_conds"] = {
            k: v._copy_with(v.cond[window]) if isinstance(v.cond, Tensor) and len(v.cond) == frames else v
            for k, v in entry["model_conds"].items()
        }
        cut.append(entry)
    return cut


def _inject(patcher) -> None:
    block = patcher.model.diffusion_model.middle_block[-1]
    motions = patcher.get_additional_models_with_key(ADE)
    patcher.model.ade_hooks = [
        block.register_forward_hook(lambda layer, args, out, motion=motion: motion.model.mix(out)) for motion in motions
    ]


def _eject(patcher) -> None:
    for hook in patcher.model.ade_hooks:
        hook.remove()


class LinearBetas(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """AnimateDiff's schedule, with a sigma_max of 25.1 instead of 14.6."""

    def __init__(self):
        super().__init__()
        self._register_schedule(beta_schedule="sqrt_linear", linear_start=0.00085, linear_end=0.012)


def use_evolved_sampling(
    model,
    motion: bool = True,
    windows: ContextOptions | list[ContextOptions] | None = None,
    settings: SampleSettings | None = None,
    keyframes: tuple[Keyframe, ...] = (),
    per_block: list | None = None,
    encoding_max_len: int | None = None,
    beta_schedule: bool = True,
    reuse: bool = False,
):
    """A MODEL as the pack's node Use Evolved Sampling leaves it."""
    model = model.clone()
    params = InjectionParams()
    if windows is not None:
        group = ContextOptionsGroup()
        for context in windows if isinstance(windows, list) else [windows]:
            group.add(replace(context))
        params.set_context(group)
    if reuse:
        params.context_options.extras.naive_reuse = NaiveReuse()
    model.set_attachments("ADE_params", params)
    model.set_attachments("ADE_sample_settings", settings or SampleSettings())
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, ADE, outer_sample_wrapper)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, ADE, sliding_calc_cond_batch)
    if beta_schedule:
        model.add_object_patch("model_sampling", LinearBetas())
    if motion:
        device = model.load_device
        patcher = comfy.model_patcher.ModelPatcher(MotionModel(encoding_max_len), device, device)
        group = KeyframeGroup(*map(copy.copy, keyframes))
        patcher.set_attachments(ADE, MotionModelAttachment(group, per_block))
        model.set_additional_models(ADE, [patcher])
        model.set_injections(ADE, [PatcherInjection(inject=_inject, eject=_eject)])
    return model

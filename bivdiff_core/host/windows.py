"""Frames cut into windows while a MODEL samples: independent chunks of an image model, overlapping windows of a video
model. Both are one context handler, a property of the MODEL, so core samplers and guiders get it too.

The host's own handler slices latents and conditioning tensors; control hints it leaves whole, so that every window
would follow the first frames' hints. Here they are exchanged in place around each window's model call: copies of a
control lose what its pre_run prepared.
"""

import copy
import logging
from collections.abc import Callable, Iterator

import comfy.conds
import comfy.context_windows
import comfy.ldm.hunyuan_video.model
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.utils
import torch
from comfy.context_windows import (
    ContextFuseMethods,
    ContextSchedule,
    ContextSchedules,
    IndexListCallbacks,
    IndexListContextHandler,
    IndexListContextWindow,
    get_matching_context_schedule,
    get_matching_fuse_method,
)
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from . import animatediff
from .latents import frame_dim

log = logging.getLogger(__name__)

WRAPPER_KEY = "bivdiff_windows"
CORE_WRAPPER_KEY = "ContextWindows_prepare_sampling"
HINT_FIELDS = ("cond_hint_original", "cond_hint", "control_input", "extra_concat_orig")


class FrameWindows(IndexListContextHandler):
    """The host's context windows with control hints that follow their frames.

    On a MODEL it is a template; each run works on a copy of its own (`begin`), which knows the window length that
    memory allows and keeps the hints encoded so far.

    Args:
        length: frames a window; for chunks, 0 picks what free memory holds when a run begins.
        overlap: frames shared by neighbouring windows of a video model. None makes independent chunks instead: any
            number of frames goes through them, and a chunk that does not fit in memory is halved.
        dim: where frames lie: 0 for frames in the batch, 2 for `[B, C, T, H, W]`.
    """

    def __init__(self, length: int, overlap: int | None = None, dim: int = 0):
        chunks = overlap is None
        super().__init__(
            get_matching_context_schedule(ContextSchedules.BATCHED if chunks else ContextSchedules.STATIC_STANDARD),
            get_matching_fuse_method(ContextFuseMethods.FLAT if chunks else ContextFuseMethods.PYRAMID),
            context_length=length,
            context_overlap=overlap or 0,
            dim=dim,
            causal_window_fix=False,
        )
        self._prepare()

    @classmethod
    def from_core(cls, handler: IndexListContextHandler) -> "FrameWindows":
        """A handler that someone set with the host's node, its settings kept."""
        windows = cls.__new__(cls)
        windows.__dict__.update(copy.copy(handler).__dict__)
        windows._prepare()
        return windows

    def _prepare(self) -> None:
        self.on_window: Callable[[int, int], None] | None = None
        self.encoded_hints: dict[tuple, tuple] = {}
        self.callbacks = comfy.patcher_extension.copy_nested_dicts(self.callbacks)
        comfy.patcher_extension.add_callback_with_key(
            IndexListCallbacks.RESIZE_COND_ITEM, WRAPPER_KEY, _slice_lists, self.callbacks
        )

    @property
    def independent(self) -> bool:
        return self.context_schedule.name == ContextSchedules.BATCHED

    def begin(self, length: int) -> "FrameWindows":
        """The handler of one run."""
        run = copy.copy(self)
        run.context_length = length
        run.encoded_hints = {}
        return run

    def count(self, frames: int) -> int:
        """How many windows a clip of `frames` frames takes."""
        return len(self.context_schedule.func(frames, self, {}))

    def should_use_context(self, model, conds, x_in, timestep, model_options) -> bool:
        return self.independent or x_in.shape[self.dim] > self.context_length

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        frames = x_in.shape[self.dim]
        controls = list(_controls(conds))
        done = 0

        def calc_window(model, conds, x_in, timestep, model_options):
            nonlocal done
            window = model_options["transformer_options"]["context_window"]
            model_options["transformer_options"]["ad_params"] = told = _announcement(window, frames)
            with _WindowHints(controls, window, told, self.encoded_hints):
                out = calc_cond_batch(model, conds, x_in, timestep, model_options)
            done += 1
            if self.on_window is not None:
                self.on_window(done, self.count(frames))
            return out

        while True:
            try:
                if self.count(frames) == 1:
                    return calc_cond_batch(model, conds, x_in, timestep, model_options)
                return super().execute(calc_window, model, conds, x_in, timestep, model_options)
            except Exception as e:
                comfy.model_management.raise_non_oom(e)
                if not self.independent or min(self.context_length, frames) == 1:
                    raise
            # Outside the except block, so that the traceback no longer holds the tensors that did not fit.
            comfy.model_management.soft_empty_cache()
            self.context_length = min(self.context_length, frames) // 2
            done = 0
            log.warning("Out of memory: going on with %d frames at a time.", self.context_length)


class PairedWindows(FrameWindows):
    """Chunks of a batch `[source frames; target frames]` that hold a frame's source and target together.

    Args:
        frames: frames a chunk, each of them two rows of the batch; 0 for as many as memory holds.
    """

    def __init__(self, frames: int):
        super().__init__(2 * frames)
        self.context_schedule = ContextSchedule(self.context_schedule.name, _paired)


def _paired(rows: int, handler: FrameWindows, model_options: dict) -> list[list[int]]:
    frames, length = rows // 2, max(handler.context_length // 2, 1)
    chunks = [range(start, min(start + length, frames)) for start in range(0, frames, length)]
    return [[*chunk, *(frames + i for i in chunk)] for chunk in chunks]


def _slice_lists(key, value, window: IndexListContextWindow, x_in, device, conds):
    """Slice conditioning that is a list of tensors (reference_latents), which the host's handler does not look into."""
    if not isinstance(value, comfy.conds.CONDList):
        return None
    frames = x_in.shape[window.dim]
    return value._copy_with(
        [
            window.get_tensor(t, device) if t.ndim > window.dim and t.shape[window.dim] == frames else t
            for t in value.cond
        ]
    )


def _controls(conds) -> Iterator:
    """Every control of the conds' chains once, with its clones for other devices."""
    seen = set()
    for cond in conds:
        for entry in cond or ():
            control = entry.get("control")
            while control is not None:
                for c in (control, *control.multigpu_clones.values()):
                    if id(c) not in seen:
                        seen.add(id(c))
                        yield c
                control = control.previous_controlnet


def _announcement(window: IndexListContextWindow, frames: int) -> dict:
    """A window in the words in which AnimateDiff-Evolved tells other packs of its own.

    IP-Adapter Plus takes its images for each frame by them.
    """
    indices = window.get_tensor(torch.arange(frames), dim=0).tolist()
    return {"full_length": frames, "context_length": len(indices), "sub_idxs": indices}


def _slices_itself(control) -> bool:
    """Whether a control takes its part of hints, masks and strengths itself (Advanced-ControlNet's do)."""
    return hasattr(control, "sub_idxs")


class _WindowHints:
    """Controls see only a window's hints while this is open; what they encode is kept, off the GPU, for next time.

    Controls that slice for themselves are told which frames the window has, in Advanced-ControlNet's attributes.
    """

    def __init__(self, controls: list, window: IndexListContextWindow, told: dict, encoded: dict[tuple, tuple]):
        self.controls = [control for control in controls if not _slices_itself(control)]
        self.self_slicing = [control for control in controls if _slices_itself(control)]
        self.window = window
        self.told = told
        self.encoded = encoded

    def __enter__(self):
        self.whole = [{f: getattr(c, f) for f in HINT_FIELDS if hasattr(c, f)} for c in self.controls]
        for control, whole in zip(self.controls, self.whole, strict=True):
            control.cond_hint_original = self._slice(control.cond_hint_original)
            control.extra_concat_orig = [self._slice(t) for t in control.extra_concat_orig]
            hint, control_input, device = self.encoded.get(self._key(control), (None, None, None))
            control.cond_hint = _to(hint, device)
            if "control_input" in whole:
                control.control_input = _to(control_input, device)
        for control in self.self_slicing:
            control.sub_idxs = self.told["sub_idxs"]
            control.full_latent_length = self.told["full_length"]
            control.context_length = self.told["context_length"]

    def __exit__(self, *error):
        for control in self.self_slicing:
            control.sub_idxs, control.full_latent_length, control.context_length = None, 0, 0
        for control, whole in zip(self.controls, self.whole, strict=True):
            hint = control.cond_hint
            if hint is not None and self._key(control) not in self.encoded:
                control_input = getattr(control, "control_input", None)
                self.encoded[self._key(control)] = (_to(hint, "cpu"), _to(control_input, "cpu"), hint.device)
            for field, value in whole.items():
                setattr(control, field, value)

    def _key(self, control) -> tuple:
        return id(control), tuple(self.window.index_list)

    def _slice(self, hint: Tensor | None) -> Tensor | None:
        """A window's part of a hint, frames in its batch (`[F, 3, H, W]`) or along the window's dimension."""
        if hint is None:
            return None
        for dim in (self.window.dim, 0):
            if hint.ndim > dim and hint.shape[dim] == self.told["full_length"]:
                return self.window.get_tensor(hint, hint.device, dim=dim)
        return hint


def _to(value, device):
    """Move a hint, or an adapter's dict of lists of features, to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: [_to(t, device) for t in features] for key, features in value.items()}
    return value


def check_frame_counts(conds, frames: int, node: str) -> None:
    """Refuse conditioning that belongs to a clip of another length.

    The host would repeat or cut it silently, frame 0's hint ending up on another frame.

    Args:
        conds: lists of the host's cond dicts (as CONDITIONING's second halves or as guiders hold them).
        frames: of the latent.
        node: named in the message.

    Raises:
        ValueError: a control hint, mask, text, concat or reference latent has neither 1 nor `frames` frames.
    """

    def check(tensor, what: str, cure: str) -> None:
        if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[0] not in (1, frames):
            raise ValueError(
                f"{node}: the {what} has {tensor.shape[0]} frames but the latent has {frames}. {cure} so that both "
                f"have {frames}, or give one for all frames."
            )

    for control in _controls(conds):
        if not _slices_itself(control):
            hint = control.cond_hint_original
            check(hint, "control hint", "Trim the longer one (Select Frames, Latent From Batch)")
    for cond in conds:
        for entry in cond or ():
            mask = entry.get("mask")
            if mask is not None and mask.ndim > 2:
                check(mask, "conditioning mask", "Give Conditioning (Set Mask) as many masks")
            check(entry.get("cross_attn"), "text conditioning", "Make as many prompts")
            check(entry.get("concat_latent_image"), "concat latent of the conditioning", "Encode as many frames")
            check(entry.get("concat_mask"), "concat mask of the conditioning", "Give as many masks")
            for reference in entry.get("reference_latents") or ():
                check(reference, "reference latent", "Encode as many references")


def check_windows(model, samples: Tensor, node: str) -> None:
    """Refuse context windows that a MODEL brings over a dimension without frames.

    Args:
        samples: `[F, C, H, W]`, `[B, C, T, H, W]`, or images `[F, C, 1, H, W]`, which windows over T leave whole.

    Raises:
        ValueError: the host would cut the picture's height, or nothing at all.
    """
    windows = hosted(model.model_options.get("context_handler"))
    dim = frame_dim(samples)
    images = samples.ndim == 5 and dim == 0
    if windows is not None and windows.dim != dim and not (images and windows.dim == 2):
        raise ValueError(
            f"{node}: the model brings context windows over dimension {windows.dim}, but this latent's frames lie in "
            f"dimension {dim}. Set dim {dim} in Context Windows (Manual)."
        )


def hosted(handler) -> FrameWindows | None:
    """The handler that a MODEL brings, in the form whose hints are sliced; None for a foreign class."""
    if isinstance(handler, FrameWindows):
        return handler
    if type(handler) is IndexListContextHandler:
        return FrameWindows.from_core(handler)
    return None


def set_windows(model, windows: FrameWindows, node: str):
    """A clone of a MODEL that runs its frames in windows. Windows that the MODEL brings stay in force.

    A core handler is hosted in `FrameWindows` with its settings; a foreign class knows its own business and is left
    alone, with a warning. AnimateDiff-Evolved gets windows of its own kind.

    Raises:
        ValueError: independent chunks of a MODEL whose frames depend on each other.
    """
    if animatediff.takes_frames_together(model):
        if windows.independent:
            raise ValueError(
                f"{node}: the model has AnimateDiff, which makes frames together, but here every frame is on its own. "
                "Wire in the image model from before the AnimateDiff nodes."
            )
        return animatediff.set_windows(model, windows.context_length, windows.context_overlap)
    present = model.model_options.get("context_handler")
    if present is not None and not isinstance(present, FrameWindows):
        windows = hosted(present)
        if windows is None:
            log.warning("The model brings context windows of its own (%s): they are used as they are.", type(present))
            return model
    model = model.clone()
    model.model_options["context_handler"] = windows
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, CORE_WRAPPER_KEY)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY)
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, _begin_run)
    return model


def _begin_run(executor, noise, latent_image, *args, **kwargs):
    """Give a run its own handler, its inputs checked and its length settled before any weights load (OUTER_SAMPLE)."""
    guider = executor.class_obj
    windows = hosted(guider.model_options.get("context_handler"))
    if windows is not None:
        frames = latent_image.shape[windows.dim]
        if windows.dim == 0:
            check_frame_counts(guider.conds.values(), frames, "Frame windows")
        length = 1 if windows.independent and _one_row_a_call(guider) else windows.context_length
        if length == 0:
            length = frames_that_fit(guider.model_patcher, latent_image.shape, guider.conds)
            log.info("Sampling %d frames, %d at a time.", frames, length)
        guider.model_options["context_handler"] = windows.begin(min(length, frames) if windows.independent else length)
    return executor(noise, latent_image, *args, **kwargs)


def _one_row_a_call(guider) -> bool:
    """Whether the host's network of HunyuanVideo and HunyuanImage is to read masked text: it takes one row of that."""
    network = guider.model_patcher.model.diffusion_model
    return isinstance(network, comfy.ldm.hunyuan_video.model.HunyuanVideo) and any(
        "attention_mask" in entry for cond in guider.conds.values() for entry in cond or ()
    )


def frames_that_fit(model, shape, conds: dict[str, list[dict]]) -> int:
    """How many frames one model call may hold in the memory that will be free once all weights are loaded.

    The host's own estimate, for cond and uncond together, with the half more that it keeps in reserve when it
    decides whether both fit in one call.

    Args:
        model: the MODEL.
        shape: of the latent, `[F, C, H, W]`.
        conds: the guider's, whose ControlNets take memory too.
    """
    device = model.load_device
    extra_models, control_memory = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())
    unloaded = sum(max(m.model_size() - m.loaded_size(), 0) for m in [model, *extra_models])
    free = comfy.model_management.get_free_memory(device) - unloaded - control_memory
    memory, _ = comfy.sampler_helpers.estimate_memory(model, [1, *shape[1:]], conds)
    return int(min(max(free / (1.5 * memory), 1), shape[0]))

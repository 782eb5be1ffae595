"""Context windows: a MODEL samples independent chunks (image models) or overlapping windows (video models).

Both use one context handler, which belongs to the MODEL, so ComfyUI's samplers and guiders use it too.
"""

import copy
import gc
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeAlias

import comfy.context_windows
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
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
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..node_warnings import warn
from .comfy_types import Model
from .compat import animatediff_evolved, control_chains
from .compat.comfyui_internals import (
    CORE_WINDOW_WRAPPER,
    OUR_WINDOW_WRAPPER,
    drain_workers,
    has_multiple_devices,
    run_on_devices,
    single_device_options,
)
from .compat.model_patches import find_random_patches, prepare_for_several_calls
from .compat.patch_hints import check_hint_counts, find_hint_holders, slice_patch_hints
from .control_hints import check_conditioning, slice_hints, slice_references
from .latents import frame_dim
from .memory import estimate_max_frames
from .model_families import find_family

log = logging.getLogger(__name__)

ModelCall: TypeAlias = Callable[..., list[Tensor]]
"""ComfyUI's calc_cond_batch: (model, conds, x_in, timestep, model_options) to one prediction for each cond."""
NumberedWindow: TypeAlias = tuple[int, IndexListContextWindow]


CHANGING_SCHEDULES = (ContextSchedules.UNIFORM_STANDARD, ContextSchedules.UNIFORM_LOOPED)
"""Schedules whose windows depend on the step."""


@dataclass(frozen=True)
class WindowSettings:
    """How many frames a MODEL processes in one call.

    Args:
        length: frames per window; 0 means the whole clip (video models) or as many frames as fit in free memory (image
            models).
        overlap: frames that adjacent windows of a video model share.
    """

    length: int = 0
    overlap: int = 0

    def count_latents(self, packed: int) -> tuple[int, int]:
        """Length and overlap in latents that pack `packed` frames each, rounded as by ComfyUI's Wan Context Windows."""
        return (self.length - 1) // packed + 1, self.overlap // packed


class FrameWindows(IndexListContextHandler):
    """ComfyUI's context windows, with control hints sliced to the frames of each window.

    The handler on a MODEL is a template. Each run uses a copy (`start_run`) with the window length that fits in memory
    and a cache of encoded hints. If the MODEL has several devices (MultiGPU CFG Split), each idle device takes the next
    window; the results are summed in the order of the windows.

    Args:
        length: frames per window; for chunks, 0 means as many as fit in free memory at the start of a run.
        overlap: frames that adjacent windows of a video model share. None makes independent chunks: they work with any
            number of frames, and are halved when memory runs out.
        dim: axis of the frames: 0 for frames in the batch, 2 for `[B, C, T, H, W]`.
    """

    min_chunk = 1
    """Batch rows that must stay in one chunk (2 for source/target pairs); also the smallest chunk."""
    sequential = False
    """Run windows one after another on one device, even if the MODEL has several."""
    object_patches: dict[str, Any] = {}
    """Attributes of the MODEL that other nodes have replaced, by name."""
    results: dict[int, list]
    """With several devices: the results that ComfyUI has not yet asked for, by window number."""
    # Set by ComfyUI's __init__ and changed here.
    context_length: int
    context_schedule: ContextSchedule
    callbacks: dict

    def __init__(self, length: int, overlap: int | None = None, dim: int = 0):
        chunks = overlap is None
        super().__init__(
            get_matching_context_schedule(ContextSchedules.BATCHED if chunks else ContextSchedules.STATIC_STANDARD),
            get_matching_fuse_method(ContextFuseMethods.FLAT if chunks else ContextFuseMethods.PYRAMID),
            context_length=length,
            context_overlap=overlap or 0,
            dim=dim,
        )
        # A window's first latent packs several frames, but a clip's first latent packs one: ComfyUI therefore adds the
        # latent before the window. It is not passed as an argument, because older versions do not have it.
        self.causal_window_fix = dim == 2
        self._add_state()

    @classmethod
    def from_core(cls, handler: IndexListContextHandler) -> "FrameWindows":
        """Convert a handler of ComfyUI's Context Windows nodes, keeping its settings."""
        windows = cls(handler.context_length, handler.context_overlap, handler.dim)
        windows.__dict__.update(vars(handler))
        windows._add_state()
        return windows

    def _add_state(self) -> None:
        """Add what ComfyUI's handlers do not have."""
        self.on_window: Callable[[int, int], None] | None = None
        self.encoded_hints: dict[tuple, tuple] = {}
        self.callbacks = comfy.patcher_extension.copy_nested_dicts(self.callbacks)
        comfy.patcher_extension.add_callback_with_key(
            IndexListCallbacks.RESIZE_COND_ITEM, OUR_WINDOW_WRAPPER, slice_references, self.callbacks
        )

    @property
    def is_independent(self) -> bool:
        return self.context_schedule.name == ContextSchedules.BATCHED

    def start_run(self, length: int, sequential: bool, object_patches: dict[str, Any]) -> "FrameWindows":
        """A copy of the handler for one run."""
        run = copy.copy(self)
        run.context_length = length
        run.sequential = sequential
        run.object_patches = object_patches
        run.encoded_hints = {}
        return run

    def count_windows(self, frames: int) -> int:
        """Number of windows for a clip of `frames` frames."""
        return len(self.context_schedule.func(frames, self, {}))

    def should_use_context(
        self, model: BaseModel, conds: list[list[dict] | None], x_in: Tensor, timestep: Tensor, model_options: dict
    ) -> bool:
        return self.is_independent or x_in.shape[self.dim] > self.context_length

    def execute(
        self,
        calc_cond_batch: ModelCall,
        model: BaseModel,
        conds: list[list[dict] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict,
    ) -> list[Tensor]:
        """Evaluate all windows; independent chunks are halved when memory runs out."""
        frames = x_in.shape[self.dim]
        restore_generators = save_generators(x_in.device)
        while True:
            try:
                if self.count_windows(frames) == 1 and self.min_chunk == 1:
                    return calc_cond_batch(model, conds, x_in, timestep, model_options)
                calc_window = self._wrap_model_call(calc_cond_batch, frames, restore_generators)
                options = single_device_options(model_options) if self.sequential else model_options
                return super().execute(calc_window, model, conds, x_in, timestep, options)
            except Exception as error:
                comfy.model_management.raise_non_oom(error)
                if not self.is_independent or min(self.context_length, frames) <= self.min_chunk:
                    raise
            # Outside the except block, so that the traceback no longer keeps the tensors in memory. With several
            # devices, the workers keep their errors too.
            drain_workers(model_options)
            gc.collect()
            comfy.model_management.soft_empty_cache()
            half = min(self.context_length, frames) // 2
            self.context_length = max(half // self.min_chunk * self.min_chunk, self.min_chunk)
            warn("Out of memory: continuing with %d frames at a time.", self.context_length)
            _handle_call_state(model_options, self.object_patches, self.context_length)

    def _wrap_model_call(
        self, calc_cond_batch: ModelCall, frames: int, restore_generators: Callable[[], None]
    ) -> ModelCall:
        """ComfyUI's model call for a window: with the window's hints, and counted by `on_window`.

        Patches that use the global generators (ToMe, HyperTile) draw the same numbers in every window of a step, as
        they would in one call for all frames.
        """
        lock = Lock()
        done = 0

        def calc_window(
            model: BaseModel,
            conds: list[list[dict] | None],
            x_in: Tensor,
            timestep: Tensor,
            model_options: dict,
            device: torch.device | None = None,
        ) -> list[Tensor]:
            nonlocal done
            window = model_options["transformer_options"]["context_window"]
            clip_frames = frames // self.min_chunk
            window_frames = window.get_tensor(torch.arange(frames) % clip_frames, dim=0).tolist()
            options = control_chains.describe_window(window_frames, clip_frames)
            model_options["transformer_options"][control_chains.WINDOW_OPTIONS_KEY] = options
            controls = list(control_chains.iterate_controls(conds, device))
            if device is None:
                restore_generators()
            with (
                slice_hints(window, options, controls, self.encoded_hints),
                slice_patch_hints(model_options, options, self.encoded_hints),
            ):
                out = calc_cond_batch(model, conds, x_in, timestep, model_options)
            with lock:
                done += 1
                if self.on_window is not None:
                    self.on_window(done, self.count_windows(frames))
            return out

        return calc_window

    def evaluate_context_windows(
        self,
        calc_window: ModelCall,
        model: BaseModel,
        x_in: Tensor,
        conds: list[list[dict] | None],
        timestep: Tensor,
        windows: list[NumberedWindow],
        model_options: dict,
        **state: Any,
    ) -> list:
        """Evaluate the one numbered window that ComfyUI asks for.

        With several devices, the first call evaluates all windows, and each call returns its window's result.
        """
        evaluate = super().evaluate_context_windows
        if not has_multiple_devices(model_options):
            return evaluate(calc_window, model, x_in, conds, timestep, windows, model_options, **state)

        def evaluate_on(device: torch.device, options: dict, window: NumberedWindow) -> list:
            calc = partial(calc_window, device=device)
            return evaluate(calc, model, x_in, conds, timestep, [window], options, **state)

        ((index, _),) = windows
        if index == 0:
            all_windows = self.get_context_windows(model, state["window_state"].latents[0], model_options)
            self.results = _share_between_devices(list(enumerate(all_windows)), evaluate_on, model_options)
        return self.results.pop(index)


def save_generators(device: torch.device) -> Callable[[], None]:
    """A function that returns the global random generators of the CPU and of a GPU to their present state."""
    cpu_state = torch.get_rng_state()
    if device.type not in ("cuda", "xpu"):
        return partial(torch.set_rng_state, cpu_state)
    gpu = torch.get_device_module(device)
    gpu_state = gpu.get_rng_state(device)

    def restore() -> None:
        torch.set_rng_state(cpu_state)
        gpu.set_rng_state(gpu_state, device)

    return restore


def _share_between_devices(
    windows: list[NumberedWindow], evaluate_on: Callable[..., list], model_options: dict
) -> dict[int, list]:
    """Evaluate numbered windows on all devices of a run: each idle device takes the next window.

    Args:
        evaluate_on: called with a device, its model options and a numbered window.
    """
    pending = iter(windows)  # each window goes to one thread only
    results = {}

    def evaluate_pending(device: torch.device, options: dict) -> None:
        try:
            for window in pending:
                results[window[0]] = evaluate_on(device, options, window)
        except BaseException:  # includes cancelling, which ComfyUI raises on one device only
            deque(pending, maxlen=0)  # so that no device takes another window
            raise

    run_on_devices(model_options, evaluate_pending)
    return results


class PairedWindows(FrameWindows):
    """Chunks of a batch `[source frames; target frames]` that keep each frame's source and target together.

    Args:
        frames: frames per chunk, two batch rows each; 0 means as many as fit in memory.
    """

    min_chunk = 2

    def __init__(self, frames: int):
        super().__init__(2 * frames)
        self.context_schedule = ContextSchedule(self.context_schedule.name, _pair_rows)


def _pair_rows(rows: int, handler: FrameWindows, model_options: dict) -> list[list[int]]:
    frames, length = rows // 2, max(handler.context_length // 2, 1)
    chunks = [range(start, min(start + length, frames)) for start in range(0, frames, length)]
    return [[*chunk, *(frames + i for i in chunk)] for chunk in chunks]


def check_windows(model: Model, samples: Tensor) -> None:
    """Reject a MODEL's context windows if they slice another dimension than the frames.

    Args:
        samples: `[F, C, H, W]`, `[B, C, T, H, W]`, or images `[F, C, 1, H, W]`, which windows over T do not split.

    Raises:
        ValueError: ComfyUI would split the height of the frames, or nothing.
    """
    windows = as_frame_windows(model.model_options.get("context_handler"))
    dim = frame_dim(samples)
    images = samples.ndim == 5 and dim == 0
    if windows is not None and windows.dim != dim and not (images and windows.dim == 2):
        raise ValueError(
            f"the model has context windows over dimension {windows.dim}, but this latent's frames are in dimension "
            f"{dim}. Set dim to {dim} in Context Windows (Manual)."
        )


def warn_about_changing_windows(model: Model, samples: Tensor) -> None:
    """Warn if a MODEL's windows change from step to step, and a clip's samples need several."""
    windows = as_frame_windows(model.model_options.get("context_handler"))
    if windows is None or windows.context_schedule.name not in CHANGING_SCHEDULES:
        return
    if samples.shape[windows.dim] > windows.context_length:
        warn(
            "The model's Context Windows (%s) change from step to step, so inversion and smoothing use different "
            "windows and the frames are restored less exactly. Set context_schedule to standard_static.",
            windows.context_schedule.name,
        )


def as_frame_windows(handler: object) -> FrameWindows | None:
    """Convert a MODEL's context handler to `FrameWindows`; None for another pack's class."""
    if isinstance(handler, FrameWindows):
        return handler
    if type(handler) is IndexListContextHandler:
        return FrameWindows.from_core(handler)
    return None


def set_windows(model: Model, windows: FrameWindows) -> Model:
    """A clone of a MODEL that samples in windows. Windows that the MODEL already has are kept.

    ComfyUI's handler is converted to `FrameWindows` with its settings. Another pack's handler is left unchanged, with a
    warning. AnimateDiff-Evolved MODELs get that pack's own windows.
    """
    if animatediff_evolved.has_dependent_frames(model):
        return animatediff_evolved.set_context_options(model, windows.context_length, windows.context_overlap)
    current = model.model_options.get("context_handler")
    if current is not None and not isinstance(current, FrameWindows):
        converted = as_frame_windows(current)
        if converted is None:
            warn(
                "The model has context windows of another pack (%s), which this pack leaves unchanged.",
                type(current).__name__,
            )
            return model
        windows = converted
    model = model.clone()
    model.model_options["context_handler"] = windows
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, CORE_WINDOW_WRAPPER)
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, OUR_WINDOW_WRAPPER)
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, OUR_WINDOW_WRAPPER, _start_windowed_run)
    return model


def _start_windowed_run(
    executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """OUTER_SAMPLE wrapper: check a run's inputs and choose its window length, before weights load."""
    guider = executor.class_obj
    windows = as_frame_windows(guider.model_options.get("context_handler"))
    if windows is None:
        return executor(noise, latent_image, *args, **kwargs)
    frames = latent_image.shape[windows.dim]
    if windows.dim == 0:
        check_conditioning(guider.conds.values(), frames)
        check_hint_counts(guider.model_options, frames // windows.min_chunk)
    length = 1 if windows.is_independent and _has_masked_text(guider) else windows.context_length
    if length == 0:
        length = estimate_max_frames(guider.model_patcher, latent_image.shape, guider.conds)
        log.info("Sampling %d frames, %d at a time.", frames, length)
    if windows.is_independent:
        length = min(length, frames)
    order_dependence = _find_order_dependence(guider)
    object_patches = guider.model_patcher.object_patches
    windows = windows.start_run(length, bool(order_dependence), object_patches)
    guider.model_options["context_handler"] = windows
    if windows.count_windows(frames) > 1:
        _handle_call_state(guider.model_options, object_patches, length)
        if any(map(control_chains.is_reference_control, control_chains.iterate_controls(guider.conds.values()))):
            warn("The frames need several model calls: Reference ControlNet generates new noise in each.")
        if order_dependence and guider.model_patcher.get_additional_models_with_key("multigpu"):
            warn("The windows run on one GPU, one after another: with %s their order matters.", order_dependence)
    return executor(noise, latent_image, *args, **kwargs)


def _handle_call_state(model_options: dict, object_patches: dict[str, Any], length: int) -> None:
    """Switch off, reject or warn about patches that may keep state between model calls of `length` frames."""
    for found in prepare_for_several_calls(model_options, object_patches, length):
        warn("The frames need several model calls: %s.", found)


def _find_order_dependence(guider: comfy.samplers.CFGGuider) -> str:
    """Names of whatever makes a model call depend on earlier calls; empty if nothing does."""
    conds = guider.conds.values()
    found = {
        "hooks on prompts": any("hooks" in entry for cond in conds for entry in cond or ()),
        "Advanced-ControlNet": any(map(control_chains.has_own_slicing, control_chains.iterate_controls(conds))),
        "hints in patches": bool(find_hint_holders(guider.model_options)),
    }
    names = [name for name, is_present in found.items() if is_present]
    return ", ".join(names + find_random_patches(guider.model_options))


def _has_masked_text(guider: comfy.samplers.CFGGuider) -> bool:
    """Whether the MODEL has masked text and needs one row of it per model call."""
    return find_family(guider.model_patcher).runs_masked_text_per_row and any(
        "attention_mask" in entry for cond in guider.conds.values() for entry in cond or ()
    )

"""Frames cut into windows while a MODEL samples: independent chunks of an image model, overlapping windows of a video
model. Both are one context handler, a property of the MODEL, so core samplers and guiders get it too.
"""

import copy
import gc
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

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

from .comfy_types import Model
from .compat import animatediff_evolved
from .compat import control_chains as foreign
from .compat.comfyui_internals import (
    CORE_WINDOW_WRAPPER,
    OUR_WINDOW_WRAPPER,
    disable_call_caches,
    drain_workers,
    has_multiple_devices,
    has_token_merging,
    run_on_devices,
    single_device_options,
)
from .control_hints import check_conditioning, slice_hints, slice_references
from .latents import frame_dim
from .memory import estimate_max_frames
from .model_families import find_family

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowSettings:
    """How many frames a MODEL is to see at once.

    Args:
        length: 0 takes the whole clip (video models), or as many frames as free memory holds (image models).
        overlap: frames that neighbouring windows of a video model share.
    """

    length: int = 0
    overlap: int = 0


class FrameWindows(IndexListContextHandler):
    """The host's context windows with control hints that follow their frames.

    On a MODEL it is a template; each run works on a copy of its own (`begin`), which knows the window length that
    memory allows and keeps the hints encoded so far. Where the MODEL has several devices (MultiGPU CFG Split), each
    takes whole windows, and the next one when it is idle; their sum is taken in the windows' order.

    Args:
        length: frames a window; for chunks, 0 picks what free memory holds when a run begins.
        overlap: frames shared by neighbouring windows of a video model. None makes independent chunks instead: any
            number of frames goes through them, and a chunk that does not fit in memory is halved.
        dim: where frames lie: 0 for frames in the batch, 2 for `[B, C, T, H, W]`.
    """

    least = 1
    """Rows that belong together, and the smallest chunk."""
    sequential = False
    """Whether windows keep to one device, one after another, however many the MODEL has."""
    # Made by the host's __init__, and changed here.
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
        self.causal_window_fix = False  # no parameter: hosts without such a frame before each window lack it
        self._prepare()

    @classmethod
    def from_core(cls, handler: IndexListContextHandler) -> "FrameWindows":
        """A handler that someone set with the host's node, its settings kept."""
        windows = cls(handler.context_length, handler.context_overlap, handler.dim)
        windows.__dict__.update(vars(handler))
        windows._prepare()
        return windows

    def _prepare(self) -> None:
        self.on_window: Callable[[int, int], None] | None = None
        self.encoded_hints: dict[tuple, tuple] = {}
        self.callbacks = comfy.patcher_extension.copy_nested_dicts(self.callbacks)
        comfy.patcher_extension.add_callback_with_key(
            IndexListCallbacks.RESIZE_COND_ITEM, OUR_WINDOW_WRAPPER, slice_references, self.callbacks
        )

    @property
    def independent(self) -> bool:
        return self.context_schedule.name == ContextSchedules.BATCHED

    def begin(self, length: int, sequential: bool) -> "FrameWindows":
        """The handler of one run."""
        run = copy.copy(self)
        run.context_length = length
        run.sequential = sequential
        run.encoded_hints = {}
        return run

    def count(self, frames: int) -> int:
        """How many windows a clip of `frames` frames takes."""
        return len(self.context_schedule.func(frames, self, {}))

    def should_use_context(
        self, model: BaseModel, conds: list[list[dict] | None], x_in: Tensor, timestep: Tensor, model_options: dict
    ) -> bool:
        return self.independent or x_in.shape[self.dim] > self.context_length

    def execute(
        self,
        calc_cond_batch: Callable[..., list[Tensor]],
        model: BaseModel,
        conds: list[list[dict] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict,
    ) -> list[Tensor]:
        frames = x_in.shape[self.dim]
        counting = Lock()
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
            seen = window.get_tensor(torch.arange(frames), dim=0).tolist()
            options = foreign.describe_window(seen, frames)
            model_options["transformer_options"][foreign.WINDOW_OPTIONS_KEY] = options
            with slice_hints(window, options, list(foreign.iterate_controls(conds, device)), self.encoded_hints):
                out = calc_cond_batch(model, conds, x_in, timestep, model_options)
            with counting:
                done += 1
                if self.on_window is not None:
                    self.on_window(done, self.count(frames))
            return out

        while True:
            try:
                if self.count(frames) == 1:
                    return calc_cond_batch(model, conds, x_in, timestep, model_options)
                options = single_device_options(model_options) if self.sequential else model_options
                return super().execute(calc_window, model, conds, x_in, timestep, options)
            except Exception as e:
                comfy.model_management.raise_non_oom(e)
                if not self.independent or min(self.context_length, frames) <= self.least:
                    raise
            # Outside the except block, so that the traceback no longer holds the tensors that did not fit. Errors of
            # several devices hold themselves as well.
            drain_workers(model_options)
            gc.collect()
            comfy.model_management.soft_empty_cache()
            half = min(self.context_length, frames) // 2
            self.context_length = max(half // self.least * self.least, self.least)
            done = 0
            log.warning("Out of memory: continuing with %d frames at a time.", self.context_length)
            _warn_about_call_state(model_options)

    def evaluate_context_windows(
        self,
        calc_window: Callable[..., list[Tensor]],
        model: BaseModel,
        x_in: Tensor,
        conds: list[list[dict] | None],
        timestep: Tensor,
        windows: list[tuple[int, IndexListContextWindow]],
        model_options: dict,
        **state: Any,
    ) -> list:
        """As the host asks for one window after another; on several devices all are made when it asks for the first."""
        evaluate = super().evaluate_context_windows
        if not has_multiple_devices(model_options):
            return evaluate(calc_window, model, x_in, conds, timestep, windows, model_options, **state)
        ((place, _),) = windows
        if place == 0:
            all_windows = self.get_context_windows(model, state["window_state"].latents[0], model_options)
            waiting = iter(list(enumerate(all_windows)))  # gives each window to one thread only
            self.results: dict[int, list] = {}

            def run_pending_windows(device: torch.device, options: dict) -> None:
                calc = partial(calc_window, device=device)
                try:
                    for numbered in waiting:
                        out = evaluate(calc, model, x_in, conds, timestep, [numbered], options, **state)
                        self.results[numbered[0]] = out
                except BaseException:  # also a cancel, which the host raises on one device alone
                    deque(waiting, maxlen=0)  # so that no device takes another one
                    raise

            run_on_devices(model_options, run_pending_windows)
        return self.results.pop(place)


class PairedWindows(FrameWindows):
    """Chunks of a batch `[source frames; target frames]` that hold a frame's source and target together.

    Args:
        frames: frames a chunk, each of them two rows of the batch; 0 for as many as memory holds.
    """

    least = 2

    def __init__(self, frames: int):
        super().__init__(2 * frames)
        self.context_schedule = ContextSchedule(self.context_schedule.name, _pair_rows)


def _pair_rows(rows: int, handler: FrameWindows, model_options: dict) -> list[list[int]]:
    frames, length = rows // 2, max(handler.context_length // 2, 1)
    chunks = [range(start, min(start + length, frames)) for start in range(0, frames, length)]
    return [[*chunk, *(frames + i for i in chunk)] for chunk in chunks]


def check_windows(model: Model, samples: Tensor) -> None:
    """Refuse context windows that a MODEL brings over a dimension without frames.

    Args:
        samples: `[F, C, H, W]`, `[B, C, T, H, W]`, or images `[F, C, 1, H, W]`, which windows over T leave whole.

    Raises:
        ValueError: the host would cut the picture's height, or nothing at all.
    """
    windows = as_frame_windows(model.model_options.get("context_handler"))
    dim = frame_dim(samples)
    images = samples.ndim == 5 and dim == 0
    if windows is not None and windows.dim != dim and not (images and windows.dim == 2):
        raise ValueError(
            f"the model has context windows over dimension {windows.dim}, but this latent's frames lie in dimension "
            f"{dim}. Set dim to {dim} in Context Windows (Manual)."
        )


def as_frame_windows(handler: object) -> FrameWindows | None:
    """The handler that a MODEL brings, in the form whose hints are sliced; None for a foreign class."""
    if isinstance(handler, FrameWindows):
        return handler
    if type(handler) is IndexListContextHandler:
        return FrameWindows.from_core(handler)
    return None


def set_windows(model: Model, windows: FrameWindows) -> Model:
    """A clone of a MODEL that runs its frames in windows. Windows that the MODEL brings stay in force.

    A core handler becomes `FrameWindows` with its settings; a foreign class is left alone, with a warning.
    AnimateDiff-Evolved gets windows of its own kind.
    """
    if animatediff_evolved.has_dependent_frames(model):
        return animatediff_evolved.set_context_options(model, windows.context_length, windows.context_overlap)
    present = model.model_options.get("context_handler")
    if present is not None and not isinstance(present, FrameWindows):
        own = as_frame_windows(present)
        if own is None:
            log.warning(
                "The model has context windows of its own (%s), which this pack leaves as they are.",
                type(present).__name__,
            )
            return model
        windows = own
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
    """Give a run its own handler, its inputs checked and its length settled before any weights load (OUTER_SAMPLE)."""
    guider = executor.class_obj
    windows = as_frame_windows(guider.model_options.get("context_handler"))
    if windows is not None:
        frames = latent_image.shape[windows.dim]
        if windows.dim == 0:
            check_conditioning(guider.conds.values(), frames)
        length = 1 if windows.independent and _has_masked_text(guider) else windows.context_length
        if length == 0:
            length = estimate_max_frames(guider.model_patcher, latent_image.shape, guider.conds)
            log.info("Sampling %d frames, %d at a time.", frames, length)
        ordered = _find_order_dependence(guider)
        windows = windows.begin(min(length, frames) if windows.independent else length, sequential=bool(ordered))
        guider.model_options["context_handler"] = windows
        if windows.count(frames) > 1:
            _warn_about_call_state(guider.model_options)
            if any(map(foreign.is_reference_control, foreign.iterate_controls(guider.conds.values()))):
                log.warning("The frames go through in several calls: Reference ControlNet draws noise anew in each.")
            if ordered and guider.model_patcher.get_additional_models_with_key("multigpu"):
                log.warning("The windows run on one GPU, one after another: with %s their order matters.", ordered)
    return executor(noise, latent_image, *args, **kwargs)


def _warn_about_call_state(model_options: dict) -> None:
    """Say what of a MODEL's patches keeps state from one call to the next, where frames go through in several."""
    for found in disable_call_caches(model_options):
        log.warning("The frames go through in several calls: %s.", found)


def _find_order_dependence(guider: comfy.samplers.CFGGuider) -> str:
    """What makes a call of the MODEL depend on those before it, by name; empty where nothing does."""
    conds = guider.conds.values()
    found = {
        "hooks on prompts": any("hooks" in entry for cond in conds for entry in cond or ()),
        "Advanced-ControlNet": any(map(foreign.has_own_slicing, foreign.iterate_controls(conds))),
        "ToMe": has_token_merging(guider.model_options),
    }
    return ", ".join(name for name, there in found.items() if there)


def _has_masked_text(guider: comfy.samplers.CFGGuider) -> bool:
    """Whether the MODEL is to read masked text of which it takes one row a call."""
    return find_family(guider.model_patcher).masked_text_one_by_one and any(
        "attention_mask" in entry for cond in guider.conds.values() for entry in cond or ()
    )

"""Inputs that several nodes share."""

import comfy.samplers
from comfy_api.latest import io

from ..bivdiff_core.grids import GRIDS
from ..bivdiff_core.noise import FRAME_NOISE_MODES

CATEGORY = "BIVDiff"

CONTEXT_LENGTH_INPUT = io.Int.Input(
    "context_length",
    default=0,
    min=0,
    max=4096,
    tooltip="Frames that the video model processes at once. Keep 0 (the whole clip) while the clip is no longer than "
    "the model was trained on (81 frames for Wan, 16 to 32 for most others). Use the same windows for inversion and "
    "smoothing. Models that pack frames in latents round it down to 4n+1 (Wan, HunyuanVideo) or 8n+1 (LTX).",
)

CONTEXT_OVERLAP_INPUT = io.Int.Input(
    "context_overlap",
    default=0,
    min=0,
    max=4096,
    tooltip="Frames that adjacent windows share. More hides the seams better and takes longer; a quarter to a half of "
    "context_length is usual. Models that pack frames round it down to 4n or 8n. No effect while context_length is 0.",
    advanced=True,
)

FRAME_NOISE_TOOLTIP = (
    "How the frames' starting noise is related. independent: as in the paper, most variety. shared: one noise for all "
    "frames; static parts flicker less, but texture sticks to the screen. progressive: noise that changes slowly from "
    "frame to frame."
)


def frames_per_batch_input(advanced: bool = True) -> io.Int.Input:
    """Frames per chunk."""
    return io.Int.Input(
        "frames_per_batch",
        default=0,
        min=0,
        max=4096,
        tooltip="Frames in one model call. Keep 0: it takes as many as fit in free memory, and fewer if memory runs "
        "out. The result does not depend on it, except with a few patches of other nodes; a warning then names them.",
        advanced=advanced,
    )


def frame_noise_input(name: str) -> io.Combo.Input:
    """How the frames' starting noise is related."""
    return io.Combo.Input(name, options=list(FRAME_NOISE_MODES), default="independent", tooltip=FRAME_NOISE_TOOLTIP)


def seed_input() -> io.Int.Input:
    """The seed of a node's noise."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="Seed of the starting noise. The same seed gives the same frames, whatever frames_per_batch is.",
    )


def steps_input(tooltip: str) -> io.Int.Input:
    """Number of sampling steps."""
    presets = (
        "All of them are taken, at any strength. The paper uses 50 at a strength of 1; a quarter of the steps in every "
        "stage is the fast preset, measured on the demo models only."
    )
    return io.Int.Input("steps", default=50, min=1, max=1000, tooltip=f"{tooltip} {presets}")


def cfg_input(default: float, tooltip: str, name: str = "cfg") -> io.Float.Input:
    """Scale of classifier-free guidance."""
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def scheduler_input(tooltip: str) -> io.Combo.Input:
    """One of ComfyUI's schedulers."""
    return io.Combo.Input(
        "scheduler",
        options=list(comfy.samplers.SCHEDULER_NAMES),
        default="simple",
        tooltip=f"{tooltip} simple fits every model; the paper uses ddim_uniform, which flow models refuse.",
    )


def sigmas_input(tooltip: str) -> io.Sigmas.Input:
    """Noise levels that replace steps and scheduler."""
    return io.Sigmas.Input(
        "sigmas",
        optional=True,
        tooltip=f"Noise levels in place of steps and scheduler. Wire a scheduler node for this model. {tooltip}",
    )


def low_noise_inputs() -> list[io.Input]:
    """The expert for low noise, and the noise level below which it takes over."""
    return [
        io.Model.Input(
            "low_noise_model",
            optional=True,
            tooltip="For models of two experts (Wan 2.2 14B): the low-noise expert. Wire the high-noise expert to "
            "model, and both with the same shift.",
        ),
        io.Float.Input(
            "boundary",
            default=0.875,
            min=0.0,
            max=1.0,
            step=0.005,
            round=0.001,
            optional=True,
            advanced=True,
            tooltip="Noise level at which low_noise_model takes over: 0.875 for Wan 2.2 text to video, 0.9 for image "
            "to video. Without low_noise_model it only decides when a warning is shown.",
        ),
    ]


def fps_input(tooltip: str) -> io.Float.Input:
    """The frame rate of a clip."""
    return io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.01, tooltip=tooltip)


def strength_input(tooltip: str, advanced: bool = False) -> io.Float.Input:
    """How far to invert towards noise; every node of the chain uses the same scale."""
    return io.Float.Input(
        "strength", default=1.0, min=0.01, max=1.0, step=0.01, round=0.001, tooltip=tooltip, advanced=advanced
    )


def grid_input(tooltip: str) -> io.Combo.Input:
    """Matched noise levels, or those of the released code."""
    return io.Combo.Input("grid", options=list(GRIDS), default="matched", tooltip=tooltip, advanced=True)

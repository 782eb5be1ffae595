"""Controls that several nodes share, worded once."""

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
    tooltip="Frames the video model sees at once. 0 shows it the whole clip, which is best while the clip is no longer "
    "than the model was trained on (16 to 32 frames for most). Use the same windows for inverting and smoothing.",
)

CONTEXT_OVERLAP_INPUT = io.Int.Input(
    "context_overlap",
    default=0,
    min=0,
    max=4096,
    tooltip="Frames that neighbouring windows share. More hides the seams better and costs more time; a quarter to a "
    "half of context_length is usual. Without effect while context_length is 0.",
    advanced=True,
)

FRAME_NOISE_TOOLTIP = (
    "How the frames' starting noise is related. independent: as in the paper, most variety. shared: one noise for all "
    "frames, steadier where nothing moves, but texture sticks to the screen. progressive: noise that drifts slowly."
)


def frames_per_batch_input(advanced: bool = True) -> io.Int.Input:
    """The size of frame chunks."""
    return io.Int.Input(
        "frames_per_batch",
        default=0,
        min=0,
        max=4096,
        tooltip="Frames that go through the model at once. 0 takes as many as free memory holds and fewer if it runs "
        "out. Frames are independent: the result does not depend on this, only speed and memory do. Exceptions "
        "are three patches of other nodes, and a warning says so: ToMe, EasyCache and Self-Attention Guidance.",
        advanced=advanced,
    )


def frame_noise_input(name: str) -> io.Combo.Input:
    """How frames share their starting noise."""
    return io.Combo.Input(name, options=list(FRAME_NOISE_MODES), default="independent", tooltip=FRAME_NOISE_TOOLTIP)


def seed_input() -> io.Int.Input:
    """The seed of a node's noise."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="The starting noise. The same seed gives the same frames, however many go through at once.",
    )


def steps_input(tooltip: str) -> io.Int.Input:
    """A number of sampling steps."""
    sets = "The paper uses 50; 12 in every stage is the fast set, measured on small models only."
    return io.Int.Input("steps", default=50, min=1, max=1000, tooltip=f"{tooltip} {sets}")


def cfg_input(default: float, tooltip: str, name: str = "cfg") -> io.Float.Input:
    """Classifier-free guidance."""
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def scheduler_input(default: str, tooltip: str) -> io.Combo.Input:
    """The host's schedulers."""
    return io.Combo.Input("scheduler", options=list(comfy.samplers.SCHEDULER_NAMES), default=default, tooltip=tooltip)


def strength_input(tooltip: str, advanced: bool = False) -> io.Float.Input:
    """How far towards noise, as every node of the chain counts it."""
    return io.Float.Input(
        "strength", default=1.0, min=0.01, max=1.0, step=0.01, round=0.001, tooltip=tooltip, advanced=advanced
    )


def grid_input(tooltip: str) -> io.Combo.Input:
    """Matched noise levels, or the released code's."""
    return io.Combo.Input("grid", options=list(GRIDS), default="matched", tooltip=tooltip, advanced=True)

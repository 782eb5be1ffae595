"""How other packs are told which frames a window holds.

Advanced-ControlNet takes its part of hints, masks and strengths itself, by attributes of its controls. IP-Adapter Plus
takes its images for each frame by what AnimateDiff-Evolved (1.5.7) leaves in the transformer options.
"""

from collections.abc import Iterator
from contextlib import contextmanager

OPTION = "ad_params"
"""Key in transformer_options."""


def window_options(frames: list[int], clip_length: int) -> dict:
    """A window in the words in which AnimateDiff-Evolved tells other packs of its own; the value of `OPTION`."""
    return {"full_length": clip_length, "context_length": len(frames), "sub_idxs": frames}


def slices_itself(control) -> bool:
    """Whether a control takes its part of hints, masks and strengths itself."""
    return hasattr(control, "sub_idxs")


@contextmanager
def window_of(controls: list, window: dict) -> Iterator[None]:
    """Controls that slice for themselves know a window's frames while this is open.

    Args:
        window: as `window_options` gives it.
    """
    for control in controls:
        control.sub_idxs = window["sub_idxs"]
        control.full_latent_length = window["full_length"]
        control.context_length = window["context_length"]
    try:
        yield
    finally:
        for control in controls:
            control.sub_idxs, control.full_latent_length, control.context_length = None, 0, 0

"""A request made ready for an inversion: noise rises, and nothing but the model's own prediction counts.

What other nodes put on a MODEL or a prompt is made for denoising. What follows the schedule acts at the level that it
names; what cannot, and guidance of any kind, is switched off with a warning.
"""

import logging

from .comfy_types import Model
from .compat import animatediff_evolved
from .compat.comfyui_internals import remove_guidance, remove_step_caches, use_sigma_keyframes
from .compat.control_chains import reset_keyframes_each_call
from .prompts import PromptPair

log = logging.getLogger(__name__)


def prepare_for_inversion(model: Model, prompts: PromptPair) -> tuple[Model, PromptPair]:
    """A clone of a MODEL, and prompts, as an inversion takes them."""
    model = animatediff_evolved.clone_with_block_settings(model)
    reset_keyframes_each_call(model)
    for found, why in (
        (remove_guidance(model), "an inversion follows the model's own prediction"),
        (remove_step_caches(model), "it skips steps by how noise falls, and in an inversion noise rises"),
    ):
        if found:
            log.warning("Switched off for the inversion: %s (%s).", ", ".join(found), why)
    return model, PromptPair.without_guidance(use_sigma_keyframes(prompts.positive))

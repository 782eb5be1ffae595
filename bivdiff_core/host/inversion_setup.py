"""Prepare a MODEL and its prompts for an inversion, which follows the model's own prediction while sigma increases.

Patches, hooks and schedules of other nodes are made for denoising. Those tied to noise levels act at the levels that
they name. Those that cannot work here, and guidance of any kind, are switched off with a warning. Other patches stay,
with a warning too.
"""

from ..node_warnings import warn
from .comfy_types import Model
from .compat import animatediff_evolved
from .compat.comfyui_internals import remove_borrowed_control, use_sigma_keyframes
from .compat.control_chains import reset_keyframes_each_call
from .compat.model_patches import iterate_patches, name_patches, remove_guidance, remove_step_caches
from .prompts import PromptPair


def prepare_for_inversion(model: Model, prompts: PromptPair) -> tuple[Model, PromptPair]:
    """A clone of a MODEL, and prompts, that work in an inversion."""
    model = animatediff_evolved.clone_with_block_settings(model)
    reset_keyframes_each_call(model)
    for found, why in (
        (remove_guidance(model) + remove_borrowed_control(model), "an inversion follows the model's own prediction"),
        (remove_step_caches(model), "it skips steps while noise decreases, but an inversion increases it"),
    ):
        if found:
            warn("Switched off for the inversion: %s (%s).", ", ".join(found), why)
    if patches := name_patches(iterate_patches(model.model_options, model.object_patches)):
        warn(
            "The inversion uses the model with its patches: %s. The result is noise for a model with the same patches. "
            "To invert with the plain model, wire it in from before their nodes.",
            ", ".join(patches),
        )
    return model, PromptPair.without_guidance(use_sigma_keyframes(prompts.positive))

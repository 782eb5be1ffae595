"""Estimate how many frames fit in memory."""

import math
from collections.abc import Iterable

import comfy.model_management
import comfy.sampler_helpers
import torch

from .comfy_types import Conditioning, Model


def estimate_max_frames(model: Model, shape: torch.Size, conds: dict[str, list[dict]]) -> int:
    """Number of frames that one model call can hold in the memory that is free once all weights are loaded.

    Uses ComfyUI's estimate for cond and uncond together, times 1.5, as ComfyUI does when it decides whether both fit
    in one call. With several devices: the smallest free memory, and at least two calls per device, so that the last
    call of a slow device does not delay the others for long.

    Args:
        model: the MODEL.
        shape: of the latent, `[F, C, H, W]`.
        conds: the guider's; their ControlNets need memory too.
    """
    extra_models, control_memory = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())
    copies = [model, *model.get_additional_models_with_key("multigpu")]
    free = min(_free_memory([*copies, *extra_models], copy.load_device) for copy in copies) - control_memory
    memory, _ = comfy.sampler_helpers.estimate_memory(model, [1, *shape[1:]], conds)
    max_frames = math.ceil(shape[0] / (2 * len(copies))) if len(copies) > 1 else shape[0]
    return int(min(max(free / (1.5 * memory), 1), max_frames))


def _free_memory(models: list[Model], device: torch.device) -> int:
    """Free bytes on a device after ComfyUI has loaded these models and unloaded all others, as it does for a run.

    ComfyUI unloads nothing from CPU memory.
    """
    kept_models = [model for model in models if model.load_device == device]
    free = comfy.model_management.get_free_memory(device)
    free -= sum(max(model.model_size() - model.loaded_size(), 0) for model in kept_models)
    if device == torch.device("cpu"):
        return free
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models if entry.device == device]
    others = [each for each in loaded if each is not None and not any(each.is_clone(model) for model in kept_models)]
    return free + sum(other.loaded_size() for other in others)


def load_together(model: Model, others: Iterable[Model], prompts: Iterable[Conditioning], key: str) -> Model:
    """A clone of a MODEL with which ComfyUI loads other MODELs and the models of prompts (ControlNets).

    Otherwise ComfyUI may unload them to make room for this one, although their own runs still need them.

    Args:
        key: name of the clone's additional models; those that it already has under this name stay.
    """
    model = model.clone()
    conds = {str(i): [extra for _, extra in prompt] for i, prompt in enumerate(prompts)}
    of_prompts, _ = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())
    models = [*model.get_additional_models_with_key(key), *of_prompts]
    for other in others:
        if not any(other.is_clone(present) for present in models):
            copy = other.clone()
            copy.remove_additional_models("multigpu")  # ComfyUI would take its copies for those of this MODEL
            models.append(copy)
    model.set_additional_models(key, models)
    return model

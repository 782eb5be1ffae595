"""How many frames fit in memory."""

import math

import comfy.model_management
import comfy.sampler_helpers
import torch

from .comfy_types import Model


def estimate_max_frames(model: Model, shape: torch.Size, conds: dict[str, list[dict]]) -> int:
    """How many frames one model call may hold in the memory that will be free once all weights are loaded.

    The host's own estimate, for cond and uncond together, with the half more that it keeps in reserve when it
    decides whether both fit in one call. On several devices, where least is free, and few enough for two calls on each,
    so that the last call of a slow one does not keep the others waiting for long.

    Args:
        model: the MODEL.
        shape: of the latent, `[F, C, H, W]`.
        conds: the guider's, whose ControlNets take memory too.
    """
    extra_models, control_memory = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())
    copies = [model, *model.get_additional_models_with_key("multigpu")]
    free = min(_free_memory([*copies, *extra_models], copy.load_device) for copy in copies) - control_memory
    memory, _ = comfy.sampler_helpers.estimate_memory(model, [1, *shape[1:]], conds)
    most = math.ceil(shape[0] / (2 * len(copies))) if len(copies) > 1 else shape[0]
    return int(min(max(free / (1.5 * memory), 1), most))


def _free_memory(models: list[Model], device: torch.device) -> int:
    """Bytes free on a device beside the weights of models, once the host has unloaded the others, as it does for a run.

    It unloads none from the CPU's own memory.
    """
    staying = [model for model in models if model.load_device == device]
    free = comfy.model_management.get_free_memory(device)
    free -= sum(max(model.model_size() - model.loaded_size(), 0) for model in staying)
    if device == torch.device("cpu"):
        return free
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models if entry.device == device]
    others = [one for one in loaded if one is not None and not any(one.is_clone(model) for model in staying)]
    return free + sum(other.loaded_size() for other in others)

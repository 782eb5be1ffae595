"""How many frames fit in memory."""

import comfy.model_management
import comfy.sampler_helpers


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

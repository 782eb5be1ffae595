"""Names inside ComfyUI that are nobody's interface."""

import torch

from .guard import names_of

SWAPPED_LAYERS = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm")


@names_of("ComfyUI 0.30")
def use_host_layers(network: torch.nn.Module, operations) -> None:
    """Make a network's layers the host's own, so that their weights are cast, offloaded and interrupted like core's.

    Args:
        network: built of torch's layers; its weights stay.
        operations: the host's layer classes (`comfy.ops.pick_operations`), which add to torch's only methods.
    """
    for module in network.modules():
        for name in SWAPPED_LAYERS:
            if type(module) is getattr(torch.nn, name):
                module.__class__ = getattr(operations, name)


CORE_WINDOW_WRAPPER, OUR_WINDOW_WRAPPER = "ContextWindows_prepare_sampling", "bivdiff_windows"
"""Keys of the wrappers on a MODEL that cut frames into windows and do nothing else."""


@names_of("ComfyUI 0.30")
def mechanisms_on(model) -> list[str]:
    """What other nodes have put on a MODEL that may make its frames see one another, in words; none on a bare one.

    Patches of weights (LoRA) and another noise schedule do not.
    """
    options = model.model_options
    patches = options.get("transformer_options", {})
    found = {
        "patches": [*patches.get("patches", {}), *patches.get("patches_replace", {})],
        "functions": [name for name, value in options.items() if callable(value) or isinstance(value, list)],
        "wrappers": [
            key
            for by_key in model.wrappers.values()
            for key, wrappers in by_key.items()
            if wrappers and key not in (CORE_WINDOW_WRAPPER, OUR_WINDOW_WRAPPER)
        ],
        "injections": list(model.injections),
        "further models": list(model.additional_models),
        "exchanged layers": [name for name in model.object_patches if name.startswith("diffusion_model")],
    }
    return [f"{what} ({', '.join(sorted(set(names)))})" for what, names in found.items() if names]

"""Build MODELs, as ComfyUI does, of networks that ComfyUI cannot load itself."""

from collections.abc import Callable

import comfy.model_management as mm
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..comfy_types import Model


def build_model(
    config: comfy.supported_models_base.BASE,
    weights: dict[str, Tensor],
    reload: Callable[..., Model],
    reload_arguments: tuple,
    disable_dynamic: bool,
) -> Model:
    """Build a MODEL in the precision and on the devices that ComfyUI chooses.

    Args:
        weights: of the whole network, since ComfyUI loads an incomplete state dict silently; emptied while loading.
        reload, reload_arguments: function and arguments to build the MODEL again, for hooks and several GPUs.
        disable_dynamic: as passed by ComfyUI when it calls `reload`.
    """
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    config.set_inference_dtype(*choose_precision(weights, config.supported_inference_dtypes))
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    model = config.get_model(weights, "", device=offload_device)
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (reload, reload_arguments)
    return patcher


def choose_precision(
    weights: dict[str, Tensor], supported: list[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the storage dtype that ComfyUI chooses, and the compute dtype if it differs, else None."""
    supported = list(supported)
    dtype = mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    return dtype, mm.unet_manual_cast(dtype, mm.get_torch_device(), supported)

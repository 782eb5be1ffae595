"""Networks that core's loaders do not know, made into MODELs as core makes its own."""

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
    arguments: tuple,
    disable_dynamic: bool,
) -> Model:
    """A MODEL of a configuration and its weights, in the precision and on the devices that the host picks.

    Args:
        weights: all of the network's, since the host would load a part silently; emptied on the way.
        reload, arguments: how the host makes the MODEL again, for hooks and several GPUs.
        disable_dynamic: as the host asks for when it calls `reload`.
    """
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    config.set_inference_dtype(*choose_precision(weights, config.supported_inference_dtypes))
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    model = config.get_model(weights, "", device=offload_device)
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (reload, arguments)
    return patcher


def choose_precision(
    weights: dict[str, Tensor], supported: list[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """The host's choice of storage dtype, and of compute dtype where that is another."""
    supported = list(supported)
    dtype = mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    return dtype, mm.unet_manual_cast(dtype, mm.get_torch_device(), supported)

"""The input group_norms: norms that pool the clip in the image branch, as in the released code."""

from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import PatcherInjection, WrapperExecutor, WrappersMP
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .comfy_types import Model
from .model_families import find_family
from .norm_pooling import NormPooling

GROUP_NORMS = ("auto", "per_frame", "whole_clip")
NORM_PATCH_KEY = "bivdiff_norms"


def should_pool_norms(group_norms: str, grid: str) -> bool:
    """Whether the norms pool the clip; `auto` pools with grid `reference` only."""
    return group_norms == "whole_clip" or (group_norms == "auto" and grid == "reference")


def pool_norms(model: Model) -> Model:
    """A clone of an image MODEL whose group norms pool all frames of a call, separately for each cond.

    Hooks are on the MODEL's own layers while it samples, so their weights are cast and offloaded as usual.

    Raises:
        ValueError: the network is not Stable Diffusion's UNet, or the MODEL has windows, which would split the pool.
    """
    network = model.model.diffusion_model
    if not isinstance(network, UNetModel) or find_family(model).is_video:
        raise ValueError(
            f"group_norms whole_clip is for Stable Diffusion's UNet, not {type(network).__name__}. Set group_norms to "
            "per_frame and grid to matched."
        )
    if model.model_options.get("context_handler") is not None:
        raise ValueError(
            "group_norms whole_clip needs all frames in one call, but the model has windows or chunks. Remove Frame "
            "Chunks or Context Windows, or set group_norms to per_frame."
        )
    norms = _InjectedNormPooling()
    model = model.clone()
    model.set_injections(NORM_PATCH_KEY, [PatcherInjection(norms.inject, norms.eject)])
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, NORM_PATCH_KEY, norms.count_conds)
    return model


class _InjectedNormPooling(NormPooling):
    """NormPooling of a MODEL while it samples: each cond that ComfyUI batches in a call is a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[RemovableHandle] = []

    def count_conds(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        **inputs: Any,
    ) -> Tensor:
        self.clip_count = len(transformer_options["cond_or_uncond"])
        return executor(x, timesteps, context, y, control, transformer_options, **inputs)

    def inject(self, patcher: Model) -> None:
        self.hooks = self.add_hooks(patcher.model.diffusion_model)

    def eject(self, patcher: Model) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

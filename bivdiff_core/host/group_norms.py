"""Group norms that pool a whole clip, as in the released code's image branch (MCG-NJU/BIVDiff).

The released code builds Stable Diffusion as a 3-D UNet. The norms of every residual block and the norm before the last
convolution normalise `[b, c, f, h, w]`. Attention, and the norms of its blocks, work per frame.
"""

from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy.patcher_extension import PatcherInjection, WrapperExecutor, WrappersMP
from einops import rearrange
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .comfy_types import Model
from .model_families import find_family

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
    pooled = _NormPooling()
    model = model.clone()
    model.set_injections(NORM_PATCH_KEY, [PatcherInjection(pooled.inject, pooled.eject)])
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, NORM_PATCH_KEY, pooled.count_conds)
    return model


class _NormPooling:
    """The hooks of one MODEL's norms; `cond_count` is the number of conds that ComfyUI batches in the current call."""

    def __init__(self) -> None:
        self.cond_count = 1
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
        self.cond_count = len(transformer_options["cond_or_uncond"])
        return executor(x, timesteps, context, y, control, transformer_options, **inputs)

    def inject(self, patcher: Model) -> None:
        network = patcher.model.diffusion_model
        blocks = [block for block in network.modules() if isinstance(block, ResBlock)]
        for norm in [network.out[0], *(layers[0] for b in blocks for layers in (b.in_layers, b.out_layers))]:
            self.hooks.append(norm.register_forward_pre_hook(self._to_clips))
            self.hooks.append(norm.register_forward_hook(self._to_frames))

    def eject(self, patcher: Model) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def _to_clips(self, norm: torch.nn.GroupNorm, args: tuple) -> tuple:
        return (rearrange(args[0], "(b f) c h w -> b c f h w", b=self.cond_count),)

    def _to_frames(self, norm: torch.nn.GroupNorm, args: tuple, out: Tensor) -> Tensor:
        return rearrange(out, "b c f h w -> (b f) c h w")

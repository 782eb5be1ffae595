"""Group norms that pool whole clips, as in the released code's 3-D UNets (MCG-NJU/BIVDiff).

The norms of every residual block and the norm before the last convolution normalise `[b, c, f, h, w]`. Attention, and
the norms of its blocks, work per frame.
"""

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from einops import rearrange
from torch import Tensor
from torch.utils.hooks import RemovableHandle


class NormPooling:
    """Hooks on the norms of a UNet for frames; `clip_count` is the number of clips in the current model call."""

    def __init__(self) -> None:
        self.clip_count = 1

    def add_hooks(self, network: UNetModel) -> list[RemovableHandle]:
        """Make a network's norms pool each clip; the handles remove the hooks."""
        blocks = [block for block in network.modules() if isinstance(block, ResBlock)]
        norms = [network.out[0], *(layers[0] for b in blocks for layers in (b.in_layers, b.out_layers))]
        return [norm.register_forward_pre_hook(self._to_clips) for norm in norms] + [
            norm.register_forward_hook(self._to_frames) for norm in norms
        ]

    def _to_clips(self, norm: torch.nn.GroupNorm, args: tuple[Tensor]) -> tuple[Tensor]:
        return (rearrange(args[0], "(b f) c h w -> b c f h w", b=self.clip_count),)

    def _to_frames(self, norm: torch.nn.GroupNorm, args: tuple[Tensor], out: Tensor) -> Tensor:
        return rearrange(out, "b c f h w -> (b f) c h w")

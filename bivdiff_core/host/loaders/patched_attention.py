"""Apply ComfyUI's attention patches to the spatial attention of a diffusers UNet3DConditionModel.

Temporal attention is not patched: its rows are not those of an image model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import Transformer2DModel, UNet3DConditionModel
    from diffusers.models.attention_processor import Attention

SUPPORTED_PATCHES = ("attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch")
"""Kinds of patches of other nodes that are supported, besides replacements of attn1 and attn2."""


class PatchedAttention:
    """A diffusers attention processor that applies a MODEL's patches as ComfyUI's transformer blocks do.

    Args:
        inner: the original processor, used if there are no patches.
        kind: `attn1` (self-attention of a frame) or `attn2` (attention to the text).
        block: position of the layer, numbered as in ComfyUI's UNet.
        index: index of the layer in its transformer.
        options: transformer_options of the run; updated before every call of the network.
    """

    def __init__(self, inner: Callable[..., Tensor], kind: str, block: tuple[str, int], index: int, options: dict):
        self.inner = inner
        self.kind = kind
        self.block = block
        self.index = index
        self.options = options

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **inputs: Any
    ) -> Tensor:
        """Compute attention of `[rows, N, C]` to itself or to a context `[rows, L, D]`."""
        patches = self.options.get("patches", {})
        replacements = self.options.get("patches_replace", {}).get(self.kind, {})
        before, after = (patches.get(f"{self.kind}_{name}", []) for name in ("patch", "output_patch"))
        replacement = replacements.get((*self.block, self.index), replacements.get(self.block))
        if not before and not after and replacement is None:
            return self.inner(attn, hidden_states, encoder_hidden_states, **inputs)

        extra = {**self.options, "n_heads": attn.heads, "dim_head": attn.inner_dim // attn.heads}
        extra |= {"attn_precision": None, "block": self.block, "block_index": self.index}
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        queries, keys, values = hidden_states, context, context
        for patch in before:
            queries, keys, values = patch(queries, keys, values, extra)
        q, k, v = attn.to_q(queries), attn.to_k(keys), attn.to_v(values)
        out = optimized_attention(q, k, v, attn.heads) if replacement is None else replacement(q, k, v, extra)
        for layer in attn.to_out:
            out = layer(out)
        for patch in after:
            out = patch(out, extra)
        return out


def patch_attention(unet: UNet3DConditionModel, options: dict) -> None:
    """Give every spatial attention layer of a UNet3DConditionModel a `PatchedAttention` that reads `options`."""
    for block, transformer in _iterate_spatial_transformers(unet):
        for index, layer in enumerate(transformer.transformer_blocks):
            for kind, attention in (("attn1", layer.attn1), ("attn2", layer.attn2)):
                attention.set_processor(PatchedAttention(attention.processor, kind, block, index, options))


def _iterate_spatial_transformers(unet: UNet3DConditionModel) -> Iterator[tuple[tuple[str, int], Transformer2DModel]]:
    """Yield the spatial transformers with their positions; ("input", 1) follows the first convolution."""
    number = 0
    for block in unet.down_blocks:
        for attention in getattr(block, "attentions", [None] * len(block.resnets)):
            number += 1
            if attention is not None:
                yield ("input", number), attention
        number += block.downsamplers is not None
    for attention in unet.mid_block.attentions:
        yield ("middle", 0), attention
    number = 0
    for block in unet.up_blocks:
        for attention in getattr(block, "attentions", [None] * len(block.resnets)):
            if attention is not None:
                yield ("output", number), attention
            number += 1

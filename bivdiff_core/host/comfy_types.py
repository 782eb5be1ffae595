"""What flows over ComfyUI's wires, as types: a MODEL is a `Model`, and IMAGE and MASK are plain tensors."""

from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.controlnet
    import comfy.model_patcher
    import comfy.sd

Model: TypeAlias = "comfy.model_patcher.ModelPatcher"
CLIP: TypeAlias = "comfy.sd.CLIP"
VAE: TypeAlias = "comfy.sd.VAE"
ClipVision: TypeAlias = "comfy.clip_vision.ClipVisionModel"
ControlModel: TypeAlias = "comfy.controlnet.ControlBase"
"""A CONTROL_NET: a ControlNet or a T2I-Adapter, the host's or another pack's."""

Latent: TypeAlias = dict[str, Any]
"""Its `samples`, and beside them what nodes add: `noise_mask`, `batch_index`, `latents.DESCRIPTION` and more."""

Conditioning: TypeAlias = list[tuple[Tensor, dict[str, Any]]]
"""Encoded texts, `[1 or F, L, D]`, each with what goes with it: controls, masks, hooks, pictures."""

"""Types of ComfyUI's sockets: a MODEL is a `Model`; IMAGE and MASK are plain tensors."""

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
"""A CONTROL_NET: a ControlNet or a T2I-Adapter, of ComfyUI or of another pack."""

OpticalFlow: TypeAlias = "comfy.model_patcher.ModelPatcher"
"""An OPTICAL_FLOW: torchvision's RAFT, from Load Optical Flow Model."""

Latent: TypeAlias = dict[str, Any]
"""`samples`, and optional keys that nodes add: `noise_mask`, `batch_index`, `latents.INVERSION_KEY` and more."""

Conditioning: TypeAlias = list[tuple[Tensor, dict[str, Any]]]
"""Encoded texts, `[1 or F, L, D]`, each with a dict of options: controls, masks, hooks, images."""

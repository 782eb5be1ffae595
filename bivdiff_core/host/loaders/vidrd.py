"""VidRD ("Reuse and Diffuse", arXiv 2309.03549) as a ComfyUI MODEL: Stable Diffusion 2.1 with temporal layers.

It is built on ComfyUI's UNet, so ControlNets, LoRAs and patches for Stable Diffusion 2 apply. VidRD's layers follow its
released code (github.com/MCG-NJU/BIVDiff, models/ReuseAndDiffuse) and weights:

- four temporal convolutions after every residual block, each after a group norm;
- temporal attention at each spatial position in every transformer block, between text attention and feed-forward, with
  sinusoidal frame positions;
- group norms outside the transformers compute their statistics over the whole clip.

A clip of one frame passes the temporal layers unchanged.
"""

from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.ops
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from einops import rearrange
from torch import Tensor

from ..norm_pooling import NormPooling
from .model_files import read_weights
from .network_configs import to_comfy_unet_config

CHECKPOINT_PARTS = ("unet", "text_encoder")
CHECKPOINT_NAMES = ("ModelT2V.safetensors", "ModelT2V.pth")
"""VidRD's checkpoint, converted or as released. It contains the parts of `CHECKPOINT_PARTS`, or only the first."""

CONVERSION_SCRIPT = (
    "import torch, safetensors.torch as s; "
    "d = torch.load('ModelT2V.pth', map_location='cpu', weights_only=False)['state_dict']; "
    "s.save_file({k: v.clone().contiguous() for k, v in d.items()}, 'ModelT2V.safetensors')"
)


UNET_2D_FIELDS = {
    "in_channels": (4,),
    "out_channels": (4,),
    "block_out_channels": (),
    "layers_per_block": (),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": (),
}
"""Supported values in the configuration of Stable Diffusion's UNet, for `model_files.check_fields`."""


class VidRDUNet(UNetModel):
    """ComfyUI's UNet with VidRD's layers. They are added as hooks, so the UNet's weights keep their names.

    Args:
        operations, dtype, device, unet_config: as for ComfyUI's UNetModel.
    """

    def __init__(
        self,
        *,
        operations: type[comfy.ops.disable_weight_init],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **unet_config: Any,
    ):
        super().__init__(dtype=dtype, device=device, operations=operations, **unet_config)
        factory_kwargs = {"dtype": dtype, "device": device}
        self.context_dim = unet_config["context_dim"]
        self.frames = 1
        self.norm_pooling = NormPooling()
        self.norm_pooling.add_hooks(self)
        for block in list(self.modules()):
            if isinstance(block, ResBlock):
                width = block.out_channels
                layers = []
                for _ in range(4):
                    norm = operations.GroupNorm(32, width, **factory_kwargs)
                    convolution = operations.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), **factory_kwargs)
                    layers += [norm, torch.nn.SiLU(), torch.nn.Dropout(0.1), convolution]
                block.temp_convs = torch.nn.Sequential(*layers)
                block.register_forward_hook(self._convolve_along_time)
            elif isinstance(block, BasicTransformerBlock):
                width = block.n_heads * block.d_head
                heads = {"heads": block.n_heads, "dim_head": block.d_head, "attn_precision": block.attn_precision}
                block.temp_norm = operations.LayerNorm(width, **factory_kwargs)
                block.temp_attn = CrossAttention(width, **heads, operations=operations, **factory_kwargs)
                block.norm3.register_forward_pre_hook(partial(self._attend_along_time, block))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict, **inputs: Any
    ) -> Tensor:
        """Predict eps of whole clips.

        Args:
            x: `[B * F, C, H, W]`, where B is the number of conds that ComfyUI batched in this call.
            timesteps, context: `[B * F]` and `[B * F, L, D]`.
            inputs: further arguments of ComfyUI's UNetModel, such as control.
        """
        self.norm_pooling.clip_count = len(transformer_options["cond_or_uncond"])
        self.frames = x.shape[0] // self.norm_pooling.clip_count
        return super().forward(x, timesteps, context=context, transformer_options=transformer_options, **inputs)

    def _convolve_along_time(self, block: ResBlock, args: tuple[Tensor, Tensor], out: Tensor) -> Tensor:
        if self.frames == 1:
            return out
        return out + self._to_frames(block.temp_convs(self._to_clips(out)))

    def _attend_along_time(self, block: BasicTransformerBlock, norm: torch.nn.LayerNorm, args: tuple[Tensor]) -> None:
        """Add temporal attention to the block's state `[B * F, H * W, C]` in place, before norm3 reads it."""
        (x,) = args
        if self.frames == 1:
            return
        states = rearrange(x, "(b f) n c -> (b n) f c", f=self.frames) + sinusoidal_positions(self.frames, x)
        states = states + block.temp_attn(block.temp_norm(states))
        x.copy_(rearrange(states, "(b n) f c -> (b f) n c", n=x.shape[1]))

    def _to_clips(self, x: Tensor) -> Tensor:
        return rearrange(x, "(b f) c h w -> b c f h w", f=self.frames)

    def _to_frames(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c f h w -> (b f) c h w")


def sinusoidal_positions(frames: int, like: Tensor) -> Tensor:
    """Interleaved sines and cosines of the frame numbers, `[F, C]` (arXiv 1706.03762, section 3.5)."""
    width = like.shape[-1]
    even = torch.arange(0, width, 2, device=like.device)
    angles = torch.arange(frames, device=like.device)[:, None] / 10000 ** (even / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


class VidRDModel(comfy.model_base.BaseModel):
    """ComfyUI's sampling model with a VidRDUNet."""


class VidRDConfig(comfy.supported_models.SD20):
    """ComfyUI's configuration of Stable Diffusion 2, converted from diffusers' UNet2DConditionModel."""

    def __init__(self, unet_config: dict):
        super().__init__(to_comfy_unet_config(unet_config))

    def get_model(
        self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> VidRDModel:
        return VidRDModel(self, self.model_type(state_dict, prefix), device=device, unet_model=VidRDUNet)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the checkpoint's keys to ComfyUI's. They are diffusers', except for the temporal layers."""
        names = comfy.utils.unet_to_diffusers(self.unet_config)
        return {_to_comfy_name(key, names): tensor for key, tensor in state_dict.items()}


def _to_comfy_name(key: str, names: dict[str, str]) -> str:
    """Rename a key. A temporal layer follows a spatial layer of the same block; an unknown name is kept."""
    block, temporal, layer = key.partition(".temp_")
    if not temporal:
        return names.get(key, key)
    reference_key, suffix = f"{block}.norm3.weight", "norm3.weight"
    if layer.startswith("convs."):  # temp_convs.1.convs.3.weight follows resnets.1
        _, number, layer = layer.split(".", 2)
        reference_key, suffix = f"{block}.resnets.{number}.norm1.weight", "in_layers.0.weight"
    return f"{names[reference_key].removesuffix(suffix)}temp_{layer}" if reference_key in names else key


def find_checkpoint(folder: Path) -> Path | None:
    """Find VidRD's checkpoint in a folder of Stable Diffusion 2.1; None if there is none."""
    return next((folder / name for name in CHECKPOINT_NAMES if (folder / name).is_file()), None)


def read_checkpoint_part(checkpoint: Path, part: str) -> dict[str, Tensor]:
    """Read the weights of `unet` or `text_encoder`; empty if the checkpoint does not contain the part.

    Raises:
        ValueError: the file is damaged, or a pickle that holds more than weights.
    """
    weights = read_weights(
        checkpoint,
        part,
        "If you trust its source, convert it once: open a terminal in its folder and run, with a Python that "
        f'has PyTorch Lightning,\npython -c "{CONVERSION_SCRIPT}"',
    )
    return comfy.utils.state_dict_prefix_replace(weights, {f"{part}.": ""}, filter_keys=True)

"""The modern pair: Wan's VAE and video model and Qwen-Image's edit model, in ComfyUI's own classes at toy size.

They share Wan 2.1's latent space: the VAE's latents have its mean and standard deviation, so ComfyUI's latent format,
and all that the pack knows of it, apply unchanged. The text encoder is that of the demo models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from research import training

if TYPE_CHECKING:
    from comfy.ldm.wan.vae import WanVAE
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

WEIGHTS_FOLDER = Path(__file__).parent / "modern_weights"
VAE_CONFIG: dict[str, Any] = {
    "dim": 12,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "image_channels": 3,
    "conv_out_channels": 3,
    "dropout": 0.0,
}
"""ComfyUI's loader of Wan's VAE accepts any ``dim``; the rest is Wan's."""
WAN_CONFIG: dict[str, Any] = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "patch_size": (1, 2, 2),
    "dim": 128,
    "ffn_dim": 512,
    "freq_dim": 128,
    "text_dim": 64,
    "in_dim": 16,
    "out_dim": 16,
    "num_heads": 4,
    "num_layers": 6,
    "text_len": 512,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
QWEN_CONFIG: dict[str, Any] = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "axes_dims_rope": (8, 12, 12),
}
COLOURS = 7
"""Channels that carry the mean colours through the VAE at the start of training: c, -c and a constant."""


@torch.no_grad()
def make_vae() -> WanVAE:
    """An untrained VAE with a path for the mean colour of 8x8 pixels; its residual branches start as identity.

    Its convolutions over time begin as those of a picture VAE. The posterior starts with std .05.
    """
    import comfy.ldm.wan.vae as wan_vae

    net = wan_vae.WanVAE(**VAE_CONFIG)
    generator = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            fan_in = layer.weight[0].numel()
            if isinstance(layer, wan_vae.CausalConv3d):
                fan_in //= layer.kernel_size[0]
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.6 / fan_in**0.5)
            layer.bias.zero_()
            if layer.weight.shape[2:] == (3, 3, 3):
                layer.weight[:, :, :-1] = 0
        if isinstance(layer, wan_vae.ResidualBlock):
            layer.residual[-1].weight.zero_()
        if isinstance(layer, wan_vae.AttentionBlock):
            layer.proj.weight.zero_()
        if isinstance(layer, wan_vae.Resample) and hasattr(layer, "time_conv"):
            _average_over_time(layer)
    _connect_colours(net, wan_vae)
    net.conv1.weight[VAE_CONFIG["z_dim"] :] = 0
    net.conv1.bias[VAE_CONFIG["z_dim"] :] = -6
    return net


def _average_over_time(layer: nn.Module) -> None:
    """Average two frames where time is halved, and repeat one where it is doubled."""
    conv = layer.time_conv
    width = conv.weight.shape[1]
    conv.weight.zero_()
    if layer.mode == "downsample3d":
        conv.weight[range(width), range(width), 1:] = 0.5
    else:
        for first in (0, width):
            conv.weight[range(first, first + width), range(width), -1] = 1


def _connect_colours(net: WanVAE, wan_vae: Any) -> None:
    """Pass colours to the first latent channels and back, as c and -c because of the activations."""

    def connect(conv: nn.Module, matrix: Tensor) -> None:
        outputs, inputs = matrix.shape
        conv.weight[:outputs] = 0
        conv.bias[:outputs] = 0
        centre = tuple(size // 2 for size in conv.weight.shape[-2:])
        taps = conv.weight[:outputs, :inputs]
        (taps[:, :, -1] if taps.ndim == 5 else taps)[..., centre[0], centre[1]] = matrix

    split = torch.cat((torch.eye(3), -torch.eye(3), torch.zeros(1, 3)))
    for half in (net.encoder, net.decoder):
        connect(half.conv1, split)
        half.conv1.bias[COLOURS - 1] = 1.0
        for layer in half.modules():
            if isinstance(layer, wan_vae.Resample):
                conv = layer.resample[1]
                if "down" in layer.mode:
                    conv.weight[:COLOURS] = 0
                    conv.weight[range(COLOURS), range(COLOURS), :2, :2] = 0.25
                else:
                    connect(conv, torch.eye(COLOURS))
            if isinstance(layer, wan_vae.ResidualBlock) and isinstance(layer.shortcut, wan_vae.CausalConv3d):
                connect(layer.shortcut, torch.eye(COLOURS))
        scale = 1.3 / half.head[2].weight.shape[1] ** 0.5 * (1 if half is net.decoder else 2)  # the norm before it
        connect(half.head[2], split.T * scale)
    connect(net.conv1, torch.eye(3))
    connect(net.conv2, torch.eye(3))


class WholeClips:
    """A `WanVAE` that processes all frames of a clip at once, for training: equal to its loop with a cache."""

    def __init__(self, net: WanVAE) -> None:
        self.net = net

    def encode(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of latents, of clips ``[B, 3, 1 + 4 n, H, W]``."""
        encoder = self.net.encoder
        layers = [encoder.conv1, *encoder.downsamples, *encoder.middle, *encoder.head, self.net.conv1]
        return self._run(layers, clips).chunk(2, dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Clips of latents ``[B, 16, 1 + n, H / 8, W / 8]``."""
        decoder = self.net.decoder
        return self._run([self.net.conv2, decoder.conv1, *decoder.middle, *decoder.upsamples, *decoder.head], latents)

    def _run(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        import comfy.ldm.wan.vae as wan_vae

        for layer in layers:
            if isinstance(layer, wan_vae.CausalConv3d):
                x = self._convolve(layer, x)
            elif isinstance(layer, wan_vae.ResidualBlock):
                shortcut = layer.shortcut
                kept = self._convolve(shortcut, x) if isinstance(shortcut, wan_vae.CausalConv3d) else x
                x = kept + self._run(list(layer.residual), x)
            elif isinstance(layer, wan_vae.Resample):
                x = self._resample(layer, x)
            else:
                x = layer(x)
        return x

    @staticmethod
    def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
        if layer.kernel_size == (1, 1, 1):
            return F.conv3d(x, layer.weight, layer.bias)
        if layer._padding and x.shape[2] == 1:  # of one frame only the last tap counts
            flat = F.conv2d(x[:, :, 0], layer.weight[:, :, -1], layer.bias, padding=layer.padding[1:])
            return flat.unsqueeze(2)
        padded = F.pad(x, (0, 0, 0, 0, layer._padding, 0))
        return F.conv3d(padded, layer.weight, layer.bias, layer.stride, layer.padding)

    def _resample(self, layer: nn.Module, x: Tensor) -> Tensor:
        if layer.mode == "upsample3d" and x.shape[2] > 1:
            batch, channels, _, height, width = x.shape
            rest = self._convolve(layer.time_conv, x[:, :, 1:]).unflatten(1, (2, channels))
            rest = rest.movedim(1, 3).reshape(batch, channels, -1, height, width)
            x = torch.cat((x[:, :, :1], rest), dim=2)
        frames = x.shape[2]
        x = layer.resample(x.movedim(2, 1).flatten(0, 1)).unflatten(0, (-1, frames)).movedim(1, 2)
        if layer.mode == "downsample3d" and frames > 1:
            rest = F.conv3d(x, layer.time_conv.weight, layer.time_conv.bias, stride=(2, 1, 1))
            x = torch.cat((x[:, :, :1], rest), dim=2)
        return x


@torch.no_grad()
def rescale_latents(net: WanVAE, mean: Tensor, std: Tensor) -> None:
    """Change a VAE whose latents have this mean and std ``[16]`` so that they have those of Wan 2.1's."""
    import comfy.latent_formats

    wan = comfy.latent_formats.Wan21()
    wan_mean, wan_std = wan.latents_mean.flatten(), wan.latents_std.flatten()
    scale, channels = wan_std / std, len(mean)
    net.conv1.weight[:channels] *= scale.view(-1, 1, 1, 1, 1)
    net.conv1.bias[:channels] = (net.conv1.bias[:channels] - mean) * scale + wan_mean
    weight = net.conv2.weight[..., 0, 0, 0]
    net.conv2.bias += weight @ (mean - wan_mean / scale)
    net.conv2.weight /= scale.view(1, -1, 1, 1, 1)


@torch.no_grad()
def _initialise(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d)):
            bound = (6 / (layer.weight[0].numel() + len(layer.weight))) ** 0.5
            layer.weight.uniform_(-bound, bound)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, (nn.RMSNorm, nn.LayerNorm)) and layer.weight is not None:
            layer.weight.fill_(1)
            if getattr(layer, "bias", None) is not None:
                layer.bias.zero_()
    return net


@torch.no_grad()
def make_wan() -> nn.Module:
    """An untrained video model, whose output is zero."""
    import comfy.ldm.wan.model
    import comfy.ops

    operations = comfy.ops.disable_weight_init
    net = _initialise(
        comfy.ldm.wan.model.WanModel(**WAN_CONFIG, dtype=torch.float32, device="cpu", operations=operations)
    )
    for block in (*net.blocks, net.head):
        block.modulation.normal_(std=0.02)
    net.time_projection[1].weight.mul_(0.1)
    net.head.head.weight.zero_()
    return net


@torch.no_grad()
def make_qwen() -> nn.Module:
    """An untrained image model, whose output is zero."""
    import comfy.ldm.qwen_image.model
    import comfy.ops

    operations = comfy.ops.disable_weight_init
    net = _initialise(
        comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
            **QWEN_CONFIG, dtype=torch.float32, device="cpu", operations=operations
        )
    )
    for block in net.transformer_blocks:
        for modulation in (block.img_mod, block.txt_mod):
            modulation[1].weight.mul_(0.1)
    net.norm_out.linear.weight.zero_()
    net.proj_out.weight.zero_()
    return net


def save_weights(name: str, weights: dict[str, Tensor]) -> None:
    """Save a state dict in half precision."""
    training.save_weights(WEIGHTS_FOLDER / f"{name}.safetensors", weights)


def load_weights(name: str) -> dict[str, Tensor]:
    """A saved state dict in single precision."""
    return {key: tensor.float() for key, tensor in load_file(WEIGHTS_FOLDER / f"{name}.safetensors").items()}


def load_vae() -> VAE:
    """The VAE, by ComfyUI's loader."""
    import comfy.sd

    return comfy.sd.VAE(sd=load_weights("vae"))


def load_model(name: str) -> ModelPatcher:
    """A MODEL: qwen, wan, or wan's experts wan_high_noise and wan_low_noise."""
    import comfy.model_patcher
    import comfy.supported_models

    is_qwen = name == "qwen"
    config_class = comfy.supported_models.QwenImage if is_qwen else comfy.supported_models.WAN21_T2V
    config = config_class(dict(QWEN_CONFIG if is_qwen else WAN_CONFIG))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    model.diffusion_model.load_state_dict(load_weights(name))
    model.requires_grad_(False).eval()
    device = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=device)

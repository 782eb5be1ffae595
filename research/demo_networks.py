"""The networks of the demo models: untrained networks, extensions of trained ones, and saved weights.

All are plain diffusers and transformers modules. Their weight files keep the keys of those libraries, so ComfyUI's
converters can read them. diffusers and transformers are imported only when a network is built.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING

import torch

from bivdiff_core.demo.models import (
    AUTOENCODER_CONFIG,
    CONTEXT_LENGTH,
    IMAGE_UNET_CONFIG,
    T2I_ADAPTER_CONFIG,
    TEXT_ENCODER_CONFIG,
    VIDEO_UNET_CONFIG,
    WEIGHTS_FOLDER,
    WordTokenizer,
)
from bivdiff_core.grids import SD_BETAS
from research import training

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel, UNet3DConditionModel
    from transformers import CLIPTextModel

VARIANT_RANK = 16
LORA_RANK = 8
LORA_NAME = "loras/bivdiff_ink"
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": SD_BETAS[0],
    "beta_end": SD_BETAS[1],
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}


def token_ids(captions: list[str]) -> torch.Tensor:
    """Token ids ``[B, 16]``, padded with the end token as in SD; longer captions are truncated."""
    tokenizer = WordTokenizer()
    end = tokenizer.get_vocab()[WordTokenizer.END]
    rows = [tokenizer(caption)["input_ids"][: CONTEXT_LENGTH - 1] for caption in captions]
    return torch.tensor([row + [end] * (CONTEXT_LENGTH - len(row)) for row in rows])


def _zero_last_layers(net: torch.nn.Module, pattern: str) -> None:
    """Zero the last layers of residual branches, whose names match ``pattern``, so that they start as identity.

    Published models do that, diffusers does not; without it tiny networks learn several times slower.
    """
    for name, tensor in net.named_parameters():
        if re.search(pattern, name):
            torch.nn.init.zeros_(tensor)


@torch.no_grad()
def _init_colour_path(net: AutoencoderKL) -> None:
    """Initialise the first channels of an autoencoder to pass colours to the latent and back; the others stay random.

    Training needs hundreds of steps to find this. Colours are passed twice, as c and -c, because of the activation
    before the last layer: silu(c) - silu(-c) = c.
    """

    def connect(conv: torch.nn.Conv2d, matrix: torch.Tensor, taps: slice) -> None:
        outputs, inputs = matrix.shape
        for parameter in conv.parameters():
            parameter[:outputs] = 0
        area = conv.weight[:outputs, :inputs, taps, taps]
        area += matrix[:, :, None, None] / area[0, 0].numel()

    split = torch.cat((torch.eye(3), -torch.eye(3)))
    for half in (net.encoder, net.decoder):
        connect(half.conv_in, split, slice(1, 2))
        connect(half.conv_out, split.T / 2, slice(1, 2))
        for name, layer in half.named_modules():
            if name.endswith("downsamplers.0.conv"):  # padded only below and to the right
                connect(layer, torch.eye(6), slice(0, 2))
            elif name.endswith("upsamplers.0.conv"):
                connect(layer, torch.eye(6), slice(1, 2))
            elif name.endswith("conv_shortcut"):
                connect(layer, torch.eye(6), slice(0, 1))
    connect(net.quant_conv, torch.eye(4), slice(0, 1))
    connect(net.post_quant_conv, torch.eye(4), slice(0, 1))


def autoencoder() -> AutoencoderKL:
    """An untrained f=8 autoencoder with 4 latent channels, initialised to keep the mean colour of 8x8 pixels.

    Its posterior starts with std .05. With diffusers' initial std of about 1, the noise hides the picture for long.
    """
    from diffusers import AutoencoderKL

    net = AutoencoderKL(**AUTOENCODER_CONFIG)
    _zero_last_layers(net, r"conv2\.weight$|to_out")
    _init_colour_path(net)
    torch.nn.init.zeros_(net.quant_conv.weight[4:])
    torch.nn.init.constant_(net.quant_conv.bias[4:], -6.0)
    return net


def text_encoder() -> CLIPTextModel:
    """An untrained CLIP text model over the toy vocabulary; its last hidden state is ``[B, 16, 64]``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocab = WordTokenizer().get_vocab()
    start, end = vocab[WordTokenizer.START], vocab[WordTokenizer.END]
    special = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(vocab), **special, **TEXT_ENCODER_CONFIG))


def image_unet() -> UNet2DConditionModel:
    """An untrained image model: SD's UNet with two levels of 64 channels."""
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(**IMAGE_UNET_CONFIG)
    _zero_last_layers(net, r"conv2\.weight$|attentions\.\d+\.proj_out\.weight$|conv_out\.weight$")
    return net


def control_net(image: UNet2DConditionModel) -> ControlNetModel:
    """An untrained ControlNet: a copy of the image model's first half, whose outputs are zero.

    diffusers zeroes both ends of the hint's path, so that neither end gets a gradient. Here only the far end is zero.
    """
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(image, conditioning_embedding_out_channels=(16, 32, 96, 256))
    net.controlnet_cond_embedding.conv_out.reset_parameters()
    return net


def t2i_adapter() -> T2IAdapter:
    """An untrained T2I-Adapter with zero output: outlines ``[B, 1, 64, 64]`` in 0..1 to a feature for each level."""
    from diffusers import T2IAdapter

    net = T2IAdapter(**T2I_ADAPTER_CONFIG)
    _zero_last_layers(net, r"conv_in|block2")
    return net


def video_unet() -> UNet3DConditionModel:
    """An untrained video model of ModelScope's architecture."""
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(**VIDEO_UNET_CONFIG)


def inflate(image: UNet2DConditionModel) -> UNet3DConditionModel:
    """A video model whose output on each frame equals the image model's.

    The image model's tensors keep their keys in the video model. The last projection or convolution of each temporal
    layer is zero.
    """
    video = video_unet()
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    if unexpected:
        raise ValueError(f"the video model has no place for {unexpected[:3]}")
    new_names = set(missing)
    for name, tensor in video.named_parameters():
        if name in new_names and re.search(r"(temp_attentions\.\d+|transformer_in)\.proj_out\.|\.conv4\.", name):
            torch.nn.init.zeros_(tensor)
    return video


class LowRank(torch.nn.Module):
    """A frozen weight plus a trainable product of two thin matrices (LoRA, arXiv 2106.09685)."""

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        self.down = torch.nn.Parameter(torch.randn(rank, weight[0].numel()) / rank)
        self.up = torch.nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight plus its low-rank change."""
        return weight + (self.up @ self.down).view_as(weight)


def add_low_rank_changes(net: torch.nn.Module, within: str, rank: int) -> None:
    """Add trainable low-rank changes, initially zero, to the linear layers with ``within`` in their names."""
    for name, layer in list(net.named_modules()):
        if within in name and isinstance(layer, torch.nn.Linear):
            torch.nn.utils.parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def add_input_channels(image: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """The image model with more input channels. Only its first layer and low-rank changes are trainable.

    Initially its output equals the image model's, whatever the new channels contain.
    """
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(**IMAGE_UNET_CONFIG | {"in_channels": 4 + channels})
    weights = image.state_dict()
    weights["conv_in.weight"] = torch.nn.functional.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, channels))
    net.load_state_dict(weights)
    net.requires_grad_(False)
    for name, layer in list(net.named_modules()):
        if name == "conv_in":
            layer.weight.requires_grad_(True)
        elif getattr(layer, "weight", None) is not None and layer.weight.ndim > 1 and len(layer.weight) > VARIANT_RANK:
            torch.nn.utils.parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, VARIANT_RANK))
    return net


def trained_weights(net: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The trainable weights of a network: a variant's first layer, and `up` and `down` of the low-rank changes."""
    trained = {name: tensor for name, tensor in net.named_parameters() if tensor.requires_grad}
    return {name.replace(".parametrizations.weight.0", ""): tensor for name, tensor in trained.items()}


def lora(image: UNet2DConditionModel) -> UNet2DConditionModel:
    """The image model with trainable low-rank changes, initially zero, of its transformer layers."""
    net = copy.deepcopy(image).requires_grad_(False)
    add_low_rank_changes(net, "transformer_blocks", LORA_RANK)
    return net


def lora_weights(net: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The low-rank changes, with the key names of LoRA files for Stable Diffusion."""
    weights = {}
    for key, tensor in trained_weights(net).items():
        layer, kind = key.rsplit(".", 1)
        weights[f"lora_unet_{layer.replace('.', '_')}.lora_{kind}.weight"] = tensor
    return weights


def save_weights(name: str, weights: dict[str, torch.Tensor], latents: dict[str, list] | None = None) -> None:
    """Save a state dict as fp16 safetensors; ``read_latent_scaling`` reads ``latents``."""
    metadata = {"latents": json.dumps(latents)} if latents else None
    training.save_weights(WEIGHTS_FOLDER / f"{name}.safetensors", weights, metadata)

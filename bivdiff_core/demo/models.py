"""The tiny demo models, SD's architectures at toy size with a shared latent space, and a demo clip.

The settings and the keys of the weight files are those of diffusers and transformers, so ComfyUI's converters read
them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
CONTEXT_LENGTH = 16
CONTEXT_DIM = 64
HEAD_WIDTH = 16
VOCABULARY = (
    *("a", "an", "over", "in", "front", "of", "patterned"),
    *("balloon", "fish", "sailboat", "bird", "mug", "heart", "mushroom", "cat"),
    *("sky", "sea", "meadow", "dusk"),
    *("red", "blue", "green", "purple", "yellow", "cyan", "pink", "orange", "white"),
)
"""The text encoder's vocabulary, in training order."""

# Not the usual 32: with one channel per group, normalisation would remove an image's mean colours.
AUTOENCODER_GROUPS = 1

AUTOENCODER_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": AUTOENCODER_GROUPS,
    "sample_size": 64,
}
T2I_ADAPTER_CONFIG: dict[str, Any] = {
    "in_channels": 1,
    "channels": (64, 64),
    "num_res_blocks": 2,
    "downscale_factor": 8,
    "adapter_type": "full_adapter",
}
IMAGE_UNET_CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "block_out_channels": (64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": CONTEXT_DIM,
    "attention_head_dim": 64 // HEAD_WIDTH,  # in UNet2DConditionModel, the number of heads
    "use_linear_projection": True,
}
VIDEO_UNET_CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock3D",) * 2,
    "up_block_types": ("CrossAttnUpBlock3D",) * 2,
    "block_out_channels": (64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": CONTEXT_DIM,
    "attention_head_dim": HEAD_WIDTH,
}
TEXT_ENCODER_CONFIG = {
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 2 * CONTEXT_DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
    "hidden_act": "quick_gelu",
    "projection_dim": CONTEXT_DIM,
}


class WordTokenizer:
    """Tokenizes text into lower-case words of the toy world's vocabulary; other words are skipped.

    >>> WordTokenizer().decode(WordTokenizer()("A red fish")["input_ids"])
    'a red fish'
    """

    START, END = "<start>", "<end>"

    def __init__(self) -> None:
        self._ids = {word: i for i, word in enumerate((self.START, self.END, *VOCABULARY))}
        self._words = list(self._ids)

    @classmethod
    def from_pretrained(cls, path: str, **kwargs: object) -> WordTokenizer:
        """ComfyUI constructs every tokenizer this way. The vocabulary is built in, so `path` is not read."""
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        """`{"input_ids": [start, ..., end]}` of a text of any length."""
        ids = [self._ids[word] for word in _words(text) if word in self._ids]
        return {"input_ids": [self._ids[self.START], *ids, self._ids[self.END]]}

    def get_vocab(self) -> dict[str, int]:
        """Ids by word."""
        return dict(self._ids)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The words of `token_ids`, separated by spaces."""
        words = [self._words[i] for i in token_ids]
        return " ".join(word for word in words if not (skip_special_tokens and word in (self.START, self.END)))


def find_unknown_words(text: str) -> list[str]:
    """The words of a prompt that are not in the vocabulary, each once.

    >>> find_unknown_words("A red cat, walking in the street")
    ['walking', 'the', 'street']
    """
    return list(dict.fromkeys(word for word in _words(text) if word not in VOCABULARY))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def load_variant(name: str) -> dict[str, torch.Tensor]:
    """The image UNet's state dict with the changes of a variant (instruct_pix2pix or inpaint) applied."""
    weights, changes = load_weights("image_unet"), load_weights(name)
    weights["conv_in.weight"] = changes["conv_in.weight"]
    for key, up in changes.items():
        layer, kind = key.rsplit(".", 1)
        if kind == "up":
            weight = weights[f"{layer}.weight"]
            change = (up.float() @ changes[f"{layer}.down"].float()).view_as(weight)
            weights[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return weights


def read_latent_scaling(name: str = "autoencoder") -> dict[str, torch.Tensor]:
    """The latent statistics in a weight file's metadata.

    - autoencoder: mean and std `[4]`, the models work on `(latent - mean) / std`; rgb_factors `[4, 3]` and rgb_bias
      `[3]` convert that to a preview in -1..1.
    - inpaint: grey `[4]`, the latent of a fully masked image.
    """
    with safe_open(WEIGHTS_FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: torch.tensor(value) for key, value in json.loads(file.metadata()["latents"]).items()}


def load_weights(name: str) -> dict[str, torch.Tensor]:
    """State dict with diffusers' keys: autoencoder, text_encoder, image_unet, control_net, t2i_adapter or video_unet.

    The files of the variants, instruct_pix2pix and inpaint, hold changes to image_unet; see `load_variant`.
    """
    with safe_open(WEIGHTS_FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a file, not a dict


def make_demo_clip(frames: int) -> torch.Tensor:
    """A demo clip of any length, `[F, 64, 64, 3]` in 0..1. Its motion repeats back and forth."""
    one_period = load_weights("clip")["frames"]
    return one_period[torch.arange(frames) % len(one_period)] / 255

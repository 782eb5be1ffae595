"""ModelScope's own layout of its video model: a configuration.json and the three checkpoints that it names.

Fine-tunes that were never converted for diffusers (animov, potat1) come in it. The UNet's weights get the names that
diffusers' converter gives them (github.com/huggingface/diffusers, scripts/convert_ms_text_to_video_to_diffusers.py).
"""

import json
from pathlib import Path

import comfy.utils
from torch import Tensor

CONFIGURATION = "configuration.json"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""Of all models in this layout, as diffusers' scheduler_config.json says it."""

ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_blocks.0.1": "transformer_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def has_layout(folder: Path) -> bool:
    """Whether a folder is in ModelScope's layout."""
    path = folder / CONFIGURATION
    return path.is_file() and '"latent-text-to-video-synthesis"' in path.read_text(encoding="utf-8", errors="replace")


def unet_config(folder: Path) -> dict:
    """The configuration of diffusers' UNet3DConditionModel."""
    config = _model(folder)["model_cfg"]
    attends = [0.5**level in config["unet_attn_scales"] for level in range(len(config["unet_dim_mult"]))]
    return {
        "in_channels": config["unet_in_dim"],
        "out_channels": config["unet_out_dim"],
        "block_out_channels": [config["unet_dim"] * factor for factor in config["unet_dim_mult"]],
        "down_block_types": ["CrossAttnDownBlock3D" if attention else "DownBlock3D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock3D" if attention else "UpBlock3D" for attention in reversed(attends)],
        "layers_per_block": config["unet_res_blocks"],
        "cross_attention_dim": config["unet_context_dim"],
        "attention_head_dim": config["unet_head_dim"],
    }


def unet_weights(folder: Path) -> dict[str, Tensor]:
    """The UNet's state dict in diffusers' names."""
    layers = _model(folder)["model_cfg"]["unet_res_blocks"]
    weights = {diffusers_name(key, layers): tensor for key, tensor in _checkpoint(folder, "unet").items()}
    # Convolutions over one frame, which diffusers has as linear layers.
    linear = [key for key in weights if key.endswith(("proj_in.weight", "proj_out.weight"))]
    return weights | {key: weights[key].flatten(1) for key in linear}


def diffusers_name(key: str, layers: int) -> str:
    """What diffusers calls a weight of the UNet, whose blocks hold so many layers on the way down and one more up."""
    for end, name in ENDS.items():
        if key.startswith(f"{end}."):
            return key.replace(end, name, 1)
    part, number, place, rest = key.split(".", 3)
    if part == "middle_block":  # residual block, attention, attention along time, residual block
        block, layer = "mid_block", number == "3"
        place, rest = number.replace("3", "0"), f"{place}.{rest}"
    else:
        down = part == "input_blocks"
        level, layer = divmod(int(number) - down, layers + 1)
        block = f"{'down' if down else 'up'}_blocks.{level}"
    if place == "op":
        return f"{block}.downsamplers.0.conv.{rest}"
    if rest in ("conv.weight", "conv.bias"):
        return f"{block}.upsamplers.0.{rest}"
    if place != "0":
        return f"{block}.{'attentions' if place == '1' else 'temp_attentions'}.{layer:d}.{rest}"
    if rest.startswith("temopral_conv."):
        return f"{block}.temp_convs.{layer:d}.{rest.removeprefix('temopral_conv.')}"
    name, _, kind = rest.rpartition(".")
    return f"{block}.resnets.{layer:d}.{RESNET[name]}.{kind}"


def text_encoder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """Configuration and state dict, as transformers has them, of OpenCLIP's text model up to its last layer but one."""
    weights = comfy.utils.clip_text_transformers_convert(_checkpoint(folder, "clip"), "", "")
    layer = "text_model.encoder.layers."
    last = max(int(key.removeprefix(layer).split(".")[0]) for key in weights if key.startswith(layer))
    inner, width = weights[f"{layer}0.mlp.fc1.weight"].shape
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": last,
        "num_attention_heads": width // 64,
        "hidden_act": "gelu",
        "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
        "eos_token_id": 49407,
    }
    kept = {
        key: tensor
        for key, tensor in weights.items()
        if key.startswith("text_model.") and not key.startswith(f"{layer}{last}.")
    }
    return config, kept


def autoencoder_weights(folder: Path) -> dict[str, Tensor]:
    """State dict of Stable Diffusion's autoencoder, which lies in one of the whole model."""
    prefix = "first_stage_model."
    weights = _checkpoint(folder, "autoencoder")
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def _model(folder: Path) -> dict:
    return json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))["model"]


def _checkpoint(folder: Path, part: str) -> dict[str, Tensor]:
    """A checkpoint, read weights-only by the host's safe loader.

    Raises:
        FileNotFoundError: it is not where configuration.json says.
    """
    path = folder / _model(folder)["model_args"][f"ckpt_{part}"]
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {path.name}, which its {CONFIGURATION} names. Download the folder whole."
        )
    return comfy.utils.load_torch_file(str(path), safe_load=True)

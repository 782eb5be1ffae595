"""ModelScope's layout of its video model: three checkpoints, and a configuration.json that names them.

ModelScope's release uses it. So do conversions of fine-tunes (such as animov and potat1, which were published in
diffusers' layout) for programs that support no other. Without a configuration.json the published file names and sizes
are used. The UNet's weights are renamed as by diffusers' converter
(github.com/huggingface/diffusers, scripts/convert_ms_text_to_video_to_diffusers.py).
"""

import re
from pathlib import Path

import comfy.utils
from torch import Tensor

from ...grids import SD_BETAS
from .model_files import ModelPart, check_fields, read_json, read_weights, resolve_named_file

CONFIGURATION = "configuration.json"
PART_FILES = {
    "unet": ("ckpt_unet", "text2video_pytorch_model.pth"),
    "text_encoder": ("ckpt_clip", "open_clip_pytorch_model.bin"),
    "vae": ("ckpt_autoencoder", "VQGAN_autoencoder.pth"),
}
"""For each part, the field of configuration.json that names its file, and the published file name."""

REPOSITORY = "ali-vilab/modelscope-damo-text-to-video-synthesis"
SCHEDULER_CONFIG = {"beta_schedule": "scaled_linear", "beta_start": SD_BETAS[0], "beta_end": SD_BETAS[1]}
"""The schedule of all models in this layout, as a scheduler_config.json of diffusers."""

PUBLISHED_UNET_CONFIG = {
    "unet_in_dim": 4,
    "unet_dim": 320,
    "unet_context_dim": 1024,
    "unet_out_dim": 4,
    "unet_dim_mult": [1, 2, 4, 4],
    "unet_head_dim": 64,
    "unet_res_blocks": 2,
    "unet_attn_scales": [1, 0.5, 0.25],
}
"""The published configuration."""

SCHEDULE_FIELDS = {"mean_type": ("eps", None), "num_timesteps": (1000, None)}
"""Supported values of the schedule, for `model_files.check_fields`."""

AUTOENCODER_CONFIG = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
"""Stable Diffusion's autoencoder, as a configuration of diffusers."""

LAYER_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_blocks.0.1": "transformer_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET_LAYER_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def is_modelscope_folder(folder: Path) -> bool:
    """Whether a folder is in ModelScope's layout."""
    if (folder / PART_FILES["unet"][1]).is_file():
        return True
    path = folder / CONFIGURATION
    return path.is_file() and '"latent-text-to-video-synthesis"' in path.read_text(encoding="utf-8", errors="replace")


def read_modelscope_part(folder: Path, name: str) -> ModelPart:
    """Read a part and convert its configuration and weight names to those of diffusers and transformers.

    The autoencoder's weights keep the names of Stable Diffusion's checkpoints, which ComfyUI uses.

    Raises:
        FileNotFoundError: the part's file does not exist.
        ValueError: a file is damaged, or the configuration is not supported.
    """
    config_file = folder / CONFIGURATION
    model = read_json(config_file, name).get("model", {}) if config_file.is_file() else {}
    field, published = PART_FILES[name]
    file = resolve_named_file(config_file, model.get("model_args", {}).get(field, published), name)
    if not file.is_file():
        raise FileNotFoundError(
            f"{name}: found neither {file} nor a folder {name} next to it. Download {published} from {REPOSITORY} on "
            f"Hugging Face, or the folder {name} of a model in diffusers' layout."
        )
    weights = read_weights(file, name)
    if name == "unet":
        config = {**PUBLISHED_UNET_CONFIG, **model.get("model_cfg", {})}
        check_fields(name, config_file, config, SCHEDULE_FIELDS)
        return ModelPart(
            name,
            config_file,
            _convert_unet_config(config),
            file,
            _convert_unet_weights(weights, config["unet_res_blocks"]),
        )
    if name == "text_encoder":
        return ModelPart(name, file, *_convert_text_encoder(weights, file))
    weights = comfy.utils.state_dict_prefix_replace(weights, {"first_stage_model.": ""}, filter_keys=True)
    return ModelPart(name, file, AUTOENCODER_CONFIG, file, weights)


def _convert_unet_config(config: dict) -> dict:
    """Convert the configuration to that of diffusers' UNet3DConditionModel."""
    has_attention = [0.5**level in config["unet_attn_scales"] for level in range(len(config["unet_dim_mult"]))]
    return {
        "in_channels": config["unet_in_dim"],
        "out_channels": config["unet_out_dim"],
        "block_out_channels": [config["unet_dim"] * factor for factor in config["unet_dim_mult"]],
        "down_block_types": ["CrossAttnDownBlock3D" if attention else "DownBlock3D" for attention in has_attention],
        "up_block_types": ["CrossAttnUpBlock3D" if attention else "UpBlock3D" for attention in reversed(has_attention)],
        "layers_per_block": config["unet_res_blocks"],
        "cross_attention_dim": config["unet_context_dim"],
        "attention_head_dim": config["unet_head_dim"],
    }


def _convert_unet_weights(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Rename the UNet's state dict to diffusers' names."""
    weights = {to_diffusers_name(key, layers): tensor for key, tensor in weights.items()}
    # 1x1 convolutions, which are linear layers in diffusers.
    linear = [key for key in weights if key.endswith(("proj_in.weight", "proj_out.weight"))]
    return weights | {key: weights[key].flatten(1) for key in linear}


def to_diffusers_name(key: str, layers: int) -> str:
    """Convert the name of a UNet weight to diffusers' name. Unknown names are returned unchanged.

    Args:
        layers: layers per down block; up blocks have one more.
    """
    for end, name in LAYER_NAMES.items():
        if key.startswith(f"{end}."):
            return key.replace(end, name, 1)
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(\w+)\.(.+)", key)
    if not match:
        return key
    part, number, position, rest = match.groups()
    if part == "middle_block":  # residual block, spatial attention, temporal attention, residual block
        block, layer = "mid_block", number == "3"
        position, rest = "0" if number == "3" else number, f"{position}.{rest}"
    elif part == "input_blocks":  # the first is conv_in
        level, layer = divmod(int(number) - 1, layers + 1)
        block = f"down_blocks.{level}"
    else:
        level, layer = divmod(int(number), layers + 1)
        block = f"up_blocks.{level}"
    if position == "op":
        return f"{block}.downsamplers.0.conv.{rest}"
    if rest in ("conv.weight", "conv.bias"):
        return f"{block}.upsamplers.0.{rest}"
    if position != "0":
        return f"{block}.{'attentions' if position == '1' else 'temp_attentions'}.{layer:d}.{rest}"
    if rest.startswith("temopral_conv."):
        return f"{block}.temp_convs.{layer:d}.{rest.removeprefix('temopral_conv.')}"
    name, _, kind = rest.rpartition(".")
    return f"{block}.resnets.{layer:d}.{RESNET_LAYER_NAMES.get(name, name)}.{kind}"


def _convert_text_encoder(weights: dict[str, Tensor], file: Path) -> tuple[dict, Path, dict[str, Tensor]]:
    """Convert OpenCLIP's text model, without its last layer, to transformers' layout.

    Returns:
        Configuration, file and state dict.

    Raises:
        ValueError: the file contains another model.
    """
    weights = comfy.utils.clip_text_transformers_convert(weights, "", "")
    layer = "text_model.encoder.layers."
    numbers = [int(key.removeprefix(layer).split(".")[0]) for key in weights if key.startswith(layer)]
    if not numbers:
        raise ValueError(f"text_encoder: {file} does not contain an OpenCLIP text model. Download it again.")
    last = max(numbers)
    inner, width = weights[f"{layer}{last}.mlp.fc1.weight"].shape
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": last,
        "num_attention_heads": width // 64,
        "hidden_act": "gelu",
    }
    converted = {
        key: tensor
        for key, tensor in weights.items()
        if key.startswith("text_model.") and not key.startswith(f"{layer}{last}.")
    }
    return config, file, converted

"""Load a video model as saved by diffusers: a folder with a UNet3DConditionModel, its text encoder and its VAE.

ModelScope and ZeroScope are published this way. VidRD is a checkpoint in a folder of Stable Diffusion 2.1. ModelScope's
layout is supported as well. Each part is built from its configuration. ComfyUI chooses device, precision and
offloading.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.diffusers_convert
import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd2_clip
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..comfy_types import CLIP, VAE, Model
from ..confined_paths import is_confined
from . import modelscope, vidrd
from .model_builder import build_model
from .model_files import ModelPart, PlainLayers, check_fields, find_weights, read_json, read_weights
from .network_configs import to_comfy_vae_config
from .video_unet import VideoModelConfig, VideoUNet, import_unet_3d

BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}
"""ComfyUI's name of each diffusers beta schedule; its "linear" is linear in the square roots of the betas."""

PREDICTION_TYPES = {"epsilon": comfy.model_base.ModelType.EPS, "v_prediction": comfy.model_base.ModelType.V_PREDICTION}

SCHEDULER_FIELDS = {
    "beta_schedule": tuple(BETA_SCHEDULES),
    "beta_start": (),
    "beta_end": (),
    "num_train_timesteps": (1000, None),
    "trained_betas": (None,),
    "prediction_type": (*PREDICTION_TYPES, None),
}
UNET_FIELDS = {
    "_class_name": ("UNet3DConditionModel", None),
    "in_channels": (4, None),
    "out_channels": (4, None),
}
TEXT_FIELDS = {
    "hidden_size": (),
    "intermediate_size": (),
    "num_hidden_layers": (),
    "num_attention_heads": (),
    "hidden_act": tuple(comfy.clip_model.ACTIVATIONS),
    "max_position_embeddings": (77,),
}
AUTOENCODER_FIELDS = {
    "block_out_channels": (),
    "layers_per_block": (),
    "latent_channels": (4,),
    "norm_num_groups": (32, None),
    "act_fn": ("silu", None),
    "scaling_factor": (0.18215, None),
    "shift_factor": (None,),
}
"""Supported values in each configuration of diffusers or transformers, for `model_files.check_fields`."""

TEXT_DEFAULTS = {"hidden_act": "quick_gelu", "max_position_embeddings": 77}
"""Defaults of transformers, for configurations without these fields."""

_search_cache: dict[Path, tuple[dict[Path, int | None], list[str]]] = {}
"""Cache by top folder: modification times of its folders and relevant files, and the video models found."""


def list_video_folders() -> list[str]:
    """List the folders below models/diffusers that contain a supported video model, as relative paths.

    ComfyUI asks for the list with every page load and every prompt. So a top folder is searched again only if something
    in it has changed, as ComfyUI does for its lists.
    """
    found = []
    for top in map(Path, folder_paths.get_folder_paths("diffusers")):
        times, names = _search_cache.get(top, ({}, []))
        if not times or any(_modification_time(path) != time for path, time in times.items()):
            times, names = {top: _modification_time(top)}, []
            for folder in sorted(_walk_folders(top)):
                relevant = (folder, folder / "unet" / "config.json", folder / modelscope.CONFIGURATION)
                times |= {path: _modification_time(path) for path in relevant}
                if _has_video_model(folder):
                    names.append(folder.relative_to(top).as_posix())
            _search_cache[top] = times, names
        found += names
    return found


def _modification_time(path: Path) -> int | None:
    """Return the modification time of a folder or file in ns; None if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _walk_folders(top: Path) -> Iterator[Path]:
    """Yield `top` and all folders below it. Links are followed, as in ComfyUI, unless they lead to a parent folder."""
    for root, below, _ in os.walk(top, followlinks=True):
        folder = Path(root)
        above = {os.path.realpath(parent) for parent in (folder, *folder.parents)}
        below[:] = [name for name in below if os.path.realpath(folder / name) not in above]
        yield folder


def _has_video_model(folder: Path) -> bool:
    if modelscope.is_modelscope_folder(folder):
        return True
    try:
        config = read_json(folder / "unet" / "config.json", "unet")
    except OSError:
        return False
    except ValueError:  # an incomplete download: loading it reports the error
        return True
    return config.get("_class_name") == "UNet3DConditionModel" or vidrd.find_checkpoint(folder) is not None


def missing_model_message(name: str) -> str:
    """Return the message that a folder does not exist, and what to download."""
    top = folder_paths.get_folder_paths("diffusers")[0]
    return (
        f"there is no video model {name!r} in models/diffusers. Choose one from the list, which has every folder with "
        "a unet/config.json of UNet3DConditionModel or with ModelScope's text2video_pytorch_model.pth. If there is "
        "none, download cerspense/zeroscope_v2_576w or ali-vilab/text-to-video-ms-1.7b from Hugging Face: the folders "
        "scheduler, text_encoder, unet and vae, each with its .json and one weight file (.safetensors or .bin). Put "
        f"them into {Path(top, 'zeroscope_v2_576w')}, and press R."
    )


def load_video_folder(name: str) -> tuple[Model, CLIP, VAE]:
    """Load MODEL, CLIP and VAE from a folder below models/diffusers.

    Raises:
        FileNotFoundError: the folder or one of its files does not exist, or the name leads out of models/diffusers;
            the message says what to download.
        ValueError: a file is damaged, or its configuration is not supported.
    """
    tops = [Path(top, name) for top in folder_paths.get_folder_paths("diffusers")] if is_confined(name) else []
    folder = next((top for top in tops if top.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(missing_model_message(name))
    vae, clip = load_autoencoder(folder), load_text_encoder(folder)  # before the UNet, so their errors show sooner
    return load_unet(folder), clip, vae


def load_unet(folder: Path, disable_dynamic: bool = False) -> Model:
    """Load the MODEL, with the noise schedule of the folder's scheduler."""
    scheduler, part = _read_scheduler(folder), _read_part(folder, "unet")
    config_class: Any  # mypy rejects a base class that is chosen at run time
    network: Callable[..., torch.nn.Module]
    if vidrd.find_checkpoint(folder):
        config_class, network = vidrd.VidRDConfig, vidrd.VidRDUNet
        check_fields(part.name, part.config_file, part.config, vidrd.UNET_2D_FIELDS)
        unet = part.config
    else:
        config_class, network, unet = VideoModelConfig, VideoUNet, _select_unet_3d_config(part)

    class FolderModelConfig(config_class):
        latent_format = comfy.latent_formats.SD15
        sampling_settings = {
            "beta_schedule": BETA_SCHEDULES[scheduler["beta_schedule"]],
            "linear_start": scheduler["beta_start"],
            "linear_end": scheduler["beta_end"],
            "zsnr": scheduler.get("rescale_betas_zero_snr", False),
        }

        def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
            return PREDICTION_TYPES[scheduler.get("prediction_type") or "epsilon"]

    config = FolderModelConfig(unet)
    part.check(
        lambda: network(device="meta", operations=PlainLayers, **config.unet_config),
        config.process_unet_state_dict(part.weights),
    )
    return build_model(config, part.weights, load_unet, (folder,), disable_dynamic)


def _select_unet_3d_config(part: ModelPart) -> dict:
    """Select the fields that UNet3DConditionModel accepts. Others (of a newer diffusers) must be None or False."""
    accepted = inspect.signature(import_unet_3d()).parameters
    unknown = {field: (None, False) for field in part.config if field not in accepted and not field.startswith("_")}
    check_fields(part.name, part.config_file, part.config, UNET_FIELDS | unknown)
    return {field: value for field, value in part.config.items() if field in accepted}


def load_text_encoder(folder: Path, disable_dynamic: bool = False) -> CLIP:
    """Load the CLIP: Stable Diffusion 2's tokenizer and conventions with the folder's text model.

    Stable Diffusion 2 uses the penultimate layer. Saved text encoders end there, so their last layer is used.
    """
    part = _read_part(folder, "text_encoder")
    # Configurations disagree on the end token; the tokenizer's is right.
    config = TEXT_DEFAULTS | part.config | {"eos_token_id": 49407}
    check_fields(part.name, part.config_file, config, TEXT_FIELDS)

    class TextModel(comfy.sd1_clip.SDClipModel):
        def __init__(
            self,
            device: torch.device | str = "cpu",
            dtype: torch.dtype | None = None,
            model_options: dict | None = None,
        ):
            super().__init__(
                device,
                dtype=dtype,
                layer="last",
                textmodel_json_config=config,
                special_tokens={"start": 49406, "end": 49407, "pad": 0},
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class Clip(comfy.sd1_clip.SD1ClipModel):
        def __init__(
            self,
            device: torch.device | str = "cpu",
            dtype: torch.dtype | None = None,
            model_options: dict | None = None,
        ):
            super().__init__(device, dtype, model_options or {}, clip_name="h", clip_model=TextModel)

    weights = part.weights
    if not any(key.startswith("text_model.") for key in weights):  # as transformers 5 saves them
        weights = {f"text_model.{key}": tensor for key, tensor in weights.items()}
    part.check(lambda: comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", PlainLayers), weights)
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(comfy.text_encoders.sd2_clip.SD2Tokenizer, Clip),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_text_patcher, (folder,))
    return clip


def _load_text_patcher(folder: Path, disable_dynamic: bool = False) -> Model:
    return load_text_encoder(folder, disable_dynamic).patcher


def load_autoencoder(folder: Path) -> VAE:
    """Load the VAE, in the size given by the folder's configuration."""
    part = _read_part(folder, "vae")
    check_fields(part.name, part.config_file, part.config, AUTOENCODER_FIELDS)
    settings = to_comfy_vae_config(part.config)
    weights = part.weights
    if any(".mid_block." in key for key in weights):  # in diffusers' names
        weights = comfy.diffusers_convert.convert_vae_state_dict(weights)
    part.check(lambda: comfy.ldm.models.autoencoder.AutoencoderKL(**settings), weights)
    vae = comfy.sd.VAE(sd=weights, config={"params": settings})
    vae.patcher.cached_patcher_init = (_load_vae_patcher, (folder,))
    return vae


def _load_vae_patcher(folder: Path, disable_dynamic: bool = False) -> Model:
    return load_autoencoder(folder).patcher  # disable_dynamic has no effect, as in ComfyUI's load_vae_patcher


def _read_scheduler(folder: Path) -> dict:
    if not (folder / "scheduler").is_dir() and modelscope.is_modelscope_folder(folder):
        return modelscope.SCHEDULER_CONFIG
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_json(file, "scheduler")
    check_fields("scheduler", file, config, SCHEDULER_FIELDS)
    return config


def _read_part(folder: Path, name: str) -> ModelPart:
    """Read a part from its subfolder, else from ModelScope's files. VidRD's checkpoint takes precedence for weights."""
    subfolder = folder / name
    if not subfolder.is_dir() and modelscope.is_modelscope_folder(folder):
        return modelscope.read_modelscope_part(folder, name)
    config = read_json(subfolder / "config.json", name)
    checkpoint = vidrd.find_checkpoint(folder)
    if checkpoint and name in vidrd.CHECKPOINT_PARTS:
        weights = vidrd.read_checkpoint_part(checkpoint, name)
        if weights or name == "unet":  # it contains a text encoder only if that was trained as well
            return ModelPart(name, subfolder / "config.json", config, checkpoint, weights)
    file = find_weights(subfolder, name)
    return ModelPart(name, subfolder / "config.json", config, file, read_weights(file, name))

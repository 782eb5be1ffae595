"""A video model as diffusers saves it: a folder with a UNet3DConditionModel, its text encoder and its VAE.

ModelScope and ZeroScope come so; VidRD is a checkpoint in the folder of Stable Diffusion 2.1. ModelScope's own layout
is read as well. Each part is built after its own configuration; device, precision and offloading are the host's.
"""

import json
import os
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd2_clip
import comfy.utils
import folder_paths
from torch import Tensor

from . import modelscope
from .loading import load_model
from .video_unet import VideoModelConfig
from .vidrd import VidRDConfig, find_checkpoint, load_part

UNET_FILES = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors")
UNET_FILES += ("diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.bin")
TEXT_FILES = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")
"""Names that diffusers and transformers save weights under, small and safe ones first."""

SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}
"""diffusers' beta schedules by the host's names, which call the roots of betas linear."""

PREDICTIONS = {"epsilon": comfy.model_base.ModelType.EPS, "v_prediction": comfy.model_base.ModelType.V_PREDICTION}


def video_folders() -> list[str]:
    """Folders below models/diffusers with a video model that `load_video_folder` reads, relative to it."""
    found = []
    for top in map(Path, folder_paths.get_folder_paths("diffusers")):
        # Searched as text: a half-downloaded file must not keep the other nodes from loading.
        folders = {
            config.parent.parent
            for config in top.glob("**/unet/config.json")
            if find_checkpoint(config.parent.parent)
            or '"UNet3DConditionModel"' in config.read_text(encoding="utf-8", errors="replace")
        }
        configurations = top.glob(f"**/{modelscope.CONFIGURATION}")
        folders |= {config.parent for config in configurations if modelscope.has_layout(config.parent)}
        found += [folder.relative_to(top).as_posix() for folder in sorted(folders)]
    return found


def load_video_folder(name: str):
    """MODEL, CLIP and VAE of a folder below models/diffusers.

    Raises:
        FileNotFoundError: the folder lacks a part; the message names it.
    """
    tops = [Path(top, name) for top in folder_paths.get_folder_paths("diffusers")]
    folder = next((top for top in tops if top.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"there is no folder {name} in models/diffusers.")
    return load_unet(folder), load_text_encoder(folder), load_autoencoder(folder)


def load_unet(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The MODEL, on the schedule of the folder's scheduler."""
    vidrd = find_checkpoint(folder)
    if modelscope.has_layout(folder):
        scheduler, unet = modelscope.SCHEDULE, modelscope.unet_config(folder)
        weights = modelscope.unet_weights(folder)
    else:
        scheduler, unet = _config(folder / "scheduler", "scheduler_config.json"), _config(folder / "unet")
        weights = load_part(vidrd, "unet") if vidrd else _weights(folder / "unet", UNET_FILES)

    class FolderModelConfig(VidRDConfig if vidrd else VideoModelConfig):
        latent_format = comfy.latent_formats.SD15
        sampling_settings = {
            "beta_schedule": SCHEDULES[scheduler["beta_schedule"]],
            "linear_start": scheduler["beta_start"],
            "linear_end": scheduler["beta_end"],
            "zsnr": scheduler.get("rescale_betas_zero_snr", False),
        }

        def model_type(self, state_dict, prefix=""):
            return PREDICTIONS[scheduler.get("prediction_type", "epsilon")]

    config = FolderModelConfig({k: v for k, v in unet.items() if not k.startswith("_")})
    return load_model(config, weights, load_unet, (folder,), disable_dynamic)


def load_text_encoder(folder: Path, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The CLIP: Stable Diffusion 2's tokenizer and conventions around the folder's own text model.

    Saved text encoders end at the layer that Stable Diffusion 2 reads, so their last layer is its penultimate one.
    """
    if modelscope.has_layout(folder):
        config, weights = modelscope.text_encoder(folder)
    else:
        config = _config(folder / "text_encoder")
        vidrd = find_checkpoint(folder)  # it may hold a text encoder trained along
        weights = (vidrd and load_part(vidrd, "text_encoder")) or _weights(folder / "text_encoder", TEXT_FILES)

    class TextModel(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
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
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device, dtype, model_options or {}, clip_name="h", clip_model=TextModel)

    if not any(key.startswith("text_model.") for key in weights):  # as transformers 5 saves them
        weights = {f"text_model.{key}": tensor for key, tensor in weights.items()}
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(comfy.text_encoders.sd2_clip.SD2Tokenizer, Clip),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_text_patcher, (folder,))
    return clip


def _load_text_patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_text_encoder(folder, disable_dynamic).patcher


def load_autoencoder(folder: Path) -> comfy.sd.VAE:
    """The VAE, of the size that the folder says."""
    vae = comfy.sd.VAE(**_autoencoder(folder))
    vae.patcher.cached_patcher_init = (_load_vae_patcher, (folder,))
    return vae


def _load_vae_patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_autoencoder(folder).patcher  # as core's: the host takes only the network where it wants it unstreamed


def _autoencoder(folder: Path) -> dict:
    """The VAE's weights and layout, as the host's VAE takes them."""
    if modelscope.has_layout(folder):
        return {"sd": modelscope.autoencoder_weights(folder)}
    config = _config(folder / "vae")
    widths = config["block_out_channels"]
    layout = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    parameters = {"ddconfig": layout, "embed_dim": config["latent_channels"]}
    return {"sd": _weights(folder / "vae", UNET_FILES), "config": {"params": parameters}}


def _config(folder: Path, name: str = "config.json") -> dict:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError:
        raise FileNotFoundError(f"{folder} has no {name}. Download the folder whole.") from None


def _weights(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The first of the files that is there; pickles are read weights-only, by the host's safe loader."""
    path = next((folder / name for name in names if os.path.exists(folder / name)), None)
    if path is None:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(names)}.")
    return comfy.utils.load_torch_file(str(path), safe_load=True)

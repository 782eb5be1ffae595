"""Video models as diffusers saves them, at a small size, and one call of what the host loads from there."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tools.standins import tiny_models as tiny

PROMPT = "a bear walks through the woods"


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def text_model() -> CLIPTextModel:
    """Three layers, gelu: Stable Diffusion 2's text model but for its size."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=tiny.TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_act="gelu",
            vocab_size=49408,
            projection_dim=tiny.TEXT_WIDTH,
        )
    )


def autoencoder() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=4, **blocks)


def tiny_parts() -> dict:
    made = {"unet": UNet3DConditionModel(**tiny.UNET_3D), "text_encoder": text_model(), "vae": autoencoder()}
    for seed, network in enumerate(made.values()):
        tiny.randomize(network, seed)
    return made


def write_folder(folder: Path) -> None:
    """A ZeroScope but for its size."""
    for part, network in tiny_parts().items():
        network.save_pretrained(folder / part)
    DDIMScheduler(**SCHEDULE, beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")


def denoised(model, x: torch.Tensor, sigma: float, text: torch.Tensor) -> torch.Tensor:
    """One call of the host's model for a clip, `[F, C, H, W]`."""
    options = {"cond_or_uncond": [0]}
    with torch.inference_mode():
        return model.model.apply_model(
            x, torch.full((len(x),), sigma), c_crossattn=text.expand(len(x), -1, -1), transformer_options=options
        )

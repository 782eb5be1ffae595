"""Inverted LATENTs as safetensors files, in the layout of ComfyUI's .latent.

They also hold the mask, batch_index and inversion record, which ComfyUI's Load Latent ignores.
"""

import json
import os
from pathlib import Path

import comfy.utils
import torch
from safetensors import SafetensorError, safe_open

from .comfy_types import Latent
from .inverted_latents import InvertedLatent
from .latents import INVERSION_KEY

SAMPLES_KEY, VERSION_KEY, MASK_KEY, BATCH_INDEX_KEY = (
    "latent_tensor",
    "latent_format_version_0",
    "noise_mask",
    "batch_index",
)
UNVERSIONED_LATENT_SCALE = 0.18215
"""Files without a version hold Stable Diffusion's latents multiplied by this factor."""


def write_latent(inverted: InvertedLatent, path: Path, metadata: dict[str, str]) -> None:
    """Write an inverted latent atomically: samples, mask, batch_index and inversion record.

    Args:
        metadata: further entries for the file.
    """
    latent = inverted.to_latent()
    tensors = {SAMPLES_KEY: latent["samples"].contiguous(), VERSION_KEY: torch.tensor([])}
    if inverted.noise_mask is not None:
        tensors[MASK_KEY] = inverted.noise_mask.contiguous()
    if inverted.batch_index is not None:
        metadata = {**metadata, BATCH_INDEX_KEY: json.dumps([int(index) for index in inverted.batch_index])}
    if INVERSION_KEY in latent:
        metadata = {**metadata, INVERSION_KEY: json.dumps(latent[INVERSION_KEY])}
    temporary_path = path.with_name(f"{path.name}.part")
    comfy.utils.save_torch_file(tensors, str(temporary_path), metadata=metadata)
    os.replace(temporary_path, path)


def read_latent(path: Path) -> Latent:
    """Read the LATENT from a file of `write_latent` or of ComfyUI's Save Latent.

    Raises:
        ValueError: not a latent file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a latent file, or is truncated ({error}). Save it again.") from None
    if SAMPLES_KEY not in tensors:
        raise ValueError(
            f"{path.name} holds {', '.join(tensors) or 'nothing'}, expected a latent. Choose another file."
        )
    scale = 1.0 if VERSION_KEY in tensors else 1 / UNVERSIONED_LATENT_SCALE
    latent: Latent = {"samples": tensors[SAMPLES_KEY].float() * scale}
    if MASK_KEY in tensors:
        latent["noise_mask"] = tensors[MASK_KEY]
    for key in (BATCH_INDEX_KEY, INVERSION_KEY):
        if key in metadata:
            latent[key] = json.loads(metadata[key])
    return latent

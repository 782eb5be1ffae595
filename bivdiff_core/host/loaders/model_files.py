"""Read the parts of a model from files: configurations and weights. Errors name the part, the file and the remedy."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.ops
import comfy.utils
import safetensors
import torch
from torch import Tensor

from ..confined_paths import is_confined

WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
WEIGHT_VARIANTS = ("fp16", "", "bf16", "fp32", "non_ema")
"""Names of weight files of diffusers and transformers, and of their variants (before the suffix), smallest first."""

FAILED_DOWNLOADS = {
    (b"version https://git-lfs",): "is a Git LFS pointer, not the file itself. Run git lfs pull in its folder, or "
    "download it from the model's page.",
    (b"<!doctype", b"<html", b"<?xml"): "is a web page. Download the file with the button on the model's page.",
}
"""Beginnings of files that are not the wanted download, and the message for each."""

PICKLE_REMEDY = "Download it from the model's own page, as .safetensors if there is one."
"""Remedy for a pickle that holds more than weights."""

UNUSED_WEIGHT_NAMES = {"position_ids", "logit_scale", "text_projection", "loss"}
"""Parts of the names of weights that some files contain but no network uses."""


class PlainLayers(comfy.ops.disable_weight_init):
    """Layers whose weights always have a shape; with dynamic VRAM, ComfyUI's linear layers have no weights yet."""

    Linear = torch.nn.Linear
    Embedding = torch.nn.Embedding


@dataclass(frozen=True)
class ModelPart:
    """A network on disk.

    Attributes:
        name: `unet`, `text_encoder` or `vae`.
        config_file, config: the configuration.
        weights_file, weights: the state dict.
    """

    name: str
    config_file: Path
    config: dict
    weights_file: Path
    weights: dict[str, Tensor]

    def check(self, build: Callable[[], torch.nn.Module], weights: dict[str, Tensor]) -> None:
        """Check that weights match the network by name and shape.

        Args:
            build: builds the network, on torch's device `meta`.
            weights: the part's weights, renamed for that network.

        Raises:
            ValueError: the network cannot be built from the configuration, or has other weights.
        """
        try:
            with torch.device("meta"):
                expected = build().state_dict()
        except (KeyError, NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name}: {self.config_file} describes a network that cannot be built ({error}). Download it "
                "again; if that does not help, choose another model."
            ) from error
        wrong = {
            "are missing": [key for key in expected if key not in weights and not _is_unused(key)],
            "have another shape": [
                key for key in expected if key in weights and weights[key].shape != expected[key].shape
            ],
            "are not part of it": [key for key in weights if key not in expected and not _is_unused(key)],
        }
        found = [f"{len(keys)} {problem} ({keys[0]} ...)" for problem, keys in wrong.items() if keys]
        if found:
            raise ValueError(
                f"{self.name}: the weights in {self.weights_file} do not match its configuration: of {len(expected)}, "
                f"{', '.join(found)}. Download configuration and weights again, from the same model's page."
            )


def _is_unused(key: str) -> bool:
    return not UNUSED_WEIGHT_NAMES.isdisjoint(key.split("."))


def check_fields(part: str, file: Path, config: dict, allowed: dict[str, tuple]) -> None:
    """Reject unsupported values in a configuration.

    Args:
        allowed: the supported values of each field, or of each item if the field is a list; an empty tuple allows any
            value. A field may be missing if None is among its values.

    Raises:
        ValueError: a field is missing or unsupported; the message names the field, its value and the supported ones.
    """
    for field, values in allowed.items():
        value = config.get(field)
        if value is None and None not in values:
            raise ValueError(f"{part}: {file} does not have the field {field}. Download it again.")
        for item in value if isinstance(value, list) else [value]:
            if values and item not in values:
                supported = " or ".join(repr(value) for value in values if value is not None) or "null"
                raise ValueError(
                    f"{part}: {file} has {field} {item!r}, but only {supported} is supported. If the file was edited, "
                    "download it again; otherwise choose another model."
                )


def read_json(file: Path, part: str) -> dict:
    """Read a configuration, in any Unicode encoding, with or without a byte order mark.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated or not a configuration.
    """
    _check_download(file, part)
    try:
        config = json.loads(file.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{part}: {file} is truncated or not a configuration. Download it again.")
    return config


def resolve_named_file(config_file: Path, name: object, part: str) -> Path:
    """The file that a configuration names, in the configuration's folder.

    Raises:
        ValueError: the name leads out of that folder.
    """
    if not is_confined(name):
        raise ValueError(
            f"{part}: {config_file} names the file {name}, expected one in its own folder. Copy or link the file into "
            "that folder, and correct its name in the configuration."
        )
    return config_file.parent / str(name)


def find_weights(folder: Path, part: str) -> Path:
    """Find a part's weight file, or the index of its shards: safetensors before pickles, then the smallest variant.

    Raises:
        FileNotFoundError: there is none; the message lists the files in the folder.
    """
    files = sorted(file.name for file in folder.iterdir())
    ranked = sorted((rank, name) for name in files if (rank := _rank_weight_file(name)))
    if not ranked:
        raise FileNotFoundError(
            f"{part}: {folder} contains {', '.join(files)}, but no supported weight file: diffusion_pytorch_model or "
            "model with the suffix .safetensors or .bin, or shards with their .index.json. Download one from the "
            "model's page."
        )
    return folder / ranked[0][1]


def _rank_weight_file(name: str) -> tuple[bool, int, bool] | None:
    """Rank names such as model.fp16.safetensors or model.safetensors.index.fp16.json, best first; None: not weights."""
    stem, *words = name.split(".")
    variant = ".".join(word for word in words if word not in ("safetensors", "bin", "index", "json"))
    is_weight_file = stem in WEIGHT_STEMS and variant in WEIGHT_VARIANTS and {"safetensors", "bin"} & set(words)
    if not is_weight_file or ("json" in words) != ("index" in words):
        return None
    return "bin" in words, WEIGHT_VARIANTS.index(variant), "index" in words


def read_weights(file: Path, part: str, remedy: str = PICKLE_REMEDY) -> dict[str, Tensor]:
    """Read the state dict from a file, or from all files of an index. Pickles are read with ComfyUI's safe loader.

    Args:
        remedy: end of the message about a pickle that holds more than weights.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged, holds more than weights, or is an index of files outside its folder.
    """
    if file.suffix == ".json":
        weights: dict[str, Tensor] = {}
        for name in sorted(set(read_json(file, part).get("weight_map", {}).values())):
            weights |= read_weights(resolve_named_file(file, name, part), part, remedy)
        return weights
    _check_download(file, part)
    if not _is_complete(file):
        raise ValueError(
            f"{part}: {file} is truncated ({file.stat().st_size} bytes) or not a weight file. Download it again."
        )
    try:
        content = comfy.utils.load_torch_file(str(file), safe_load=True)
    except torch.serialization.pickle.UnpicklingError:  # of a weights-only load; its message advises an unsafe load
        raise ValueError(
            f"{part}: {file} contains other objects besides weights. They could run any code, so the file is not read. "
            f"{remedy}"
        ) from None
    except (EOFError, RuntimeError) as error:
        raise ValueError(f"{part}: {file} cannot be read: {error}") from error
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}


def _check_download(file: Path, part: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{part}: {file} does not exist. Download it from the model's page.")
    with file.open("rb") as stream:
        start = stream.read(64).lower()
    if not start:
        raise ValueError(f"{part}: {file} is empty. Download it again.")
    for beginnings, message in FAILED_DOWNLOADS.items():
        if start.startswith(beginnings):
            raise ValueError(f"{part}: {file} {message}")


def _is_complete(file: Path) -> bool:
    """Whether a weight file is complete. ComfyUI's readers each report a truncated file differently."""
    if file.suffix != ".safetensors":
        with file.open("rb") as stream:
            pickled = stream.read(1) == b"\x80"  # saved by PyTorch before 1.6
        return pickled or zipfile.is_zipfile(file)
    try:
        with safetensors.safe_open(file, framework="pt"):
            return True
    except safetensors.SafetensorError:
        return False

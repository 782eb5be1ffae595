"""The parts of a model as files: configurations and weights, read so that an error names part, file and remedy."""

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

WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
WEIGHT_VARIANTS = ("fp16", "", "bf16", "fp32", "non_ema")
"""What diffusers and transformers call files of weights, and the words between name and ending; small ones first."""

FAILED_DOWNLOADS = {
    (b"version https://git-lfs",): "is a Git LFS pointer and not the file itself. Run git lfs pull in its folder, or "
    "download it from the model's page.",
    (b"<!doctype", b"<html", b"<?xml"): "is a web page. Download the file with the button on the model's page.",
}
"""What such a file begins with, and what to say of it."""

PICKLE_REMEDY = "Download it from the model's own page, as .safetensors where there is one."
"""What to do about a pickle of more than weights."""

UNUSED_WEIGHT_NAMES = {"position_ids", "logit_scale", "text_projection", "loss"}
"""Words in the names of weights that some files hold and no network here has a use for."""


class PlainLayers(comfy.ops.disable_weight_init):
    """Layers that show the shapes of all their weights; under dynamic VRAM the host's linear layers have none yet."""

    Linear = torch.nn.Linear
    Embedding = torch.nn.Embedding


@dataclass(frozen=True)
class ModelPart:
    """A network on disk.

    Attributes:
        name: `unet`, `text_encoder` or `vae`.
        config_file, config: what describes the network.
        weights_file, weights: its state dict.
    """

    name: str
    config_file: Path
    config: dict
    weights_file: Path
    weights: dict[str, Tensor]

    def check(self, build: Callable[[], torch.nn.Module], weights: dict[str, Tensor]) -> None:
        """Compare weights with those of the network, by name and shape.

        Args:
            build: makes the network, on torch's device `meta`.
            weights: the part's, renamed for that network.

        Raises:
            ValueError: the configuration describes no network, or one of other weights.
        """
        try:
            with torch.device("meta"):
                expected = build().state_dict()
        except (KeyError, NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name}: {self.config_file} describes a network that cannot be built ({error}). Download it "
                "again; if that changes nothing, take another model."
            ) from error
        wrong = {
            "are missing": [key for key in expected if key not in weights and not _is_unused(key)],
            "are of another shape": [
                key for key in expected if key in weights and weights[key].shape != expected[key].shape
            ],
            "have no place in it": [key for key in weights if key not in expected and not _is_unused(key)],
        }
        found = [f"{len(keys)} {what} ({keys[0]} ...)" for what, keys in wrong.items() if keys]
        if found:
            raise ValueError(
                f"{self.name}: the weights in {self.weights_file} do not belong to its configuration: of "
                f"{len(expected)}, {', '.join(found)}. Download configuration and weights again, from one model's page."
            )


def _is_unused(key: str) -> bool:
    return not UNUSED_WEIGHT_NAMES.isdisjoint(key.split("."))


def check_fields(part: str, file: Path, config: dict, allowed: dict[str, tuple]) -> None:
    """Refuse a configuration with what is not read here.

    Args:
        allowed: the values of a field, or of a list's items, that are read; none: any. A field may be missing where
            None is among them.

    Raises:
        ValueError: names the field, what it says and what is read.
    """
    for field, values in allowed.items():
        value = config.get(field)
        if value is None and None not in values:
            raise ValueError(f"{part}: {file} does not say {field}. Download it again.")
        for item in value if isinstance(value, list) else [value]:
            if values and item not in values:
                read = " or ".join(repr(value) for value in values if value is not None) or "null"
                raise ValueError(
                    f"{part}: {file} says {field} {item!r}, and only {read} is read here. If the file was edited, "
                    "download it again; else take another model."
                )


def read_json(file: Path, part: str) -> dict:
    """A configuration, in any encoding of Unicode, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what is there is no configuration, or a part of one.
    """
    _check_download(file, part)
    try:
        config = json.loads(file.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{part}: {file} is cut short or not a configuration. Download it again.")
    return config


def find_weights(folder: Path, part: str) -> Path:
    """A part's file of weights, or the index of its shards: the smallest variant, safetensors before pickles.

    Raises:
        FileNotFoundError: names the files that are there instead.
    """
    files = sorted(file.name for file in folder.iterdir())
    ranked = sorted((rank, name) for name in files if (rank := _rank_weight_file(name)))
    if not ranked:
        raise FileNotFoundError(
            f"{part}: {folder} holds {', '.join(files)}, and no file of weights that is read here: "
            "diffusion_pytorch_model or model with the ending .safetensors or .bin, or shards with their .index.json. "
            "Download one from the model's page."
        )
    return folder / ranked[0][1]


def _rank_weight_file(name: str) -> tuple[bool, int, bool] | None:
    """The lower the better; None: no file of weights. model.fp16.safetensors, model.safetensors.index.fp16.json ..."""
    stem, *words = name.split(".")
    variant = ".".join(word for word in words if word not in ("safetensors", "bin", "index", "json"))
    known = stem in WEIGHT_STEMS and variant in WEIGHT_VARIANTS and {"safetensors", "bin"} & set(words)
    if not known or ("json" in words) != ("index" in words):
        return None
    return "bin" in words, WEIGHT_VARIANTS.index(variant), "index" in words


def read_weights(file: Path, part: str, remedy: str = PICKLE_REMEDY) -> dict[str, Tensor]:
    """The state dict in a file, or in all files that an index names; pickles go through the host's safe loader.

    Args:
        remedy: what to do about a pickle of more than weights.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: what is there is damaged, or not weights alone.
    """
    if file.suffix == ".json":
        weights: dict[str, Tensor] = {}
        for name in sorted(set(read_json(file, part).get("weight_map", {}).values())):
            weights |= read_weights(file.with_name(name), part, remedy)
        return weights
    _check_download(file, part)
    if not _is_complete(file):
        raise ValueError(
            f"{part}: {file} is cut short ({file.stat().st_size} bytes) or not a file of weights. Download it again."
        )
    try:
        content = comfy.utils.load_torch_file(str(file), safe_load=True)
    except torch.serialization.pickle.UnpicklingError:  # from a weights-only load, whose own words advise against it
        raise ValueError(
            f"{part}: {file} holds other objects beside the weights, which could run any code and are not read. "
            f"{remedy}"
        ) from None
    except (EOFError, RuntimeError) as error:
        raise ValueError(f"{part}: {file} cannot be read: {error}") from error
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}


def _check_download(file: Path, part: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{part}: there is no {file}. Download it from the model's page.")
    with file.open("rb") as stream:
        start = stream.read(64).lower()
    if not start:
        raise ValueError(f"{part}: {file} is empty. Download it again.")
    for beginnings, message in FAILED_DOWNLOADS.items():
        if start.startswith(beginnings):
            raise ValueError(f"{part}: {file} {message}")


def _is_complete(file: Path) -> bool:
    """Whether a file of weights has its end; the host has several readers, each of which words that differently."""
    if file.suffix != ".safetensors":
        with file.open("rb") as stream:
            pickled = stream.read(1) == b"\x80"  # by PyTorch before 1.6
        return pickled or zipfile.is_zipfile(file)
    try:
        with safetensors.safe_open(file, framework="pt"):
            return True
    except safetensors.SafetensorError:
        return False

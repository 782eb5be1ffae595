"""Variants of a video model's folder: each loads and equals the plain folder, or raises an error that explains it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import comfy.memory_management
import folder_paths
import pytest
import safetensors.torch
import torch
from fixtures import tiny_models as tiny
from fixtures.video_model_folders import PROMPT, denoise_once, write_zeroscope_folder
from torch import Tensor

Change = Callable[[Path], None]
"""A function that changes a copy of the plain folder."""

UNET, TEXT, VAE = "unet", "text_encoder", "vae"
STEM = {UNET: "diffusion_pytorch_model", TEXT: "model", VAE: "diffusion_pytorch_model"}
CONFIG = {part: f"{part}/config.json" for part in STEM} | {"scheduler": "scheduler/scheduler_config.json"}
WEIGHTS = {part: f"{part}/{stem}.safetensors" for part, stem in STEM.items()}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 2823000000\n"
WEB_PAGE = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>"


def write(name: str, content: bytes) -> Change:
    """Replace a file, which is a hard link to the plain folder's."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return change


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def truncate(name: str, part: float = 0.6) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        write(name, content[: int(len(content) * part)])(folder)

    return change


def set_fields(name: str, **fields) -> Change:
    """Change fields of a configuration; the value ... removes a field."""

    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text()) | fields
        config = {field: value for field, value in config.items() if value is not ...}
        write(name, json.dumps(config).encode())(folder)

    return change


def encode(name: str, encoding: str) -> Change:
    return lambda folder: write(name, (folder / name).read_text().encode(encoding))(folder)


def take_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """Read a part's weights and delete their file."""
    weights = safetensors.torch.load((folder / WEIGHTS[part]).read_bytes())
    (folder / WEIGHTS[part]).unlink()
    return weights


def save(weights: dict, file: Path, **how) -> None:
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(weights, file)
    else:
        torch.save(weights, file, **how)


def save_as(part: str, name: str, convert: Callable[[dict], object] = dict, **how) -> Change:
    """Convert a part's weights and save them in another file."""
    return lambda folder: save(convert(take_weights(folder, part)), folder / part / name, **how)


def convert(part: str, conversion: Callable[[dict], dict]) -> Change:
    return save_as(part, Path(WEIGHTS[part]).name, conversion)


def to_half(weights: dict) -> dict:
    return {key: tensor.half() for key, tensor in weights.items()}


def to_bfloat16(weights: dict) -> dict:
    return {key: tensor.bfloat16() for key, tensor in weights.items()}


def without(words: str) -> Callable[[dict], dict]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if words not in key}


def shard(part: str, index: str, pattern: str) -> Change:
    """Split a part's weights into two files with an index."""

    def change(folder: Path) -> None:
        weights = take_weights(folder, part)
        files = {key: pattern.format(1 + i % 2) for i, key in enumerate(sorted(weights))}
        for name in set(files.values()):
            save({key: weights[key] for key in files if files[key] == name}, folder / part / name)
        content = {"metadata": {"total_size": 1}, "weight_map": files}
        (folder / part / index).write_text(json.dumps(content))

    return change


def apply_all(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for step in changes:
            step(folder)

    return change


def link_to_blobs(folder: Path) -> None:
    """Replace every file by a symbolic link to a file with another name, as in Hugging Face's cache."""
    blobs = folder.with_name(f"{folder.name} blobs")
    blobs.mkdir()
    for i, file in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        file.rename(blobs / f"{i:02}")
        file.symlink_to(blobs / f"{i:02}")


def name_as_before(weights: dict) -> dict:
    """Rename attention weights as in autoencoders of diffusers before 0.18."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): weights[key] for key in weights}
    return weights


def name_as_transformers_4(weights: dict) -> dict:
    inner = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in weights.items()}
    return inner | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


SHARDED = shard(UNET, f"{STEM[UNET]}.safetensors.index.json", STEM[UNET] + "-{:05}-of-00002.safetensors")
FP16 = f"{STEM[UNET]}.fp16.safetensors"

LOADS = [
    ("fp16 alone", UNET, save_as(UNET, FP16, to_half)),
    ("bf16 alone", UNET, save_as(UNET, f"{STEM[UNET]}.bf16.safetensors", to_bfloat16)),
    ("non_ema alone", UNET, save_as(UNET, f"{STEM[UNET]}.non_ema.safetensors")),
    ("fp16 is preferred to a damaged larger file", UNET, apply_all(save_as(UNET, FP16), write(WEIGHTS[UNET], b""))),
    (".bin", UNET, save_as(UNET, f"{STEM[UNET]}.bin")),
    (".bin in fp16", UNET, save_as(UNET, f"{STEM[UNET]}.fp16.bin", to_half)),
    (".bin of PyTorch before 1.6", UNET, save_as(UNET, f"{STEM[UNET]}.bin", _use_new_zipfile_serialization=False)),
    (".bin of a training run", UNET, save_as(UNET, f"{STEM[UNET]}.bin", lambda w: {"state_dict": w, "epoch": 3})),
    ("shards", UNET, SHARDED),
    (
        "shards in fp16",
        UNET,
        shard(UNET, f"{STEM[UNET]}.safetensors.index.fp16.json", STEM[UNET] + ".fp16-{:05}-of-00002.safetensors"),
    ),
    ("shards of .bin", UNET, shard(UNET, f"{STEM[UNET]}.bin.index.json", STEM[UNET] + "-{:05}-of-00002.bin")),
    ("links to blobs", UNET, link_to_blobs),
    ("configuration with a byte order mark", UNET, encode(CONFIG[UNET], "utf-8-sig")),
    ("configuration in UTF-16", UNET, encode(CONFIG[UNET], "utf-16")),
    ("newer fields without effect", UNET, set_fields(CONFIG[UNET], attention_type=None, dropout=0.0, extras=[])),
    ("no class named", UNET, set_fields(CONFIG[UNET], _class_name=...)),
    (
        "optional fields of the scheduler left out",
        UNET,
        set_fields(CONFIG["scheduler"], prediction_type=..., trained_betas=...),
    ),
    (
        "scheduler of another class",
        UNET,
        set_fields(CONFIG["scheduler"], _class_name="PNDMScheduler", skip_prk_steps=True),
    ),
    ("text encoder as a .bin", TEXT, save_as(TEXT, "pytorch_model.bin")),
    ("text encoder in fp16", TEXT, save_as(TEXT, "model.fp16.safetensors", to_half)),
    ("text encoder in shards", TEXT, shard(TEXT, "model.safetensors.index.json", "model-{:05}-of-00002.safetensors")),
    ("text encoder of transformers 4", TEXT, convert(TEXT, name_as_transformers_4)),
    ("no end token", TEXT, set_fields(CONFIG[TEXT], eos_token_id=...)),
    ("end token 2", TEXT, set_fields(CONFIG[TEXT], eos_token_id=2)),
    ("VAE as a .bin", VAE, save_as(VAE, f"{STEM[VAE]}.bin")),
    ("VAE in fp16", VAE, save_as(VAE, f"{STEM[VAE]}.fp16.safetensors", to_half)),
    ("VAE with earlier names", VAE, convert(VAE, name_as_before)),
    ("VAE without a scaling factor", VAE, set_fields(CONFIG[VAE], scaling_factor=...)),
]

REJECTED = [
    ("no weights", UNET, remove(WEIGHTS[UNET]), "contains config.json, but no supported weight file"),
    (
        "shards without an index",
        UNET,
        apply_all(SHARDED, remove(f"{WEIGHTS[UNET]}.index.json")),
        "with their .index.json",
    ),
    (
        "a shard is missing",
        UNET,
        apply_all(SHARDED, remove(f"unet/{STEM[UNET]}-00002-of-00002.safetensors")),
        "00002-of-00002.safetensors does not exist",
    ),
    (
        "a shard is cut",
        UNET,
        apply_all(SHARDED, truncate(f"unet/{STEM[UNET]}-00001-of-00002.safetensors")),
        "00001-of-00002.safetensors is truncated",
    ),
    (
        "a shard in another folder",
        UNET,
        shard(UNET, f"{STEM[UNET]}.safetensors.index.json", "../unet/" + STEM[UNET] + "-{:05}-of-00002.safetensors"),
        "names the file ../unet/.* expected one in its own folder",
    ),
    ("index cut", UNET, apply_all(SHARDED, truncate(f"{WEIGHTS[UNET]}.index.json")), "index.json is truncated"),
    ("weights empty", UNET, write(WEIGHTS[UNET], b""), "safetensors is empty. Download it again"),
    (
        "weights a pointer",
        UNET,
        write(WEIGHTS[UNET], POINTER),
        "is a Git LFS pointer, not the file itself. Run git lfs pull",
    ),
    ("weights a web page", UNET, write(WEIGHTS[UNET], WEB_PAGE), "is a web page. Download the file with the button"),
    (
        "weights a message",
        UNET,
        write(WEIGHTS[UNET], b"Entry not found"),
        "truncated .15 bytes. or not a weight file",
    ),
    ("weights cut", UNET, truncate(WEIGHTS[UNET]), "safetensors is truncated"),
    (
        ".bin cut",
        UNET,
        apply_all(save_as(UNET, f"{STEM[UNET]}.bin"), truncate(f"unet/{STEM[UNET]}.bin")),
        ".bin is truncated",
    ),
    (
        ".bin of PyTorch before 1.6, cut",
        UNET,
        apply_all(
            save_as(UNET, f"{STEM[UNET]}.bin", _use_new_zipfile_serialization=False),
            truncate(f"unet/{STEM[UNET]}.bin", 0.9),
        ),
        ".bin cannot be read: unexpected EOF",
    ),
    (
        ".bin with a message",
        UNET,
        apply_all(remove(WEIGHTS[UNET]), write(f"unet/{STEM[UNET]}.bin", b"Entry not found")),
        "not a weight file",
    ),
    (
        ".bin with objects",
        UNET,
        save_as(UNET, f"{STEM[UNET]}.bin", lambda w: {**w, "settings": Path("code")}),
        "They could run any code, so the file is not read. Download it from the model's own page",
    ),
    (
        ".bin without weights",
        UNET,
        save_as(UNET, f"{STEM[UNET]}.bin", lambda w: {"epoch": 3, "step": 5}),
        r"do not match its configuration: of (\d+), \1 are missing",
    ),
    (
        "a .bin renamed",
        UNET,
        apply_all(save_as(UNET, "x.bin"), lambda folder: (folder / "unet/x.bin").rename(folder / WEIGHTS[UNET])),
        "not a weight file",
    ),
    ("a weight is missing", UNET, convert(UNET, without("conv_in.bias")), "1 are missing .unet.conv_in.bias"),
    (
        "another shape",
        UNET,
        convert(UNET, lambda w: w | {"conv_in.bias": torch.ones(3)}),
        "1 have another shape .unet.conv_in.bias",
    ),
    (
        "a LoRA not merged",
        UNET,
        convert(UNET, lambda w: w | {"a.lora": torch.ones(3)}),
        "1 are not part of it .unet.a",
    ),
    ("another depth", UNET, set_fields(CONFIG[UNET], layers_per_block=2), "are missing"),
    ("no configuration", UNET, remove(CONFIG[UNET]), "config.json does not exist. Download it"),
    ("configuration cut", UNET, truncate(CONFIG[UNET]), "config.json is truncated or not a configuration"),
    ("configuration empty", UNET, write(CONFIG[UNET], b""), "config.json is empty"),
    ("configuration a web page", UNET, write(CONFIG[UNET], WEB_PAGE), "config.json is a web page"),
    ("configuration a pointer", UNET, write(CONFIG[UNET], POINTER), "config.json is a Git LFS pointer"),
    ("configuration a list", UNET, write(CONFIG[UNET], b"[1, 2]"), "not a configuration"),
    ("a newer field", UNET, set_fields(CONFIG[UNET], attention_type="gated"), "has attention_type 'gated'"),
    ("an image model", UNET, set_fields(CONFIG[UNET], _class_name="UNet2DConditionModel"), "_class_name 'UNet2DCond"),
    ("nine channels", UNET, set_fields(CONFIG[UNET], in_channels=9), "has in_channels 9, but only 4"),
    ("unknown blocks", UNET, set_fields(CONFIG[UNET], down_block_types=["A", "B"]), "cannot be built"),
    ("text encoder lacks a layer", TEXT, convert(TEXT, without("layers.1.")), "16 are missing .text_model.encoder"),
    ("text encoder of fewer layers", TEXT, set_fields(CONFIG[TEXT], num_hidden_layers=2), "16 are not part of it"),
    ("text encoder of another width", TEXT, set_fields(CONFIG[TEXT], hidden_size=64), "have another shape"),
    (
        "text encoder of unknown width",
        TEXT,
        set_fields(CONFIG[TEXT], hidden_size=...),
        "does not have the field hidden_size",
    ),
    ("unknown activation", TEXT, set_fields(CONFIG[TEXT], hidden_act="relu"), "has hidden_act 'relu'"),
    (
        "longer texts",
        TEXT,
        set_fields(CONFIG[TEXT], max_position_embeddings=248),
        "max_position_embeddings 248, but only 77",
    ),
    ("no text encoder", TEXT, lambda folder: shutil.rmtree(folder / TEXT), "text_encoder/config.json does not exist"),
    ("half a decoder", VAE, convert(VAE, without("decoder.up_blocks.0")), "are missing .decoder.up.3"),
    ("VAE of 16 channels", VAE, set_fields(CONFIG[VAE], latent_channels=16), "has latent_channels 16"),
    (
        "VAE of SDXL",
        VAE,
        set_fields(CONFIG[VAE], scaling_factor=0.13025),
        "has scaling_factor 0.13025, but only 0.18215",
    ),
    ("VAE cut", VAE, truncate(WEIGHTS[VAE]), "is truncated"),
    ("no scheduler", "scheduler", remove(CONFIG["scheduler"]), "scheduler_config.json does not exist"),
    (
        "sample",
        "scheduler",
        set_fields(CONFIG["scheduler"], prediction_type="sample"),
        "prediction_type 'sample', but only",
    ),
    (
        "cosine",
        "scheduler",
        set_fields(CONFIG["scheduler"], beta_schedule="squaredcos_cap_v2"),
        "only 'scaled_linear' or",
    ),
    ("trained betas", "scheduler", set_fields(CONFIG["scheduler"], trained_betas=[0.1, 0.2]), "only null is supported"),
    (
        "500 levels",
        "scheduler",
        set_fields(CONFIG["scheduler"], num_train_timesteps=500),
        "num_train_timesteps 500, but only",
    ),
    ("a flow", "scheduler", write(CONFIG["scheduler"], b'{"shift": 3.0}'), "does not have the field beta_schedule"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A plain folder whose weights are exact in bf16 and fp16."""
    folder = tmp_path_factory.mktemp("diffusers") / "plain"
    write_zeroscope_folder(folder)
    for part in STEM:
        weights = safetensors.torch.load((folder / WEIGHTS[part]).read_bytes())
        rounded = {key: tensor.bfloat16().half().float() for key, tensor in weights.items()}
        safetensors.torch.save_file(rounded, folder / WEIGHTS[part])
    return folder


@pytest.fixture(scope="module")
def loaders(pack):
    return pack.import_module("bivdiff_core.host.loaders.video_folder")


@pytest.fixture
def variant(plain, tmp_path) -> Path:
    """A copy of the plain folder, with hard links to its files."""
    return shutil.copytree(plain, tmp_path / "odd", copy_function=os.link)


def load(loaders, part: str, folder: Path):
    load_part = {TEXT: loaders.load_text_encoder, VAE: loaders.load_autoencoder}.get(part, loaders.load_unet)
    return load_part(folder)


def part_output(loaders, part: str, folder: Path) -> Tensor:
    """A part's output for a fixed input."""
    loaded = load(loaders, part, folder)
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(1, 7, tiny.TEXT_WIDTH, generator=generator)
    with torch.inference_mode():
        if part == UNET:
            return denoise_once(loaded, x, 2.0, text)
        if part == TEXT:
            return loaded.encode_from_tokens(loaded.tokenize(PROMPT))
        return loaded.decode(x)


@pytest.fixture(scope="module")
def expected(loaders, plain) -> dict[str, Tensor]:
    return {part: part_output(loaders, part, plain) for part in STEM}


@pytest.mark.floats
@pytest.mark.parametrize(("part", "change"), [row[1:] for row in LOADS], ids=[row[0] for row in LOADS])
def test_loads_and_equals(loaders, expected, variant, part, change):
    change(variant)
    torch.testing.assert_close(part_output(loaders, part, variant), expected[part], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("part", "change", "words"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED])
def test_raises_an_error_that_explains_it(loaders, variant, part, change, words):
    change(variant)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load(loaders, part, variant)
    message = str(error.value)
    assert message.startswith(f"{part}: ") and str(variant / part) in message
    assert "weights_only" not in message  # advice in torch's error


@pytest.fixture
def models_folder(plain, tmp_path):
    """An empty models/diffusers."""
    folder = tmp_path / "models"
    folder.mkdir()
    folders = folder_paths.folder_names_and_paths["diffusers"][0]
    before = list(folders)
    folders[:] = [str(folder)]
    yield folder
    folders[:] = before


def list_models(pack) -> list[str]:
    return pack.classes["BIVDiffVideoModelLoader"].INPUT_TYPES()["required"]["name"][1]["options"]


def test_links_are_followed_and_loops_are_not(pack, plain, models_folder):
    (models_folder / "linked").symlink_to(plain, target_is_directory=True)
    (models_folder / "shelf").mkdir()
    (models_folder / "shelf" / "linked again").symlink_to(plain, target_is_directory=True)
    (models_folder / "shelf" / "back").symlink_to(models_folder, target_is_directory=True)
    (models_folder / "a").mkdir()
    (models_folder / "b").mkdir()
    (models_folder / "a" / "b").symlink_to(models_folder / "b", target_is_directory=True)
    (models_folder / "b" / "a").symlink_to(models_folder / "a", target_is_directory=True)
    assert list_models(pack) == ["linked", "shelf/linked again"]


@pytest.mark.parametrize(
    "change", [truncate(CONFIG[UNET]), write(CONFIG[UNET], WEB_PAGE), encode(CONFIG[UNET], "utf-16")]
)
def test_a_folder_with_a_damaged_configuration_is_listed(pack, plain, models_folder, change):
    """Loading it then raises an error that explains the damage."""
    folder = shutil.copytree(plain, models_folder / "odd", copy_function=os.link)
    change(folder)
    assert list_models(pack) == ["odd"]


def test_an_empty_list_names_a_model_to_download(pack, models_folder):
    (name,) = list_models(pack)
    message = pack.classes["BIVDiffVideoModelLoader"].validate_inputs(name=name)
    for word in (
        "cerspense/zeroscope_v2_576w",
        "text_encoder",
        ".safetensors",
        str(models_folder / "zeroscope_v2_576w"),
    ):
        assert word in message


def test_only_what_is_listed_is_valid(pack, plain, models_folder):
    node = pack.classes["BIVDiffVideoModelLoader"]
    (models_folder / "linked").symlink_to(plain, target_is_directory=True)
    assert node.validate_inputs(name="linked") is True
    assert "there is no video model 'zeroscope'" in node.validate_inputs(name="zeroscope")


def test_missing_weights_are_found_under_dynamic_vram(loaders, variant, monkeypatch):
    """Under Dynamic VRAM, linear layers have no weights before loading, so missing ones would go unnoticed."""
    save_as(TEXT, "pytorch_model.bin", without("layers.1.mlp.fc1.weight"))(variant)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    with pytest.raises(ValueError, match="1 are missing .text_model.encoder.layers.1.mlp.fc1.weight"):
        loaders.load_text_encoder(variant)

"""Video models in ModelScope's file layout: every part equals the network whose weights were written."""

import json
import re
import sys
import types
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.sd
import folder_paths
import pytest
import torch
from diffusers import DDIMScheduler, UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from fixtures import tiny_models as tiny
from fixtures.video_model_folders import PROMPT, SCHEDULE, denoise_once, write_zeroscope_folder
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.environment import COMFYUI_RELEASE, is_release
from tools.in_process_comfyui import COMFYUI

pytestmark = pytest.mark.floats

MODEL = {
    "unet_in_dim": 4,
    "unet_dim": 32,
    "unet_y_dim": 768,
    "unet_context_dim": 64,
    "unet_out_dim": 4,
    "unet_dim_mult": [1, 2, 2],
    "unet_num_heads": 8,
    "unet_head_dim": 16,
    "unet_res_blocks": 1,
    "unet_attn_scales": [1, 0.5],
    "temporal_attention": "True",
}
UNET = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 16,
}
"""The same configuration in diffusers' format."""
FILES = {
    "ckpt_clip": "open_clip_pytorch_model.bin",
    "ckpt_unet": "text2video_pytorch_model.pth",
    "ckpt_autoencoder": "VQGAN_autoencoder.pth",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def as_unet_sd(unet: UNet3DConditionModel) -> dict[str, Tensor]:
    """A UNet's weights with the names of ModelScope's UNetSD, whose blocks are numbered in running order."""
    named = {}

    def put(place: str, module: torch.nn.Module, names: dict[str, str] | None = None) -> None:
        for key, tensor in module.state_dict().items():
            layer, kind = key.rsplit(".", 1)
            if isinstance(module, TransformerTemporalModel) and layer in ("proj_in", "proj_out") and kind == "weight":
                tensor = tensor[..., None]  # a convolution over one frame
            named[f"{place}.{(names or {}).get(layer, layer)}.{kind}"] = tensor

    def put_layer(place: str, block: torch.nn.Module, i: int) -> None:
        put(f"{place}.0", block.resnets[i], RESNET)
        put(f"{place}.0.temopral_conv", block.temp_convs[i])
        if hasattr(block, "attentions"):
            put(f"{place}.1", block.attentions[i])
            put(f"{place}.2", block.temp_attentions[i])

    put("time_embed", unet.time_embedding, {"linear_1": "0", "linear_2": "2"})
    put("input_blocks.0", torch.nn.ModuleList([unet.conv_in]))
    put("input_blocks.0.1", unet.transformer_in)
    n = 1
    for block in unet.down_blocks:
        for i in range(len(block.resnets)):
            put_layer(f"input_blocks.{n}", block, i)
            n += 1
        if block.downsamplers:
            put(f"input_blocks.{n}", block.downsamplers[0], {"conv": "op"})
            n += 1
    put("middle_block.1", unet.mid_block.attentions[0])
    put("middle_block.2", unet.mid_block.temp_attentions[0])
    for i, place in enumerate(("middle_block.0", "middle_block.3")):
        put(place, unet.mid_block.resnets[i], RESNET)
        put(f"{place}.temopral_conv", unet.mid_block.temp_convs[i])
    n = 0
    for block in unet.up_blocks:
        for i in range(len(block.resnets)):
            put_layer(f"output_blocks.{n}", block, i)
            n += 1
        if block.upsamplers:
            put(f"output_blocks.{n - 1}.{3 if hasattr(block, 'attentions') else 1}", block.upsamplers[0])
    put("out", torch.nn.ModuleList([unet.conv_norm_out, torch.nn.SiLU(), unet.conv_out]))
    return named


def as_open_clip(text: CLIPTextModel) -> dict[str, Tensor]:
    """A text model's weights with OpenCLIP's names, and some of its image model's."""
    weights = {key.removeprefix("text_model."): tensor for key, tensor in text.state_dict().items()}
    named = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "text_projection": torch.eye(64),
        "logit_scale": torch.ones(()),
        "visual.positional_embedding": torch.ones(2, 64),
        "visual.transformer.resblocks.0.ln_1.weight": torch.ones(64),
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names |= {"attn.out_proj": "self_attn.out_proj"}
    for kind in ("weight", "bias"):
        named[f"ln_final.{kind}"] = weights[f"final_layer_norm.{kind}"]
        for i in range(text.config.num_hidden_layers):
            new, old = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            named |= {f"{new}.{name}.{kind}": weights[f"{old}.{other}.{kind}"] for name, other in names.items()}
            attention = [weights[f"{old}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            named[f"{new}.attn.in_proj_{kind}"] = torch.cat(attention)
    return named


@pytest.fixture(scope="module")
def unet() -> UNet3DConditionModel:
    return tiny.randomize(UNet3DConditionModel(**UNET), seed=21)


@pytest.fixture(scope="module")
def text() -> CLIPTextModel:
    """A text model of three layers, of which ModelScope uses two."""
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=1, hidden_act="gelu"
    )
    return tiny.randomize(CLIPTextModel(config), seed=22)


@pytest.fixture(scope="module")
def autoencoder() -> dict[str, Tensor]:
    """Weights of Stable Diffusion's VAE at full size, the only one that ComfyUI loads from a checkpoint."""
    layout = {**tiny.IMAGE_VAE, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=layout, embed_dim=4)
    return tiny.randomize(network, seed=23).half().state_dict()


@pytest.fixture(scope="module")
def folder(pack, unet, text, autoencoder, tmp_path_factory) -> Path:
    """models/diffusers/original/animov, with a link to an autoencoder in another folder."""
    top = tmp_path_factory.mktemp("diffusers")
    folder = top / "original" / "animov"
    folder.mkdir(parents=True)
    model = {"type": "latent-text-to-video-synthesis", "model_args": {**FILES, "max_frames": 16}, "model_cfg": MODEL}
    configuration = {"framework": "pytorch", "task": "text-to-video-synthesis", "model": model}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    torch.save(as_unet_sd(unet), folder / FILES["ckpt_unet"])
    torch.save(as_open_clip(text), folder / FILES["ckpt_clip"])
    whole = {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.items()}
    shared = tmp_path_factory.mktemp("shared") / FILES["ckpt_autoencoder"]
    torch.save({"state_dict": {**whole, "betas": torch.ones(2)}}, shared)
    (folder / FILES["ckpt_autoencoder"]).symlink_to(shared)
    folder_paths.add_model_folder_path("diffusers", str(top))
    yield folder
    folder_paths.folder_names_and_paths["diffusers"][0].remove(str(top))


@pytest.fixture(scope="module")
def loaded(pack, folder) -> tuple:
    return pack.run("BIVDiffVideoModelLoader", name="original/animov")


def test_every_weight_at_full_size_is_renamed(pack):
    with torch.device("meta"):
        unet = UNet3DConditionModel()
    rename = pack.import_module("bivdiff_core.host.loaders.modelscope").to_diffusers_name
    named = as_unet_sd(unet)
    renamed = {rename(key, layers=2): tensor.numel() for key, tensor in named.items()}
    assert renamed == {key: tensor.numel() for key, tensor in unet.state_dict().items()}
    assert len(renamed) == len(named)


def test_the_folder_is_listed(pack, folder):
    assert "original/animov" in pack.classes["BIVDiffVideoModelLoader"].INPUT_TYPES()["required"]["name"][1]["options"]


def test_model_equals_diffusers(loaded, unet):
    alphas = DDIMScheduler(**SCHEDULE, beta_schedule="scaled_linear").alphas_cumprod
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(5, 4, 8, 8, generator=generator) * 4, torch.randn(1, 7, 64, generator=generator)
    t = 400
    z, a = x * alphas[t].sqrt(), alphas[t]
    with torch.no_grad():
        eps = unet(z.transpose(0, 1)[None], t, context).sample[0].transpose(0, 1)
    expected = (z - (1 - a).sqrt() * eps) / a.sqrt()
    made = denoise_once(loaded[0], x, ((1 - a) / a).sqrt().item(), context)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_text_is_taken_from_the_penultimate_layer(pack, loaded, text):
    import comfy.sd1_clip

    ((made, _),) = pack.run("CLIPTextEncode", clip=loaded[1], text=PROMPT)[0]
    tokenizer = CLIPTokenizer.from_pretrained(f"{comfy.sd1_clip.__file__.rpartition('/')[0]}/sd1_tokenizer")
    ids = tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        states = text(torch.tensor([ids + [0] * (77 - len(ids))]), output_hidden_states=True).hidden_states
        inner = getattr(text, "text_model", text)
        expected = inner.final_layer_norm(states[-2])
    # ComfyUI keeps text encoders in fp16, also on the CPU.
    torch.testing.assert_close(made, expected, rtol=0, atol=5e-3)


def test_autoencoder_is_stable_diffusion_s(loaded, autoencoder):
    found = loaded[2].first_stage_model.state_dict()
    assert found.keys() == autoencoder.keys()
    # ComfyUI may choose another 16-bit dtype for the VAE.
    assert all(torch.allclose(found[key].float(), autoencoder[key].float(), rtol=0.01) for key in found)


@pytest.fixture
def checkpoints(folder, unet, text, monkeypatch, pack, tmp_path) -> Path:
    """Two checkpoints with published names and sizes, without configuration.json, as in ZeroScope's repository."""
    monkeypatch.setattr(pack.import_module("bivdiff_core.host.loaders.modelscope"), "PUBLISHED_UNET_CONFIG", MODEL)
    checkpoints = tmp_path / "zs2_576w"
    checkpoints.mkdir()
    torch.save(as_unet_sd(unet), checkpoints / FILES["ckpt_unet"])
    torch.save(as_open_clip(text), checkpoints / FILES["ckpt_clip"])
    return checkpoints


@pytest.fixture(scope="module")
def loaders(pack):
    return pack.import_module("bivdiff_core.host.loaders.video_folder")


def test_published_configuration_is_diffusers_default(pack):
    modelscope = pack.import_module("bivdiff_core.host.loaders.modelscope")
    with torch.device("meta"):
        default = UNet3DConditionModel().config
    assert (
        modelscope._convert_unet_config(modelscope.PUBLISHED_UNET_CONFIG).items()
        <= {field: list(value) if isinstance(value, tuple) else value for field, value in default.items()}.items()
    )


def test_lone_checkpoints_equal_the_folder(pack, loaders, loaded, checkpoints):
    x, context = torch.randn(3, 4, 8, 8), torch.randn(1, 7, 64)
    found, expected = (denoise_once(model, x, 2.0, context) for model in (loaders.load_unet(checkpoints), loaded[0]))
    tolerance = 0 if is_release(COMFYUI, COMFYUI_RELEASE) else 1e-4  # ComfyUI up to 0.27 is not bit-reproducible
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    clip = loaders.load_text_encoder(checkpoints)
    assert torch.equal(*(encoder.encode_from_tokens(clip.tokenize(PROMPT)) for encoder in (clip, loaded[1])))


def test_parts_in_diffusers_layout_are_preferred_to_checkpoints(pack, loaders, checkpoints, tmp_path):
    write_zeroscope_folder(tmp_path / "other")
    for part in ("text_encoder", "vae"):
        (tmp_path / "other" / part).rename(checkpoints / part)
    clip, vae = loaders.load_text_encoder(checkpoints), loaders.load_autoencoder(checkpoints)
    assert clip.encode_from_tokens(clip.tokenize(PROMPT)).shape[-1] == tiny.TEXT_WIDTH
    assert vae.first_stage_model.encoder.ch == 32


def test_the_published_autoencoder_is_a_lightning_checkpoint(loaders, checkpoints, autoencoder, monkeypatch):
    """It contains a callback's class, which ComfyUI's loader accepts and does not run."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    whole = {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.items()}
    state = {"state_dict": whole, "callbacks": {module.ModelCheckpoint: {"best": 0.5}}}
    torch.save(state, checkpoints / "VQGAN_autoencoder.pth")
    assert loaders.load_autoencoder(checkpoints).first_stage_model.state_dict().keys() == autoencoder.keys()


def configure(**model_cfg) -> dict:
    return {"model": {"type": "latent-text-to-video-synthesis", "model_args": FILES, "model_cfg": MODEL | model_cfg}}


@pytest.mark.parametrize(
    ("part", "file", "content", "words"),
    [
        ("vae", None, None, "neither .*VQGAN_autoencoder.pth nor a folder vae .* from ali-vilab/modelscope-damo-text"),
        ("text_encoder", FILES["ckpt_clip"], None, "neither .*open_clip_pytorch_model.bin nor a folder text_encoder"),
        (
            "text_encoder",
            FILES["ckpt_clip"],
            {"a": torch.ones(1)},
            "open_clip.* does not contain an OpenCLIP text model",
        ),
        ("unet", FILES["ckpt_unet"], {"conv.weight": torch.ones(1)}, "1 are not part of it .unet.conv.weight"),
        ("unet", FILES["ckpt_unet"], b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        ("unet", "configuration.json", b'{"model": {', "configuration.json is truncated or not a configuration"),
        ("unet", "configuration.json", configure(mean_type="v"), "has mean_type 'v', but only 'eps'"),
        ("unet", "configuration.json", configure(num_timesteps=500), "has num_timesteps 500, but only 1000"),
        ("unet", "configuration.json", configure(unet_res_blocks=2), "do not match its configuration"),
    ],
)
def test_damaged_checkpoints_raise_an_error(loaders, checkpoints, part, file, content, words):
    if file:
        (checkpoints / file).unlink(missing_ok=True)
    if isinstance(content, dict):
        if file.endswith(".json"):
            (checkpoints / file).write_text(json.dumps(content))
        else:
            torch.save(content, checkpoints / file)
    elif content:
        (checkpoints / file).write_bytes(content)
    load = {"unet": loaders.load_unet, "text_encoder": loaders.load_text_encoder, "vae": loaders.load_autoencoder}
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{part}: .*{words}"):
        load[part](checkpoints)


@pytest.mark.parametrize("outside", ["../{}", "sub/../../{}", "..\\{}", "absolute", "//server/share/{}", "C:\\{}"])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_configuration_cannot_name_files_outside_its_folder(loaders, checkpoints, part, outside):
    field = {"unet": "ckpt_unet", "vae": "ckpt_autoencoder"}[part]
    file = checkpoints.parent / FILES[field]
    torch.save({}, file)
    name = str(file) if outside == "absolute" else outside.format(file.name)
    configuration = {"model": {"model_args": {**FILES, field: name}, "model_cfg": MODEL}}
    (checkpoints / "configuration.json").write_text(json.dumps(configuration))
    load = {"unet": loaders.load_unet, "vae": loaders.load_autoencoder}
    with pytest.raises(
        ValueError, match=f"^{part}: .*names the file {re.escape(name)}, expected one in its own folder"
    ):
        load[part](checkpoints)

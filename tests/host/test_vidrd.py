"""VidRD, loaded from a Stable Diffusion 2.1 folder with VidRD's checkpoint, against an independent implementation."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sd
import folder_paths
import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from fixtures import tiny_models as tiny
from fixtures.video_model_folders import PROMPT, SCHEDULE, make_autoencoder, make_text_model
from fixtures.vidrd_reference import Attention, TimeConvs, VidRD
from torch import Tensor
from transformers import CLIPTextModel

pytestmark = pytest.mark.floats

SD_21 = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": tiny.TEXT_WIDTH,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
}
"""A small version of Stable Diffusion 2.1's configuration, with attention heads of 64."""
TIMESTEP = 400
SIGMA = (
    ((1 - (a := DDIMScheduler(**SCHEDULE, beta_schedule="scaled_linear").alphas_cumprod[TIMESTEP])) / a).sqrt().item()
)


@pytest.fixture(scope="module")
def unet() -> VidRD:
    return tiny.randomize(VidRD(), seed=11)


@pytest.fixture(scope="module")
def trained_text():
    return tiny.randomize(make_text_model(), seed=12)


@pytest.fixture(scope="module")
def checkpoint(unet, trained_text) -> dict[str, Tensor]:
    weights = {f"unet.{key}": tensor for key, tensor in unet.state_dict().items()}
    text = trained_text.state_dict().items()
    weights |= {f"text_encoder.text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in text}
    return {**weights, "vae.encoder.conv_in.bias": torch.ones(1), "clip.logit_scale": torch.ones(1)}


@pytest.fixture(scope="module")
def folder(pack, checkpoint, tmp_path_factory) -> Iterator[Path]:
    """models/diffusers/sd21 with other weights for UNet and text encoder, and with VidRD's checkpoint."""
    models_folder = tmp_path_factory.mktemp("diffusers")
    base = {"unet": UNet2DConditionModel(**SD_21), "text_encoder": make_text_model(), "vae": make_autoencoder()}
    for part, network in base.items():
        network.save_pretrained(models_folder / "sd21" / part)
    DDIMScheduler(**SCHEDULE, beta_schedule="scaled_linear").save_pretrained(models_folder / "sd21" / "scheduler")
    torch.save({"state_dict": checkpoint, "epoch": 3}, models_folder / "sd21" / "ModelT2V.pth")
    folder_paths.add_model_folder_path("diffusers", str(models_folder))
    yield models_folder / "sd21"
    folder_paths.folder_names_and_paths["diffusers"][0].remove(str(models_folder))


@pytest.fixture(scope="module")
def model(pack, folder):
    return load(pack)[0]


def load(pack, name: str = "sd21") -> tuple:
    return pack.run("BIVDiffVideoModelLoader", name=name)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predicted_eps(model, x: Tensor, texts: Tensor) -> Tensor:
    """A MODEL's eps for clips `[B * F, C, H, W]`, each with its text, `[B, L, D]`."""
    frames = len(x) // len(texts)
    with torch.inference_mode():
        denoised = model.model.apply_model(
            x, torch.full((len(x),), SIGMA), c_crossattn=texts.repeat_interleave(frames, dim=0),
            transformer_options={"cond_or_uncond": list(range(len(texts)))},
        )  # fmt: skip
    return (x - denoised) / SIGMA


def expected_eps(unet: VidRD, x: Tensor, texts: Tensor) -> Tensor:
    clips = x.unflatten(0, (len(texts), -1)).transpose(1, 2) / (1 + SIGMA**2) ** 0.5
    with torch.no_grad():
        return unet(clips, TIMESTEP, texts).transpose(1, 2).flatten(0, 1)


def test_a_folder_is_listed_because_of_its_checkpoint(pack, folder):
    def is_listed() -> bool:
        options = pack.classes["BIVDiffVideoModelLoader"].INPUT_TYPES()["required"]["name"][1]["options"]
        return "sd21" in options

    assert is_listed()
    renamed = (folder / "ModelT2V.pth").rename(folder / "away")
    try:
        assert not is_listed()
    finally:
        renamed.rename(folder / "ModelT2V.pth")


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_clips_equal_the_reference(model, unet, frames):
    """With cond and uncond in one batch. Height and width differ, so that swapped axes are detected."""
    x, texts = noise(2 * frames, 4, 8, 12) * 4, noise(2, 7, tiny.TEXT_WIDTH, seed=2)
    torch.testing.assert_close(predicted_eps(model, x, texts), expected_eps(unet, x, texts), rtol=1e-4, atol=1e-4)


def test_one_frame_equals_stable_diffusion(model, checkpoint):
    """diffusers' UNet2DConditionModel with VidRD's weights, without the temporal ones."""
    spatial = {k.removeprefix("unet."): v for k, v in checkpoint.items() if k.startswith("unet.") and ".temp_" not in k}
    unet = UNet2DConditionModel(**SD_21)
    unet.load_state_dict(spatial)
    x, text = noise(1, 4, 8, 8) * 4, noise(1, 7, tiny.TEXT_WIDTH, seed=2)
    with torch.no_grad():
        expected = unet(x / (1 + SIGMA**2) ** 0.5, TIMESTEP, text).sample
    torch.testing.assert_close(predicted_eps(model, x, text), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_weights_computed_in_float32(pack, checkpoint, unet):
    """Temporal layers are ComfyUI's layers too. torch's layers do not support mixed dtypes."""
    vidrd = pack.import_module("bivdiff_core.host.loaders.vidrd")
    config = vidrd.VidRDConfig(SD_21)
    config.set_inference_dtype(torch.float16, torch.float32)
    model = config.get_model({}, "", device=tiny.CPU)
    weights = {k.removeprefix("unet."): v.half() for k, v in checkpoint.items() if k.startswith("unet.")}
    model.load_model_weights(weights, "")
    x, text = noise(3, 4, 8, 8) * 4, noise(1, 7, tiny.TEXT_WIDTH, seed=2)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=tiny.CPU, offload_device=tiny.CPU)
    rounded = VidRD()
    rounded.load_state_dict({key: tensor.half().float() for key, tensor in unet.state_dict().items()})
    assert {parameter.dtype for parameter in model.diffusion_model.parameters()} == {torch.float16}
    expected = expected_eps(rounded.eval(), x, text)
    torch.testing.assert_close(predicted_eps(patcher, x, text), expected, rtol=1e-4, atol=1e-4)


def test_every_weight_of_the_released_size_is_loaded(pack):
    """Shapes only: diffusers' Stable Diffusion 2.1 base with VidRD's layers."""
    with torch.device("meta"):
        base = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
        weights = base.state_dict()
        for name, block in base.named_modules():
            temporal = {}
            if isinstance(block, ResnetBlock2D):
                temporal[name.replace(".resnets.", ".temp_convs.")] = TimeConvs(block.out_channels)
            elif isinstance(block, BasicTransformerBlock):
                temporal[f"{name}.temp_norm"] = torch.nn.LayerNorm(block.dim)
                temporal[f"{name}.temp_attn"] = Attention(block.dim, block.num_attention_heads, block.dim)
            for prefix, layer in temporal.items():
                weights |= {f"{prefix}.{key}": tensor for key, tensor in layer.state_dict().items()}
    config = pack.import_module("bivdiff_core.host.loaders.vidrd").VidRDConfig(base.config)
    config.set_inference_dtype(torch.float16, None)
    network = config.get_model({}, "", device=torch.device("meta")).diffusion_model
    converted = config.process_unet_state_dict(weights)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}
    heads = {block.n_heads * block.d_head: block.n_heads for block in network.modules() if hasattr(block, "d_head")}
    assert heads == {320: 5, 640: 10, 1280: 20}


def test_the_checkpoints_text_encoder_is_preferred(pack, folder, checkpoint, trained_text):
    without_text = {key: tensor for key, tensor in checkpoint.items() if not key.startswith("text_encoder.")}
    untrained = shutil.copytree(folder, folder.with_name("untrained"))
    safetensors.torch.save_file(without_text, untrained / "ModelT2V.safetensors")  # preferred to the .pth
    for name, network in (
        ("sd21", trained_text),
        ("untrained", CLIPTextModel.from_pretrained(folder / "text_encoder")),
    ):
        _, clip, _ = load(pack, name)
        ((text, _),) = pack.run("CLIPTextEncode", clip=clip, text=PROMPT)[0]
        ids = torch.tensor([[token for token, _ in clip.tokenize(PROMPT)["h"][0]]])
        with torch.no_grad():
            expected = network(ids).last_hidden_state
        # ComfyUI keeps text encoders in fp16, also on the CPU.
        torch.testing.assert_close(text, expected, rtol=0, atol=5e-3)


def test_a_checkpoint_with_code_is_rejected_and_can_be_converted(pack, folder, checkpoint, model):
    """The command in the error message converts it."""
    code = shutil.copytree(folder, folder.with_name("code"))
    torch.save({"state_dict": checkpoint, "hyper_parameters": Path("settings")}, code / "ModelT2V.pth")
    with pytest.raises(ValueError, match="could run any code, so the file is not read") as error:
        load(pack, "code")
    (command,) = re.findall(r'python -c "(.*)"$', str(error.value))
    subprocess.run([sys.executable, "-c", command], cwd=code, check=True)
    converted, _, _ = load(pack, "code")
    x, text = noise(2, 4, 8, 8), noise(1, 7, tiny.TEXT_WIDTH)
    assert torch.equal(predicted_eps(converted, x, text), predicted_eps(model, x, text))


def put_weights(**changed: Tensor | None):
    """A function that writes the checkpoint with changed weights; None removes a weight."""

    def change(folder: Path, checkpoint: dict[str, Tensor]) -> None:
        weights = {key: tensor for key, tensor in (checkpoint | changed).items() if tensor is not None}
        torch.save({"state_dict": weights}, folder / "ModelT2V.pth")

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put_weights(**{"unet.conv_in.bias": None}), "unet: .*ModelT2V.pth do not .* 1 are missing .input_blocks.0.0"),
        (
            put_weights(**{"unet.mid_block.resnets.0.temp_convs.0.convs.0.bias": torch.ones(3)}),
            "1 are not part of it .mid_block.resnets.0.temp_convs",
        ),
        (
            put_weights(**{"unet.down_blocks.7.temp_convs.0.convs.0.bias": torch.ones(3)}),
            "1 are not part of it .down_blocks.7.temp_convs",
        ),
        (
            put_weights(**{"text_encoder.text_model.final_layer_norm.bias": None}),
            "text_encoder: .*ModelT2V.pth do not .* 1 are missing .text_model.final_layer_norm.bias",
        ),
        (lambda folder, _: (folder / "ModelT2V.pth").write_bytes(b"PK cut"), "ModelT2V.pth is truncated .6 bytes"),
        (lambda folder, _: (folder / "unet" / "config.json").write_text("{}"), "unet: .*have the field in_channels"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_rejected(pack, folder, checkpoint, tmp_path, change, words):
    shutil.copytree(folder, tmp_path / "damaged")
    change(tmp_path / "damaged", checkpoint)
    loaders = pack.import_module("bivdiff_core.host.loaders.video_folder")
    with pytest.raises(ValueError, match=words):
        loaders.load_text_encoder(tmp_path / "damaged")
        loaders.load_unet(tmp_path / "damaged")


def test_control_nets_and_loras_of_stable_diffusion_2_apply(pack, model):
    x, prompt = noise(3, 4, 8, 8), [[noise(1, 7, tiny.TEXT_WIDTH), {}]]

    def smoothed(model, positive: list) -> Tensor:
        (video,) = pack.run(
            "BIVDiffTemporalSmoother", model=model, positive=positive, negative=prompt, latent={"samples": x},
            steps=3, cfg=1.0,
        )  # fmt: skip
        return video["samples"]

    width = SD_21["block_out_channels"][0]
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{layer}.lora_up.weight": noise(width, 4), f"{layer}.lora_down.weight": noise(4, width)}
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)

    config = {k: v for k, v in model.model.model_config.unet_config.items() if k not in ("out_channels", "dtype")}
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, dtype=torch.float32, device=tiny.CPU, operations=comfy.ops.disable_weight_init
    )
    tiny.randomize(network, 13)
    tiny.randomize(network.input_hint_block, 13, gain=2)
    hints = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    with_control, _ = pack.run(
        "ControlNetApplyAdvanced", positive=prompt, negative=prompt, image=hints, strength=1.0, start_percent=0.0,
        end_percent=1.0, control_net=comfy.controlnet.ControlNet(network, load_device=tiny.CPU),
    )  # fmt: skip

    plain = smoothed(model, prompt)
    for changed in (smoothed(with_lora, prompt), smoothed(model, with_control)):
        assert changed.isfinite().all()
        assert (changed - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-2  # in every frame


def test_text_of_another_encoder_is_rejected(pack, model):
    """For example Stable Diffusion 1.5's, whose vectors have another length."""
    prompt = [[noise(1, 7, 48), {}]]
    with pytest.raises(ValueError, match="vectors of 48 values, expected 32"):
        pack.run("BIVDiffInvertVideo", model=model, conditioning=prompt, latent=tiny.make_latent(3, 4, 8, 8), steps=2)


@pytest.mark.parametrize(("context_length", "separate"), [(0, False), (4, True)])
def test_frames_of_separate_windows_do_not_affect_each_other(pack, model, context_length, separate):
    """In one step of six frames, the last frame changes the first, but not with windows of four frames."""

    def first_frame(last: Tensor) -> Tensor:
        clip = {"samples": torch.cat([tiny.make_latent(6, 4, 8, 8)["samples"][:5], last])}
        (inverted,) = pack.run(
            "BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent=clip, steps=1, solver="ddim",
            strength=0.01, context_length=context_length, context_overlap=2,
        )  # fmt: skip
        return inverted["samples"][0]

    change = first_frame(tiny.make_latent(1, 4, 8, 8, seed=7)["samples"]) - first_frame(
        tiny.make_latent(1, 4, 8, 8, seed=8)["samples"]
    )
    assert (change.abs().max() < 1e-5) == separate

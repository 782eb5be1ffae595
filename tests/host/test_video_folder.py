"""Video models saved by diffusers: every loaded part equals diffusers and transformers."""

import os
import shutil
import sys
import types
from pathlib import Path

import folder_paths
import pytest
import torch
from diffusers import DDIMScheduler
from fixtures import tiny_models as tiny
from fixtures.video_model_folders import PROMPT, SCHEDULE, denoise_once, make_parts
from transformers import CLIPTokenizer

pytestmark = pytest.mark.floats


@pytest.fixture(scope="module")
def parts() -> dict:
    return make_parts()


@pytest.fixture(scope="module")
def folders(pack, parts, tmp_path_factory):
    """models/diffusers with the same networks in four folders.

    They are `eps`, `sub/v` (v prediction, linear betas), `zero_snr` (v prediction, zero terminal SNR) and `pickle`.
    """
    models_folder = tmp_path_factory.mktemp("diffusers")
    for name, schedule, safe in (
        ("eps", {"beta_schedule": "scaled_linear"}, True),
        ("sub/v", {"beta_schedule": "linear", "prediction_type": "v_prediction"}, True),
        (
            "zero_snr",
            {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            True,
        ),
        ("pickle", {"beta_schedule": "scaled_linear"}, False),
    ):
        for part, network in parts.items():
            network.save_pretrained(models_folder / name / part, safe_serialization=safe)
            if not safe:  # newer transformers save safetensors only
                for file in (models_folder / name / part).glob("model.safetensors"):
                    torch.save(network.state_dict(), file.with_name("pytorch_model.bin"))
                    file.unlink()
        DDIMScheduler(**SCHEDULE, **schedule).save_pretrained(models_folder / name / "scheduler")
    (models_folder / "image" / "unet").mkdir(parents=True)
    (models_folder / "image" / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    folder_paths.add_model_folder_path("diffusers", str(models_folder))
    return models_folder


def load(pack, name: str):
    return pack.run("BIVDiffVideoModelLoader", name=name)


def test_only_video_models_are_listed(pack, folders):
    schema = pack.classes["BIVDiffVideoModelLoader"].INPUT_TYPES()
    assert schema["required"]["name"][1]["options"] == ["eps", "pickle", "sub/v", "zero_snr"]


def test_the_folders_are_searched_again_only_after_a_change(pack, tmp_path, monkeypatch):
    loaders = pack.import_module("bivdiff_core.host.loaders.video_folder")
    models_folder = tmp_path / "diffusers"
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(models_folder)])
    walks = []
    walk = os.walk
    monkeypatch.setattr(loaders.os, "walk", lambda *args, **kwargs: walks.append(args) or walk(*args, **kwargs))

    def list_twice() -> tuple[list[str], int]:
        """The list, and the number of walks over the folders for two calls."""
        walks.clear()
        first = loaders.list_video_folders()
        assert loaders.list_video_folders() == first
        return first, len(walks)

    assert list_twice() == ([], 1)
    config = models_folder / "sub" / "model" / "unet" / "config.json"
    config.parent.mkdir(parents=True)
    assert list_twice() == ([], 1)
    config.write_text('{"_class_name": "UNet3DConditionModel"}')
    assert list_twice() == (["sub/model"], 1)
    assert list_twice() == (["sub/model"], 0)
    config.write_text('{"_class_name": "UNet2DConditionModel"}')
    assert list_twice() == ([], 1)
    (config.parent / "config.json").write_text('{"_class_name": "UNet3DConditionModel"}')
    shutil.move(models_folder / "sub" / "model", models_folder / "sub" / "other")
    assert list_twice() == (["sub/other"], 1)
    shutil.rmtree(models_folder)
    assert list_twice() == ([], 1)


@pytest.mark.parametrize("name", ["eps", "pickle", "sub/v", "zero_snr"])
def test_model_equals_diffusers_on_the_folders_schedule(pack, folders, parts, name):
    model, _, _ = load(pack, name)
    scheduler = DDIMScheduler.from_pretrained(folders / name / "scheduler")
    alphas = scheduler.alphas_cumprod
    sigmas = model.get_model_object("model_sampling").sigmas
    torch.testing.assert_close(1 / (1 + sigmas**2), alphas, rtol=1e-5, atol=1e-7)  # ComfyUI's zero is 4.9e-8
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(5, 4, 8, 8, generator=generator) * 4, torch.randn(1, 7, tiny.TEXT_WIDTH, generator=generator)
    t = 400
    z, a = x * alphas[t].sqrt(), alphas[t]
    with torch.no_grad():
        out = parts["unet"](z.transpose(0, 1)[None], t, text).sample[0].transpose(0, 1)
    velocity = scheduler.config.prediction_type == "v_prediction"
    expected = a.sqrt() * z - (1 - a).sqrt() * out if velocity else (z - (1 - a).sqrt() * out) / a.sqrt()
    torch.testing.assert_close(
        denoise_once(model, x, ((1 - a) / a).sqrt().item(), text), expected, rtol=1e-4, atol=1e-4
    )


def test_text_encoder_equals_transformers(pack, folders, parts):
    """The last hidden state, padded with token 0 as Stable Diffusion 2's tokenizer pads."""
    import comfy.sd1_clip

    _, clip, _ = load(pack, "eps")
    ((text, _),) = pack.run("CLIPTextEncode", clip=clip, text=PROMPT)[0]
    tokenizer = CLIPTokenizer.from_pretrained(f"{comfy.sd1_clip.__file__.rpartition('/')[0]}/sd1_tokenizer")
    ids = tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        expected = parts["text_encoder"](torch.tensor([ids + [0] * (77 - len(ids))])).last_hidden_state
    # ComfyUI keeps text encoders in fp16, also on the CPU.
    torch.testing.assert_close(text, expected, rtol=0, atol=5e-3)


def test_autoencoder_equals_diffusers(pack, folders, parts):
    _, _, vae = load(pack, "eps")
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    (latent,) = pack.run("VAEEncode", vae=vae, pixels=images)
    with torch.no_grad():
        expected = parts["vae"].encode(images.movedim(-1, 1) * 2 - 1).latent_dist.mean
        decoded = parts["vae"].decode(expected).sample.movedim(1, -1) / 2 + 0.5
    # ComfyUI may choose a 16-bit dtype for the VAE.
    torch.testing.assert_close(latent["samples"], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        pack.run("VAEDecode", vae=vae, samples=latent)[0], decoded.clamp(0, 1), atol=1e-3, rtol=0
    )


@tiny.needs_multigpu
def test_comfyui_can_deep_copy_them(pack, folders):
    model, clip, vae = load(pack, "eps")
    for patcher in (model, clip.patcher, vae.patcher):
        assert tiny.clones_have_same_weights(patcher)


def test_smoother_runs_on_the_loaded_folder(pack, folders):
    model, clip, _ = load(pack, "eps")
    (prompt,) = pack.run("CLIPTextEncode", clip=clip, text=PROMPT)
    noise = {"samples": torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))}
    (video,) = pack.run(
        "BIVDiffTemporalSmoother", model=model, positive=prompt, negative=prompt, latent=noise, steps=3, cfg=1.0
    )
    assert video["samples"].isfinite().all()


def test_a_missing_folder_is_named(pack, folders):
    with pytest.raises(FileNotFoundError, match="Diffusion Model: there is no video model 'zeroscope' in models/diff"):
        load(pack, "zeroscope")


def test_a_damaged_part_is_named(pack, folders):
    shutil.copytree(folders / "eps", folders / "damaged")
    (folders / "damaged" / "vae" / "config.json").write_text('{"_class_name": "Autoen')
    with pytest.raises(ValueError, match="^Load Video Diffusion Model: vae: .*vae/config.json is truncated"):
        load(pack, "damaged")


OUTSIDE = ["../outside", "eps/../../outside", "..\\outside", "absolute", "//server/share/model", "C:\\models\\model"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_linked_name_stays_inside_the_folder(pack, folders, monkeypatch, name):
    """Not even looked for: on Windows, looking for a UNC path logs in to its server."""
    outside = folders.parent / "outside"
    if not outside.exists():
        shutil.copytree(folders / "eps", outside)
    name = str(outside) if name == "absolute" else name
    is_dir, asked = Path.is_dir, []
    monkeypatch.setattr(Path, "is_dir", lambda path, **flags: asked.append(path) or is_dir(path, **flags))
    with pytest.raises(FileNotFoundError, match="^Load Video Diffusion Model: there is no video model"):
        load(pack, name)
    assert not [path for path in asked if path.name in ("outside", "model")]


def test_a_linked_name_may_be_a_link(pack, folders):
    elsewhere = folders.with_name("elsewhere")
    shutil.copytree(folders / "eps", elsewhere)
    (folders / "link").symlink_to(elsewhere)
    load(pack, "link")


def test_a_broken_optional_package_is_explained(pack, folders, monkeypatch):
    """diffusers (0.41) reports the error of an optional package, here FlashAttention, as a RuntimeError."""

    class BrokenDiffusers(types.ModuleType):
        def __getattr__(self, name: str):
            raise RuntimeError(f"Failed to import {name}: /lib/flash_attn.so: undefined symbol")

    monkeypatch.setitem(sys.modules, "diffusers", BrokenDiffusers("diffusers"))
    with pytest.raises(ValueError, match="^Load Video Diffusion Model: the package diffusers, .*flash_attn"):
        load(pack, "eps")

"""The demo models in ComfyUI equal diffusers and transformers with the same weights."""

import dataclasses
from typing import NamedTuple

import comfy.controlnet
import comfy.latent_formats
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from diffusers import UNet2DConditionModel
from fixtures import tiny_models as tiny

from research import demo_networks, toy_metrics, toy_world

pytestmark = pytest.mark.floats

CAPTION = "a red bird in front of a blue mug over a white sky"


@pytest.fixture(scope="module")
def models(pack):
    return pack.import_module("bivdiff_core.demo.models")


class Demo(NamedTuple):
    """The outputs of BIVDiff Demo Models."""

    image: comfy.model_patcher.ModelPatcher
    video: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    control_net: comfy.controlnet.ControlNet


@pytest.fixture(scope="module")
def demo(pack) -> Demo:
    return Demo(*pack.run("BIVDiffDemoModels", variant="base"))


@pytest.fixture(scope="module")
def context(demo):
    """The encoded caption, `[1, L, D]`."""
    with torch.inference_mode():
        return demo.clip.encode_from_tokens(demo.clip.tokenize(CAPTION))


@pytest.fixture(scope="module")
def toy_clip():
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[0])


def load_trained(models, net, name):
    net.load_state_dict(models.load_weights(name))
    return net.float().eval()


def white_noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predict_eps(patcher, x, t, context, control=None):
    """The prediction of ComfyUI's diffusion model, called directly."""
    comfy.model_management.load_models_gpu([patcher])
    return patcher.model.diffusion_model(
        x, t, context=context, control=control, transformer_options={"cond_or_uncond": [0], "patches": {}}
    )


@pytest.mark.parametrize("frames", [2, 64])
def test_the_demo_clip_is_the_packaged_one(pack, frames):
    (video,) = pack.run("BIVDiffDemoClip", frames=frames)
    images, audio, fps = pack.run("GetVideoComponents", video=video)[:3]
    assert torch.equal(images * 255, (toy_world.packaged_clip(frames).frames * 255).round())
    assert audio is None and fps == 8


@torch.inference_mode()
def test_the_text_encoder_equals_transformers(models, demo):
    encoder = load_trained(models, demo_networks.text_encoder(), "text_encoder")
    for text in (CAPTION, "", "a Yellow cat, please"):
        expected = encoder(input_ids=demo_networks.token_ids([text])).last_hidden_state
        predicted = demo.clip.encode_from_tokens(demo.clip.tokenize(text))
        torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=1e-5)


def test_unknown_words_give_a_warning(demo, caplog):
    demo.clip.tokenize("a red Cat walking in the street, walking")
    demo.clip.tokenize("(a red cat:1.2) over a yellow sea, patterned")
    (record,) = (record for record in caplog.records if record.name.endswith("node_warnings"))
    assert "do not know: walking, the, street. They know: a, an, over," in record.getMessage()


@torch.inference_mode()
def test_the_image_unet_and_the_control_net_equal_diffusers(models, demo, toy_clip, context):
    unet = load_trained(models, demo_networks.image_unet(), "image_unet")
    net = load_trained(models, demo_networks.control_net(unet), "control_net")
    context = context.expand(2, -1, -1)
    hint = toy_world.canny_hints(toy_clip.frames[:2]).movedim(-1, 1)
    for level in (1, 500, 981):
        x, t = white_noise(2, 4, 8, 8), torch.tensor([level, level])
        expected = unet(x, t, context).sample
        torch.testing.assert_close(predict_eps(demo.image, x, t.float(), context), expected, atol=1e-5, rtol=1e-5)

        down, mid = net(x, t, context, hint, return_dict=False)
        steered = unet(x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        control = demo.control_net.control_merge(
            demo.control_net.control_model(x=x, hint=hint, timesteps=t.float(), context=context), None, torch.float32
        )
        predicted = predict_eps(demo.image, x, t.float(), context, control)
        torch.testing.assert_close(predicted, steered, atol=1e-5, rtol=1e-5)
        assert (steered - expected).abs().mean() > 1e-3, "the control net has no effect"


@torch.inference_mode()
def test_the_t2i_adapter_equals_diffusers(pack, models, demo, toy_clip, context):
    unet = load_trained(models, demo_networks.image_unet(), "image_unet")
    net = load_trained(models, demo_networks.t2i_adapter(), "t2i_adapter")
    *_, adapter = pack.run("BIVDiffDemoModels", variant="t2i_adapter")
    context = context.expand(2, -1, -1)
    outlines = toy_world.canny_hints(toy_clip.frames[:2])
    hint = outlines.movedim(-1, 1)[:, :1]
    for level in (1, 500, 981):
        x, t = white_noise(2, 4, 8, 8), torch.tensor([level, level])
        expected = unet(x, t, context, down_intrablock_additional_residuals=net(hint)).sample
        control = adapter.control_merge(adapter.t2i_model(hint), None, torch.float32)
        predicted = predict_eps(demo.image, x, t.float(), context, control)
        torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=1e-5)
        assert (expected - unet(x, t, context).sample).abs().mean() > 1e-3, "the adapter has no effect"


@pytest.mark.parametrize(("variant", "channels"), [("instruct_pix2pix", 4), ("inpaint", 5)])
@torch.inference_mode()
def test_a_variant_equals_diffusers_and_uses_its_channels(pack, models, demo, variant, channels, context):
    net = UNet2DConditionModel(**demo_networks.IMAGE_UNET_CONFIG | {"in_channels": 4 + channels})
    net.load_state_dict({key: weight.float() for key, weight in models.load_variant(variant).items()})
    image, *_ = pack.run("BIVDiffDemoModels", variant=variant)
    context = context.expand(2, -1, -1)
    x, t = white_noise(2, 4 + channels, 8, 8), torch.tensor([500, 500])
    expected = net.eval()(x, t, context).sample
    torch.testing.assert_close(predict_eps(image, x, t.float(), context), expected, atol=1e-5, rtol=1e-5)
    without_image = predict_eps(image, torch.cat((x[:, :4], torch.zeros_like(x[:, 4:])), dim=1), t.float(), context)
    assert (expected - without_image).abs().mean() > 1e-2


@torch.inference_mode()
def test_the_video_unet_equals_diffusers(models, demo, context):
    unet = load_trained(models, demo_networks.video_unet(), "video_unet")
    x = white_noise(8, 4, 8, 8)
    for level in (1, 500, 981):
        expected = unet(x.movedim(0, 1)[None], torch.tensor([level]), context).sample[0].movedim(0, 1)
        predicted = predict_eps(demo.video, x, torch.full((8,), float(level)), context.expand(8, -1, -1))
        torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_vae_equals_diffusers_and_reconstructs_clips(models, demo, toy_clip):
    net = load_trained(models, demo_networks.autoencoder(), "autoencoder")
    frames = toy_clip.frames
    latent = net.encode(frames.movedim(-1, 1) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(demo.vae.encode(frames), latent, atol=2e-5, rtol=1e-5)
    decoded = (net.decode(latent).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(demo.vae.decode(latent), decoded, atol=1e-5, rtol=1e-5)
    assert -10 * (decoded - frames).square().mean().log10() > 22


@tiny.needs_multigpu
def test_comfyui_can_deep_copy_them(pack, demo):
    image, video, clip, vae, _ = demo
    editor, *_ = pack.run("BIVDiffDemoModels", variant="instruct_pix2pix")
    for patcher in (image, editor, video, clip.patcher, vae.patcher):
        assert tiny.clones_have_same_weights(patcher)


class DynamicPatcher(comfy.model_patcher.ModelPatcher):
    """A dynamic patcher, as on a GPU. Hooks and torch.compile need a clone that is not dynamic."""

    def is_dynamic(self) -> bool:
        return True


def test_dynamic_patchers_have_static_clones(pack, monkeypatch):
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", DynamicPatcher)
    image, video, clip, vae, _ = pack.run("BIVDiffDemoModels", variant="base")
    for patcher in (image, video, clip.patcher, vae.patcher):
        assert patcher.is_dynamic() and not patcher.clone(disable_dynamic=True).is_dynamic()


@torch.inference_mode()
def test_the_latents_have_a_separate_format(demo, toy_clip):
    image, video = (model.get_model_object("latent_format") for model in demo[:2])
    assert type(image) is type(video)
    assert not isinstance(image, comfy.latent_formats.SD15)
    latent = demo.vae.encode(toy_clip.frames)
    inside = image.process_in(latent)
    torch.testing.assert_close(image.process_out(inside), latent, atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_previews_show_the_right_colours(demo):
    clips = [toy_world.generate_clip(seed) for seed in toy_world.HELD_OUT_SEEDS[:32]]
    frames = torch.cat([clip.frames[:1] for clip in (*clips[::2], *map(toy_world.make_hard_clip, clips[1::2]))])
    latent_format = demo.image.get_model_object("latent_format")
    latent = latent_format.process_in(demo.vae.encode(frames))
    assert latent.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 4, abs=0.25)
    preview = latent.movedim(1, -1) @ torch.tensor(latent_format.latent_rgb_factors)
    preview += torch.tensor(latent_format.latent_rgb_factors_bias)
    colours = torch.nn.functional.avg_pool2d(frames.movedim(-1, 1) * 2 - 1, 8).movedim(1, -1)
    unexplained = (preview - colours).square().mean() / (colours - colours.mean(dim=(0, 1, 2))).square().mean()
    assert unexplained < 0.5


def test_control_images_equal_comfyuis_canny(pack, toy_clip):
    (edges,) = pack.run(
        "Canny", image=toy_clip.frames, low_threshold=toy_world.CANNY_LOW, high_threshold=toy_world.CANNY_HIGH
    )
    assert torch.equal(toy_world.canny_hints(toy_clip.frames), edges)


@pytest.mark.parametrize("variant", ["base", "t2i_adapter"])
def test_core_nodes_follow_the_control(pack, toy_clip, variant):
    """CLIPTextEncode, ControlNetApplyAdvanced, KSampler and VAEDecode generate shapes that match the outlines."""
    image, _, clip, vae, control = pack.run("BIVDiffDemoModels", variant=variant)
    (positive,) = pack.run("CLIPTextEncode", clip=clip, text=toy_clip.caption)
    (negative,) = pack.run("CLIPTextEncode", clip=clip, text="")
    positive, negative = pack.run(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=negative,
        control_net=control,
        image=toy_world.canny_hints(toy_clip.frames),
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    (latent,) = pack.run(
        "KSampler",
        model=image,
        seed=0,
        steps=12,
        cfg=3.0,
        sampler_name="euler",
        scheduler="ddim_uniform",
        positive=positive,
        negative=negative,
        latent_image={"samples": torch.zeros(8, 4, 8, 8)},
        denoise=1.0,
    )
    (frames,) = pack.run("VAEDecode", vae=vae, samples=latent)
    assert frames.shape == (8, 64, 64, 3)
    assert toy_metrics.shape_iou(frames, toy_clip) > 0.7


@pytest.mark.parametrize("which", [0, 1], ids=["image", "video"])
@torch.inference_mode()
def test_loras_patch_both_models(demo, which, context):
    keys = comfy.lora.model_lora_keys_unet(demo[which].model, {})
    layer = ["input_blocks.1.1", "unet.down_blocks.0.attentions.0"][which]
    name = f"diffusion_model.{layer}.transformer_blocks.0.attn2.to_k"
    assert keys[name] == f"{name}.weight"
    lora = {f"{name}.lora_up.weight": white_noise(64, 4), f"{name}.lora_down.weight": white_noise(4, 64, seed=1)}
    context = context.expand(8, -1, -1)
    x, t = white_noise(8, 4, 8, 8), torch.full((8,), 500.0)
    patched, _ = comfy.sd.load_lora_for_models(demo[which], None, lora, 1.0, 0.0)
    before = predict_eps(demo[which], x, t, context)
    after = predict_eps(patched, x, t, context)
    assert (after - before).abs().mean() > 1e-3
    torch.testing.assert_close(predict_eps(demo[which], x, t, context), before)


@torch.inference_mode()
def test_the_lora_equals_diffusers(models, demo, context):
    unet = load_trained(models, demo_networks.image_unet(), "image_unet")
    layers = {f"lora_unet_{name.replace('.', '_')}": layer for name, layer in unet.named_modules()}
    lora = models.load_weights(demo_networks.LORA_NAME)
    for key in lora:
        name, _, kind = key.partition(".")
        if kind == "lora_up.weight":
            layers[name].weight += lora[key].float() @ lora[f"{name}.lora_down.weight"].float()
    patched, _ = comfy.sd.load_lora_for_models(demo.image, None, lora, 1.0, 0.0)
    context = context.expand(2, -1, -1)
    x, t = white_noise(2, 4, 8, 8), torch.tensor([500, 500])
    predicted = predict_eps(patched, x, t.float(), context)
    torch.testing.assert_close(predicted, unet(x, t, context).sample, atol=1e-5, rtol=1e-5)
    assert (predicted - predict_eps(demo.image, x, t.float(), context)).abs().mean() > 1e-2


SAMPLING = {"seed": 0, "steps": 20, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}


def test_instruct_pix2pix_recolours_the_named_object(pack, demo):
    """On held-out clips the named object gets its new colour; other colours and all shapes are kept."""
    editor, *_ = pack.run("BIVDiffDemoModels", variant="instruct_pix2pix")
    (empty,) = pack.run("CLIPTextEncode", clip=demo.clip, text="")
    colours, overlaps = [], []
    for seed in toy_world.HELD_OUT_SEEDS[:8]:
        before = toy_world.generate_clip(seed)
        after = toy_world.recolour(before, seed)
        (instruction,) = pack.run("CLIPTextEncode", clip=demo.clip, text=after.caption)
        positive, negative, latent = pack.run(
            "InstructPixToPixConditioning", positive=instruction, negative=empty, vae=demo.vae, pixels=before.frames
        )
        (latent,) = pack.run(
            "KSampler", model=editor, positive=positive, negative=negative, latent_image=latent, **SAMPLING
        )
        (frames,) = pack.run("VAEDecode", vae=demo.vae, samples=latent)
        all_colours = dataclasses.replace(after, caption=after.full_caption)
        colours.append(toy_metrics.caption_accuracy(frames, all_colours))
        overlaps.append(toy_metrics.shape_iou(frames, after))
    assert sum(colours) / len(colours) > 0.8
    assert sum(overlaps) / len(overlaps) > 0.75


def test_inpaint_continues_the_surroundings(pack, demo):
    """On the background of held-out clips its error is lower than that of the base model with the same mask."""
    inpainter, *_ = pack.run("BIVDiffDemoModels", variant="inpaint")
    (empty,) = pack.run("CLIPTextEncode", clip=demo.clip, text="")
    errors = {"inpaint": [], "base": []}
    for seed in toy_world.HELD_OUT_SEEDS[:8]:
        clip = toy_world.generate_clip(seed)
        mask = torch.zeros(8, 64, 64)
        mask[:, :, :16] = mask[:, :, -16:] = 1
        inpainted_ground = (mask > 0) & toy_metrics.erode_mask(clip.ground)
        (text,) = pack.run("CLIPTextEncode", clip=demo.clip, text=clip.caption)
        filled = pack.run(
            "InpaintModelConditioning",
            positive=text, negative=empty, vae=demo.vae, pixels=clip.frames, mask=mask, noise_mask=True,
        )  # fmt: skip
        for name, model, conditioning in (("inpaint", inpainter, filled[:2]), ("base", demo.image, (text, empty))):
            (latent,) = pack.run(
                "KSampler", model=model, positive=conditioning[0], negative=conditioning[1], latent_image=filled[2],
                **SAMPLING,
            )  # fmt: skip
            (frames,) = pack.run("VAEDecode", vae=demo.vae, samples=latent)
            errors[name].append((frames - clip.frames).abs()[inpainted_ground].mean().item())
    assert sum(errors["inpaint"]) < 0.9 * sum(errors["base"])  # measured ratio: .78 (weights of November 2026)

"""Patches of other nodes on a MODEL whose run takes several model calls, or inverts."""

import comfy.ldm.lumina.controlnet
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import pytest
import torch
from fixtures import fake_packs
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import FRAME_COUNT, KSAMPLER, LATENT, make_prompts, random
from fixtures.gaussian_mixture import assert_near, rms
from fixtures.node_calls import collect_warnings, make_inputs
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.floats


def sample(pack, model, frames_per_batch: int, size: int = 8) -> Tensor:
    """Frames of Frame-wise Image Sampler, of `size` x `size` latent pixels."""
    positive, negative = make_prompts()
    inputs = {**KSAMPLER, "steps": 6, "sampler_name": "euler", "frames_per_batch": frames_per_batch}
    inputs |= {"positive": positive, "negative": negative}
    inputs["latent_image"] = {"samples": torch.zeros(FRAME_COUNT, 4, size, size)}
    return pack.run("BIVDiffFrameSampler", model=model, **inputs)[0]["samples"]


def invert(pack, model, size: int = 8, **settings) -> Tensor:
    latent = tiny.make_latent(FRAME_COUNT, 4, size, size)
    return pack.run("BIVDiffInvertImage", **make_inputs("BIVDiffInvertImage", model, latent), **settings)[0]["samples"]


# Caches of steps


def deep_cache(model):
    (cached,) = fake_packs.load("fake_packs.deepcache").DeepCache().apply(model, 2, 1, 0, 1000)
    return cached


def tea_cache(model):
    settings = {"model_type": "wan2.1_t2v_1.3B", "rel_l1_thresh": 10.0, "start_percent": 0.0, "end_percent": 1.0}
    (cached,) = fake_packs.load("fake_packs.teacache").TeaCache().apply_teacache(model, **settings, cache_device="cpu")
    return cached


def smooth(pack, model, frames: int, **settings) -> Tensor:
    """A clip of Video Temporal Smoother, from the same noise in every call."""
    z = torch.randn(1, 16, frames, 8, 8, generator=torch.Generator().manual_seed(9))
    inputs = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "latent": {"samples": z}, "steps": 6}
    inputs |= {"cfg": 3.0, "scheduler": "simple", "sampler_name": "euler", **settings}
    return pack.run("BIVDiffTemporalSmoother", model=model, **inputs)[0]["samples"]


def test_deep_cache_is_switched_off_in_chunks(pack, caplog):
    model = tiny.sd_model(stored=torch.float32)
    plain = sample(pack, model, FRAME_COUNT)
    assert rms(sample(pack, deep_cache(model), FRAME_COUNT) - plain) > 1e-2 * rms(plain)
    caplog.clear()
    assert_near(sample(pack, deep_cache(model), 2), plain, 2e-5)
    assert "DeepCache is switched off" in caplog.text


def test_tea_cache_is_switched_off_in_windows(pack, caplog):
    model = tiny.wan_model()
    plain, windows = smooth(pack, model, 7), {"context_length": 4, "context_overlap": 1}
    windowed = smooth(pack, model, 7, **windows)
    assert rms(smooth(pack, tea_cache(model), 7) - plain) > 1e-3 * rms(plain)
    caplog.clear()
    assert torch.equal(smooth(pack, tea_cache(model), 7, **windows), windowed)
    assert "TeaCache is switched off" in caplog.text


def test_tea_cache_is_switched_off_in_an_inversion(pack):
    """It would leave its state on the network, which breaks the next run."""
    model, latent = tiny.wan_model(), tiny.make_latent(1, 16, 5, 8, 8)
    inputs = make_inputs("BIVDiffInvertVideo", model, latent) | {"scheduler": "simple"}
    (plain,) = pack.run("BIVDiffInvertVideo", **inputs)
    cached = {**inputs, "model": tea_cache(model)}
    assert torch.equal(pack.run("BIVDiffInvertVideo", **cached)[0]["samples"], plain["samples"])
    assert "Switched off for the inversion: TeaCache" in collect_warnings(pack, "BIVDiffInvertVideo", **cached)
    assert smooth(pack, tea_cache(model), 7).isfinite().all()


# Patches that need all frames in one call


def style_aligned(model):
    node = fake_packs.load("fake_packs.style_aligned").StyleAlignedBatchAlign()
    return node.patch(model, share_norm="disabled", share_attn="q+k", scale=1.0)[0]


def test_style_aligned_needs_all_frames_in_one_call(pack):
    model = style_aligned(tiny.sd_model())
    assert sample(pack, model, FRAME_COUNT).isfinite().all()
    with pytest.raises(ValueError, match="StyleAligned .* Set frames_per_batch"):
        sample(pack, model, 2)


@pytest.mark.parametrize(("frames", "warned"), [(7, True), (4, False)])
def test_enhance_a_video_counts_the_frames_of_a_window(pack, caplog, frames, warned):
    node = fake_packs.load("fake_packs.kjnodes").WanVideoEnhanceAVideoKJ()
    (model,) = node.enhance(tiny.wan_model(), weight=2.0, latent={"samples": torch.zeros(1, 16, frames, 8, 8)})
    if warned:
        with pytest.raises(ValueError, match="Enhance-A-Video .* 4 frames"):
            smooth(pack, model, 7, context_length=13, context_overlap=4)
    else:
        assert smooth(pack, model, 7, context_length=13, context_overlap=4).isfinite().all()


# Patches that hold a hint for each frame


@pytest.fixture(scope="module")
def lllite_file(tmp_path_factory) -> str:
    """Weights of an LLLite for three layers of `tiny.sd_model`."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    shapes = {"conditioning1.0": (8, 3, 4, 4), "conditioning1.2": (16, 8, 2, 2), "down.0": (8, 32), "mid.0": (8, 24)}
    for layer in (
        "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
        "input_blocks_1_1_transformer_blocks_0_attn2_to_q",
    ):
        for name, shape in {**shapes, "up.0": (32, 8)}.items():
            weight = torch.randn(shape, generator=generator) / (torch.tensor(shape[1:]).prod() ** 0.5)
            weights[f"lllite_unet_{layer}.{name}.weight"] = 2 * weight
            weights[f"lllite_unet_{layer}.{name}.bias"] = torch.zeros(shape[0])
    path = tmp_path_factory.mktemp("lllite") / "tiny.safetensors"
    save_file(weights, path)
    return str(path)


def add_lllite(model, file: str, flip: bool = False, steps: int = 0):
    hints = random(FRAME_COUNT, 64, 64, 3, seed=1)
    patch = fake_packs.load("fake_packs.lllite").load_control_net_lllite_patch(
        file, hints.flip(0) if flip else hints, 1.0, steps, 0.0, 50.0 if steps else 0.0
    )
    for module in patch.modules.values():
        module.double()
    model = model.clone()
    model.set_model_attn1_patch(patch)
    model.set_model_attn2_patch(patch)
    return model


@pytest.mark.parametrize("steps", [0, 6])
@pytest.mark.parametrize("frames_per_batch", [1, 2, 3])
def test_lllite_hints_follow_their_frames(pack, lllite_file, frames_per_batch, steps):
    """With `steps` the pack counts its calls, and stops after half of them."""
    model = tiny.sd_model()
    whole, flipped = (sample(pack, add_lllite(model, lllite_file, flip, steps), FRAME_COUNT) for flip in (False, True))
    assert rms(flipped - whole) > 5e-3 * rms(whole)
    patched = add_lllite(model, lllite_file, steps=steps)
    for _ in range(2):
        assert_near(sample(pack, patched, frames_per_batch), whole, 1e-6)
    assert_near(sample(pack, patched, FRAME_COUNT), whole, 1e-6)


def test_a_hint_for_other_frames_is_rejected(pack, lllite_file):
    model = add_lllite(tiny.sd_model(), lllite_file)
    latent = tiny.make_latent(FRAME_COUNT - 1, 4, 8, 8)
    with pytest.raises(ValueError, match="the hint of LLLite has 5 frames but the latent has 4"):
        pack.run("BIVDiffInvertImage", **make_inputs("BIVDiffInvertImage", model, latent))


Z_IMAGE = {
    "image_model": "lumina2", "in_channels": 16, "dim": 256, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 8,
    "n_kv_heads": 8, "multiple_of": 16, "ffn_dim_multiplier": 0.5, "qk_norm": True, "cap_feat_dim": tiny.TEXT_WIDTH,
    "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64], "rope_theta": 256.0, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
"""Z-Image at a small size, with all layers, because its ControlNet counts them."""


def test_hints_of_a_z_image_control_net_follow_their_frames(pack):
    """At cfg 1, because ComfyUI's patch has no hints for a negative prompt in the same call."""
    config = comfy.supported_models.ZImage(Z_IMAGE)
    config.set_inference_dtype(torch.float32, None)
    network = tiny.randomize(config.get_model({}, "", device=tiny.CPU), seed=4)
    model = comfy.model_patcher.ModelPatcher(network, tiny.CPU, tiny.CPU)
    control = comfy.ldm.lumina.controlnet.ZImage_Control(
        dim=256, n_heads=8, n_kv_heads=8, multiple_of=16, ffn_dim_multiplier=0.5, qk_norm=True, n_control_layers=6,
        control_in_dim=4, device=tiny.CPU, dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    patch = comfy.model_patcher.ModelPatcher(tiny.randomize(control, seed=5), tiny.CPU, tiny.CPU)
    text = {"positive": tiny.text(), "negative": tiny.text(), "latent_image": {"samples": torch.zeros(5, 16, 8, 8)}}
    inputs = {**text, "seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}

    def sample_with(hints: Tensor, frames_per_batch: int) -> Tensor:
        controlled = add_patch(
            pack, "ZImageFunControlnet", {"model_patch": patch, "vae": vae, "image": hints, "strength": 1.0}, model
        )
        return pack.run("BIVDiffFrameSampler", model=controlled, frames_per_batch=frames_per_batch, **inputs)[0][
            "samples"
        ]

    vae, hints = tiny.image_vae(), random(FRAME_COUNT, 64, 64, 3, seed=1)
    whole = sample_with(hints, FRAME_COUNT)
    assert rms(sample_with(hints.flip(0), FRAME_COUNT) - whole) > 1e-3 * rms(whole)
    for frames_per_batch in (1, 2):
        assert_near(sample_with(hints, frames_per_batch), whole, 2e-5)


# Patches that draw from the global generator

RANDOM_PATCHES = {
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 32, "swap_size": 4, "max_depth": 0, "scale_depth": False},
}


def add_patch(pack, name: str, settings: dict, model=None):
    return pack.run(name, model=model or tiny.sd_model(), **settings)[0]


@pytest.mark.parametrize("name", RANDOM_PATCHES)
@pytest.mark.parametrize("frames_per_batch", [1, 3])
def test_random_patches_do_not_depend_on_the_chunks(pack, name, frames_per_batch):
    """Every call of a step draws the same numbers, as one call for all frames does."""
    model, size = add_patch(pack, name, RANDOM_PATCHES[name]), 16  # HyperTile has one choice only in smaller frames
    whole = sample(pack, model, FRAME_COUNT, size)
    assert rms(whole - sample(pack, tiny.sd_model(), FRAME_COUNT, size)) > 1e-3 * rms(whole)
    assert_near(sample(pack, model, frames_per_batch, size), whole, 1e-6)
    inverted = invert(pack, model, size, frames_per_batch=FRAME_COUNT)
    assert_near(invert(pack, model, size, frames_per_batch=frames_per_batch), inverted, 1e-6)


def test_random_patches_draw_anew_in_every_step(pack):
    """Otherwise the same tokens would be merged in all steps."""
    drawn = []

    def record(apply_model, args):
        drawn.append(torch.randint(2**31, (1,)).item())
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = tiny.sd_model()
    model.set_model_unet_function_wrapper(record)
    sample(pack, model, 2)
    assert len(drawn) == 6 * 3
    by_step = [set(drawn[i : i + 3]) for i in range(0, len(drawn), 3)]
    assert all(len(step) == 1 for step in by_step) and len(set.union(*by_step)) == 6


# Unknown patches


def unknown_wrapper(apply_model, args):
    return apply_model(args["input"], args["timestep"], **args["c"])


def unknown_replacement(q, k, v, options):
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, options["n_heads"])


def unknown_attention_patch(q, k, v, options):
    return q, k, v


def unknown_network_wrapper(executor, *args, **kwargs):
    return executor(*args, **kwargs)


def add_function_wrapper(model):
    model.set_model_unet_function_wrapper(unknown_wrapper)


def add_replacement(model):
    model.set_model_attn2_replace(unknown_replacement, "input", 1)


def add_attention_patch(model):
    model.set_model_attn1_patch(unknown_attention_patch)


def add_network_wrapper(model):
    model.add_wrapper_with_key("diffusion_model", "some pack", unknown_network_wrapper)


def add_object_patch(model):
    network = model.model.diffusion_model

    def unknown_forward(x):
        return type(network.time_embed).forward(network.time_embed, x)

    model.add_object_patch("diffusion_model.time_embed.forward", unknown_forward)


UNKNOWN = {
    "unknown_wrapper": add_function_wrapper,
    "unknown_replacement": add_replacement,
    "unknown_attention_patch": add_attention_patch,
    "unknown_network_wrapper": add_network_wrapper,
    "add_object_patch": add_object_patch,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_patch_raises_a_warning_if_frames_take_several_calls(pack, caplog, name):
    model = tiny.sd_model()
    UNKNOWN[name](model)
    sample(pack, model, FRAME_COUNT)
    assert name not in caplog.text
    sample(pack, model, 2)
    assert f"Patches of other nodes that this pack does not know: {name}" in caplog.text


def test_patches_known_not_to_depend_on_the_calls_raise_no_warning(pack, caplog, lllite_file):
    model = tiny.sd_model()
    attention = fake_packs.load("fake_packs.ip_adapter").Attn2Replace(
        lambda out, *_, **__: 0 * out, sigma_start=1e9, sigma_end=0.0
    )
    model.set_model_attn2_replace(attention, "input", 1)
    model = add_patch(pack, "FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}, model)
    sample(pack, add_lllite(model, lllite_file), 2)
    assert not [record for record in caplog.records if record.name.endswith("node_warnings")]


# Inversion

STAYS = {
    "FreeU": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "HyperTile": RANDOM_PATCHES["HyperTile"],
    "PatchModelAddDownscale": {
        "block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.5,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_patches_that_stay_in_an_inversion_are_named(pack, name):
    model = add_patch(pack, name, STAYS[name])
    inputs = make_inputs("BIVDiffInvertImage", model, tiny.make_latent(*LATENT))
    warning = collect_warnings(pack, "BIVDiffInvertImage", **inputs)
    assert f"The inversion uses the model with its patches: {name}." in warning
    (plain,) = pack.run("BIVDiffInvertImage", **{**inputs, "model": tiny.sd_model()})
    assert rms(invert(pack, model) - plain["samples"]) > 1e-3 * rms(plain["samples"])


def test_an_unpatched_model_inverts_without_a_warning(pack):
    inputs = make_inputs("BIVDiffInvertImage", tiny.sd_model(), tiny.make_latent(*LATENT))
    assert collect_warnings(pack, "BIVDiffInvertImage", **inputs) == ""


def test_attention_guidance_is_switched_off_in_an_inversion(pack):
    model, latent = tiny.wan_model(), tiny.make_latent(1, 16, 5, 8, 8)
    inputs = make_inputs("BIVDiffInvertVideo", model, latent) | {"scheduler": "simple"}
    node = fake_packs.load("fake_packs.kjnodes").WanVideoNAG()
    (guided,) = node.patch(model, tiny.text(seed=3), nag_scale=11.0, nag_alpha=0.25, nag_tau=2.5)
    assert rms(smooth(pack, guided, 5) - smooth(pack, model, 5)) > 0
    (plain,) = pack.run("BIVDiffInvertVideo", **inputs)
    (out,) = pack.run("BIVDiffInvertVideo", **{**inputs, "model": guided})
    assert torch.equal(out["samples"], plain["samples"])
    warning = collect_warnings(pack, "BIVDiffInvertVideo", **{**inputs, "model": guided})
    assert "Switched off for the inversion: WanVideoNAG" in warning
    assert guided.object_patches, "the input MODEL was changed"


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo"])
def test_cores_attention_guidance_is_switched_off_in_an_inversion(pack, node_id):
    model = tiny.as_video_model(tiny.sd_model())
    model = tiny.sd_model() if node_id == "BIVDiffInvertImage" else model
    guided = add_patch(pack, "NAGuidance", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}, model)
    warning = collect_warnings(pack, node_id, **make_inputs(node_id, guided, tiny.make_latent(*LATENT)))
    assert "Switched off for the inversion: NAGuidance" in warning

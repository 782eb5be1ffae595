"""In an inversion, keyframes and prompt ranges apply at their noise levels, and guidance is switched off."""

from functools import partial

import comfy.hooks
import comfy.supported_models
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import add_keyframes, make_controlled_prompts
from fixtures.gaussian_mixture import assert_near, rms
from fixtures.node_calls import LORA_SCALE, STRENGTHS, collect_warnings, make_inputs, make_keyframed_text
from torch import Tensor

pytestmark = pytest.mark.floats

FRAMES = 4
LATENT_SHAPE = (FRAMES, 4, 8, 8)
NODES = ["BIVDiffInvertImage", "BIVDiffInvertVideo"]


def model_for(node_id: str):
    model = tiny.sd_model()
    return tiny.as_video_model(model) if node_id == "BIVDiffInvertVideo" else model


def invert(pack, node_id: str, model, text: list, **settings) -> Tensor:
    inputs = {**make_inputs(node_id, model, tiny.make_latent(*LATENT_SHAPE), text), "steps": 6, **settings}
    return pack.run(node_id, **inputs)[0]["samples"]


# Hook keyframes


def with_scaled_output(model):
    """A MODEL whose output is scaled at every noise level as the LoRA with that level's strength would scale it."""
    sampling = model.get_model_object("model_sampling")
    starts = {sampling.percent_to_sigma(start): strength for start, strength in STRENGTHS.items()}

    def scaled(apply_model, args):
        x, sigma = args["input"], args["timestep"][0].item()
        (*_, strength) = (strength for start, strength in starts.items() if start >= sigma)
        denoised = apply_model(x, args["timestep"], **args["c"])
        return x - (1 + strength * (LORA_SCALE - 1)) * (x - denoised)

    model = model.clone()
    model.set_model_unet_function_wrapper(scaled)
    return model


@pytest.mark.parametrize("solver", ["ddim", "uni_inv", "fireflow", "fixed_point"])
@pytest.mark.parametrize("node_id", NODES)
def test_hook_keyframes_apply_at_their_noise_levels(pack, node_id, solver):
    text = make_keyframed_text()
    out = invert(pack, node_id, model_for(node_id), text, solver=solver)
    expected = invert(pack, node_id, with_scaled_output(model_for(node_id)), tiny.text(), solver=solver)
    # Patched weights and scaled outputs round differently, and fixed_point's iterations amplify that on this network.
    assert_near(out, expected, 1e-3)
    assert rms(out - invert(pack, node_id, model_for(node_id), tiny.text(), solver=solver)) > 0.05 * rms(out)


def test_the_input_hooks_are_unchanged(pack):
    """A core sampler gives the same result after an inversion as without one."""
    text, model = make_keyframed_text(), tiny.sd_model()
    inputs = {"latent_image": {"samples": torch.zeros(LATENT_SHAPE)}, "seed": 1, "steps": 6, "cfg": 1.0, "denoise": 1.0}
    inputs |= {"sampler_name": "euler", "scheduler": "normal", "negative": tiny.text(seed=2)}
    (before,) = pack.run("KSampler", model=model, positive=make_keyframed_text(), **inputs)
    invert(pack, "BIVDiffInvertImage", model, text)
    (after,) = pack.run("KSampler", model=model, positive=text, **inputs)
    assert torch.equal(after["samples"], before["samples"])
    assert type(text[0][1]["hooks"].hooks[0].hook_keyframe) is comfy.hooks.HookKeyframeGroup


# Timestep keyframes of controls


@pytest.mark.parametrize("solver", ["ddim", "uni_inv", "fireflow", "fixed_point"])
def test_timestep_keyframes_apply_at_their_noise_levels(pack, solver):
    """Keyframes of Advanced-ControlNet, whose guaranteed steps are unchanged afterwards."""
    starts = {0.0: 0.2, 0.3: 1.0, 0.7: 2.5}
    control = add_keyframes(tiny.control_net(1), {start: {"strength": strength} for start, strength in starts.items()})
    text, _ = make_controlled_prompts(pack, (tiny.text(), tiny.text()), control, 1, False, 0.0, 1.0)
    control, calls = text[0][1]["control"], []

    def record(apply_model, args):
        calls.append((args["timestep"][0].item(), control._current_timestep_keyframe.strength))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model_for("BIVDiffInvertVideo")
    model.set_model_unet_function_wrapper(record)
    pack.run(
        "BIVDiffInvertVideo", model=model, conditioning=text, latent=tiny.make_latent(5, 4, 8, 8), steps=8,
        scheduler="normal", solver=solver,
    )  # fmt: skip
    sampling = model.get_model_object("model_sampling")
    for sigma, strength in calls:
        (*_, expected) = (s for start, s in starts.items() if sampling.percent_to_sigma(start) >= sigma)
        assert strength == expected
    assert {strength for _, strength in calls} == set(starts.values())
    assert [keyframe.guarantee_steps for keyframe in control.timestep_keyframes.keyframes] == [0, 1, 1, 1]


def test_inherited_masks_of_timestep_keyframes_apply_in_an_inversion(pack):
    """Noise rises, so the keyframe that inherits the mask comes before the one that has it."""
    mask = torch.rand(5, 64, 64, generator=torch.Generator().manual_seed(2)).round()

    def invert_with(settings: dict[float, dict]) -> Tensor:
        control = add_keyframes(tiny.control_net(1), settings)
        text, _ = make_controlled_prompts(pack, (tiny.text(), tiny.text()), control, 1, False, 0.0, 1.0)
        inputs = make_inputs("BIVDiffInvertImage", tiny.sd_model(), tiny.make_latent(5, 4, 8, 8), text)
        return pack.run("BIVDiffInvertImage", **inputs, frames_per_batch=2)[0]["samples"]

    masked, late = {"mask_hint_orig": mask}, {"strength": 2.0}
    inherited, given = invert_with({0.0: masked, 0.3: late}), invert_with({0.0: masked, 0.3: {**late, **masked}})
    unmasked = invert_with({0.0: masked, 0.3: {**late, "inherit_missing": False}})
    assert_near(inherited, given, 1e-6)
    assert rms(unmasked - given) > 1e-3 * rms(given)


def test_another_advanced_controlnet_is_explained(pack):
    """Without the fields that the pack resets, keyframes would silently apply at wrong noise levels."""
    control = add_keyframes(tiny.control_net(1), {0.0: {"strength": 0.2}, 0.5: {"strength": 1.0}})
    text, _ = make_controlled_prompts(pack, (tiny.text(), tiny.text()), control, 1, False, 0.0, 1.0)

    def without_field(apply_model, args):
        del text[0][1]["control"]._current_timestep_index
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = tiny.sd_model()
    model.set_model_unet_function_wrapper(without_field)
    with pytest.raises(ValueError, match="made for Advanced-ControlNet 1.5"):
        invert(pack, "BIVDiffInvertImage", model, text)


# Switched off

SWITCHED_OFF = {
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "RescaleCFG": {"multiplier": 0.7},
    "EasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "LazyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
}
"""Core's nodes for guidance other than cfg or for step caching, with settings."""


@pytest.mark.parametrize("patch", SWITCHED_OFF)
@pytest.mark.parametrize("node_id", NODES)
def test_guidance_and_step_caches_are_switched_off_with_a_warning(pack, node_id, patch):
    plain = model_for(node_id)
    (patched,) = pack.run(patch, model=plain, **SWITCHED_OFF[patch])
    options = {key: list(by_key) for key, by_key in patched.wrappers.items()}
    assert torch.equal(invert(pack, node_id, patched, tiny.text()), invert(pack, node_id, plain, tiny.text()))
    warning = collect_warnings(pack, node_id, **make_inputs(node_id, patched, tiny.make_latent(*LATENT_SHAPE)))
    assert f"Switched off for the inversion: {patch}" in warning
    assert {key: list(by_key) for key, by_key in patched.wrappers.items()} == options, "the input MODEL was changed"


class Guidance:
    """Guidance as an object, which has no __name__."""

    def __call__(self, args: dict) -> Tensor:
        return 0.5 * args["denoised"]


@pytest.mark.parametrize("make", [Guidance, lambda: partial(Guidance.__call__, Guidance())], ids=["object", "partial"])
@pytest.mark.parametrize("node_id", NODES)
def test_guidance_as_an_object_is_switched_off_too(pack, node_id, make):
    plain = model_for(node_id)
    guided = plain.clone()
    guided.set_model_sampler_post_cfg_function(make())
    assert torch.equal(invert(pack, node_id, guided, tiny.text()), invert(pack, node_id, plain, tiny.text()))
    warning = collect_warnings(pack, node_id, **make_inputs(node_id, guided, tiny.make_latent(*LATENT_SHAPE)))
    assert "Switched off for the inversion: Guidance" in warning


def test_guidance_as_an_object_applies_in_chunks(pack):
    model = tiny.sd_model()
    model.set_model_sampler_post_cfg_function(Guidance())
    inputs = make_inputs("BIVDiffFrameSampler", model, tiny.make_latent(*LATENT_SHAPE))
    whole, chunked = (pack.run("BIVDiffFrameSampler", frames_per_batch=n, **inputs)[0]["samples"] for n in (FRAMES, 1))
    assert rms(chunked - whole) < 2e-5 * rms(whole)


# Prompts for part of the schedule


def set_range(pack, text: list, start: float, end: float) -> list:
    return pack.run("ConditioningSetTimestepRange", conditioning=text, start=start, end=end)[0]


@pytest.mark.parametrize("ends", [(0.0, 0.5), (0.3, 1.0)])
@pytest.mark.parametrize("node_id", [*NODES, "BIVDiffFrameSampler", "BIVDiffTemporalSmoother"])
def test_noise_levels_without_a_prompt_are_rejected(pack, node_id, ends):
    calls = tiny.CallCounter()
    model = calls.on(model_for(node_id))
    latent = tiny.make_latent(*LATENT_SHAPE)
    if node_id == "BIVDiffTemporalSmoother":
        latent = {"samples": torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(7))}
    with pytest.raises(ValueError, match="no positive prompt is active at sigma .* ConditioningSetTimestepRange"):
        pack.run(node_id, **make_inputs(node_id, model, latent, set_range(pack, tiny.text(), *ends)))
    assert calls.rows == []


@pytest.mark.parametrize("node_id", NODES)
def test_prompts_with_timestep_ranges_apply_at_their_noise_levels(pack, node_id):
    """One prompt's range ends where the other's starts. Every step equals one with its prompt alone."""
    early, late = tiny.text(seed=1), tiny.text(seed=3)
    both = set_range(pack, early, 0.0, 0.45) + set_range(pack, late, 0.45, 1.0)
    model = model_for(node_id)
    boundary = model.get_model_object("model_sampling").percent_to_sigma(0.45)

    def choose(apply_model, args):
        text = early if args["timestep"][0].item() >= boundary else late
        c = {**args["c"], "c_crossattn": text[0][0].expand(args["input"].shape[0], -1, -1)}
        return apply_model(args["input"], args["timestep"], **c)

    chosen = model.clone()
    chosen.set_model_unet_function_wrapper(choose)
    out, expected = invert(pack, node_id, model, both), invert(pack, node_id, chosen, early)
    assert_near(out, expected, 1e-6)
    assert rms(out - invert(pack, node_id, model, early)) > 1e-3 * rms(out)


# Models distilled to few steps


def with_lcm_sampling(pack, node_id: str):
    return pack.run("ModelSamplingDiscrete", model=model_for(node_id), sampling="lcm", zsnr=False)[0]


@pytest.mark.parametrize("node_id", NODES)
def test_lcm_sampling_raises_a_warning(pack, node_id):
    inputs = make_inputs(node_id, with_lcm_sampling(pack, node_id), tiny.make_latent(*LATENT_SHAPE))
    assert "distilled to few steps (LCM sampling)" in collect_warnings(pack, node_id, **inputs)
    inputs["model"] = model_for(node_id)
    assert "distilled" not in collect_warnings(pack, node_id, **inputs)


def test_lcm_sampling_smooths_without_a_warning(pack):
    node_id = "BIVDiffTemporalSmoother"
    z = {"samples": torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(7))}
    inputs = make_inputs(node_id, with_lcm_sampling(pack, "BIVDiffInvertVideo"), z)
    assert "distilled" not in collect_warnings(pack, node_id, **inputs)


def test_distilled_models_are_known_by_class(pack):
    describe = pack.import_module("bivdiff_core.host.model_families").describe_distillation
    assert describe(tiny.flux_model(kind=comfy.supported_models.FluxSchnell, guidance_embed=False)) == "Flux schnell"
    assert describe(tiny.hunyuan_model(meanflow=True)) == "mean flow"
    assert [describe(model) for model in (tiny.flux_model(), tiny.hunyuan_model(), tiny.wan_model())] == [None] * 3

"""Unsuitable inputs raise an error before any model call, or a warning on the node."""

import copy
import json
import logging

import comfy.hooks
import comfy.model_management
import comfy.nested_tensor
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from fixtures import fake_animatediff as ade
from fixtures import tiny_models as tiny
from fixtures.node_calls import AssertNotCalled, collect_warnings, make_inputs
from torch import Tensor

from bivdiff_core.grids import sd_sigma
from bivdiff_core.host.inverted_latents import InvertedLatent, mix_branches
from research import toy_world

FRAMES = 4
LATENT_SHAPE = (FRAMES, 4, 8, 8)
VIDEO_NODES = ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"]


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*(shape or LATENT_SHAPE), generator=torch.Generator().manual_seed(seed))


def smooth_footage() -> dict:
    """A LATENT of a sky: only a gradient."""
    ramp = torch.linspace(-1, 1, 32)
    return {"samples": (ramp[:, None] + 0.3 * ramp).expand(FRAMES, 4, 32, 32) / 0.18215}


def latent_for(node_id: str) -> dict:
    return {"samples": noise()} if node_id == "BIVDiffTemporalSmoother" else tiny.make_latent(*LATENT_SHAPE)


@pytest.fixture(scope="module")
def sd():
    return tiny.sd_model()


@pytest.fixture(scope="module")
def video(pack):
    return tiny.video_model(pack)


# Image models instead of a video model


def add_lora(model):
    layer = model.model.diffusion_model.out[2]
    return comfy.sd.load_lora_for_models(model, None, {"diffusion_model.out.2.diff": 0.1 * layer.weight}, 1.0, 0.0)[0]


IMAGE_MODELS = {
    "plain": lambda pack, sd: sd,
    "lora": lambda pack, sd: add_lora(sd),
    "another schedule": lambda pack, sd: pack.run(
        "ModelSamplingDiscrete", model=sd, sampling="v_prediction", zsnr=False
    )[0],
    "chunks": lambda pack, sd: pack.run("BIVDiffFrameChunks", model=sd, frames_per_batch=2)[0],
    "core's windows": lambda pack, sd: pack.run(
        "ContextWindowsManual", model=sd, context_length=3, context_overlap=1, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False,
    )[0],
}  # fmt: skip
"""Image models with changes that do not let frames affect each other."""


@pytest.mark.parametrize("variant", IMAGE_MODELS)
@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_an_image_model_is_rejected_as_a_video_model(pack, sd, node_id, variant):
    model = IMAGE_MODELS[variant](pack, sd)
    with AssertNotCalled(model), pytest.raises(ValueError, match="got an image model, expected a video model") as error:
        pack.run(node_id, **make_inputs(node_id, model, latent_for(node_id)))
    assert "ZeroScope" in str(error.value)


def test_an_image_model_with_a_lora_hook_is_rejected(pack, sd):
    """Hooks that only change weights are rejected. Other hooks may add motion, so they raise a warning."""
    weights = {"diffusion_model.out.2.diff": 0.1 * sd.model.diffusion_model.out[2].weight}
    hooked = comfy.hooks.set_hooks_for_conditioning(tiny.text(), comfy.hooks.create_hook_lora(weights, 1.0, 0.0))
    with pytest.raises(ValueError, match="got an image model"):
        pack.run(VIDEO_NODES[0], **make_inputs(VIDEO_NODES[0], sd, tiny.make_latent(*LATENT_SHAPE), hooked))
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(transformers_dict={}))
    hooked = comfy.hooks.set_hooks_for_conditioning(tiny.text(), group)
    warning = collect_warnings(
        pack, VIDEO_NODES[0], **make_inputs(VIDEO_NODES[0], sd, tiny.make_latent(*LATENT_SHAPE), hooked)
    )
    assert "hooks (transformer_options)" in warning


def add_attention_patch(model) -> None:
    model.set_model_attn1_patch(lambda queries, context, values, options: (queries, context, values))


def add_function_wrapper(model) -> None:
    model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))


def add_wrapper(model) -> None:
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "motion_pack", lambda executor, *a, **k: executor(*a, **k))


def replace_layer(model) -> None:
    model.add_object_patch("diffusion_model.out.2", copy.deepcopy(model.model.diffusion_model.out[2]))


@pytest.mark.parametrize(
    ("mechanism", "name"),
    [
        (add_attention_patch, "patches (attn1_patch)"),
        (add_function_wrapper, "functions (model_function_wrapper)"),
        (add_wrapper, "wrappers (motion_pack)"),
        (replace_layer, "replaced layers (diffusion_model.out.2)"),
    ],
)
@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_an_image_model_with_other_patches_raises_a_warning(pack, sd, node_id, mechanism, name):
    """The patch may be an unknown motion module."""
    model = sd.clone()
    mechanism(model)
    assert name in collect_warnings(pack, node_id, **make_inputs(node_id, model, latent_for(node_id)))


def test_video_models_raise_no_warning(pack, sd, video):
    wan = tiny.wan_model()
    clip = {"samples": noise(1, 16, FRAMES, 8, 8)}
    moving = ade.apply_evolved_sampling(sd)
    for model, latent in ((video, {"samples": noise()}), (wan, clip), (moving, {"samples": noise()})):
        inputs = make_inputs("BIVDiffTemporalSmoother", model, latent)
        assert not collect_warnings(pack, "BIVDiffTemporalSmoother", **{**inputs, "scheduler": "simple"})


def test_a_bridge_needs_an_image_and_a_video_model(pack, sd, video):
    text = tiny.text()
    texts = {f"{of}_{kind}": text for of in ("image", "video") for kind in ("positive", "negative")}
    with pytest.raises(ValueError, match="^Bridge Guider: got an image model, expected a video model"):
        pack.run("BIVDiffBridgeGuider", image_model=sd, video_model=sd, **texts)
    with pytest.raises(ValueError, match="^Bridge Guider: got a video model .* expected an image model"):
        pack.run("BIVDiffBridgeGuider", image_model=video, video_model=video, **texts)


# Video models instead of an image model


@pytest.mark.parametrize("node_id", ["BIVDiffFrameSampler", "BIVDiffInvertImage"])
def test_a_video_model_is_rejected_as_an_image_model(pack, video, node_id):
    """Frames of a chunk would affect each other, so the result would depend on the chunks."""
    with AssertNotCalled(video), pytest.raises(ValueError, match="got a video model .* expected an image model"):
        pack.run(node_id, **make_inputs(node_id, video, tiny.make_latent(*LATENT_SHAPE)))


@pytest.mark.floats
def test_a_video_model_with_single_frames_is_accepted_as_an_image_model(pack, video):
    """For families without an image model. Every frame's result is then independent of the others."""
    clip = tiny.make_latent(*LATENT_SHAPE)
    inputs = {**make_inputs("BIVDiffInvertImage", video, clip), "frames_per_batch": 1}
    (inverted,) = pack.run("BIVDiffInvertImage", **inputs)
    (alone,) = pack.run("BIVDiffInvertImage", **{**inputs, "latent": {"samples": clip["samples"][2:3]}})
    torch.testing.assert_close(inverted["samples"][2:3], alone["samples"], rtol=1e-4, atol=1e-5)


def test_frame_chunks_rejects_a_video_model(pack, video):
    with pytest.raises(ValueError, match="^Frame Chunks: got a video model .* expected an image model"):
        pack.run("BIVDiffFrameChunks", model=video)


# Latents


def test_an_empty_latent_is_rejected_as_noise(pack, video):
    empty = {"samples": torch.zeros(LATENT_SHAPE)}
    with AssertNotCalled(video), pytest.raises(ValueError, match="^Video Temporal Smoother: this latent does not look"):
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, empty), strength=0.5)
    with pytest.raises(ValueError, match="^Mixed Inversion Blend: this latent does not look like noise"):
        pack.run("BIVDiffMixedInversion", image_latent=empty, video_latent=empty)
    with pytest.raises(ValueError, match="^Inverted Latent to Noise: this latent does not look like noise"):
        pack.run("BIVDiffInvertedNoise", latent=empty)


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo"])
def test_an_inverted_latent_is_rejected_as_frames(pack, sd, video, node_id):
    model = video if node_id == "BIVDiffInvertVideo" else sd
    for strength in (1.0, 0.4):
        inverted = tiny.make_inverted_latent(pack, noise(), strength=strength)
        with AssertNotCalled(model), pytest.raises(ValueError, match="got an inverted latent, expected frames"):
            pack.run(node_id, **make_inputs(node_id, model, inverted))


def test_noise_settings_without_effect_raise_a_warning(pack, sd):
    inverted = tiny.make_inverted_latent(pack, noise(), strength=0.4, sigma=1.0)
    for settings, warned in (({}, False), ({"denoise": 0.5}, True), ({"frame_noise": "shared"}, True)):
        inputs = {**make_inputs("BIVDiffFrameSampler", sd, inverted), **settings}
        assert ("have no effect" in collect_warnings(pack, "BIVDiffFrameSampler", **inputs)) == warned


def test_frames_with_fine_patterns_are_not_mistaken_for_noise(pack):
    """At a width of 8 latent pixels, adjacent pixels of hard demo clips are as uncorrelated as noise."""
    model, _, clip, vae, _ = pack.run("BIVDiffDemoModels")
    (text,) = pack.run("CLIPTextEncode", clip=clip, text="")
    for number in range(4):
        (latent,) = pack.run("VAEEncode", vae=vae, pixels=toy_world.held_out_clip("hard", number).frames)
        assert not collect_warnings(pack, "BIVDiffInvertImage", model=model, conditioning=text, latent=latent, steps=12)
        inputs = {"positive": text, "negative": text, "latent_image": latent, "denoise": 0.5, "steps": 2}
        (frames,) = pack.run("BIVDiffFrameSampler", model=model, **inputs)
        assert frames["samples"].isfinite().all()


@pytest.mark.parametrize("branch", ["Image", "Video"])
def test_noise_without_a_description_raises_a_warning(pack, sd, video, branch):
    model, node_id = (sd if branch == "Image" else video), f"BIVDiffInvert{branch}"
    assert "looks like noise" in collect_warnings(
        pack, node_id, **make_inputs(node_id, model, {"samples": noise(FRAMES, 4, 16, 16)})
    )
    assert not collect_warnings(pack, node_id, **make_inputs(node_id, model, tiny.make_latent(*LATENT_SHAPE)))


def test_a_control_in_the_image_inversion_raises_a_warning(pack, sd):
    hints = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    controlled, _ = pack.run(
        "ControlNetApplyAdvanced", positive=tiny.text(), negative=tiny.text(), control_net=tiny.control_net(),
        image=hints, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    inputs = make_inputs("BIVDiffInvertImage", sd, tiny.make_latent(*LATENT_SHAPE), controlled)
    assert "before Apply ControlNet" in collect_warnings(pack, "BIVDiffInvertImage", **inputs)


NESTED = {"samples": comfy.nested_tensor.NestedTensor([torch.randn(1, 4, FRAMES, 8, 8), torch.randn(1, 8, 16)])}


@pytest.mark.parametrize(
    "node_id",
    ["BIVDiffFrameSampler", "BIVDiffInvertImage", *VIDEO_NODES, "BIVDiffMixedInversion", "BIVDiffInvertedNoise",
     "BIVDiffLatentReport", "BIVDiffSaveLatent"],
)  # fmt: skip
def test_latents_with_audio_raise_an_error_that_explains_it(pack, sd, node_id):
    inputs = {"latent": NESTED}
    if node_id == "BIVDiffMixedInversion":
        inputs = {"image_latent": NESTED, "video_latent": NESTED}
    elif node_id in ("BIVDiffFrameSampler", "BIVDiffInvertImage", *VIDEO_NODES):
        inputs = make_inputs(node_id, sd, NESTED)
    with pytest.raises(ValueError, match="video and audio.*Separate AV Latent"):
        pack.run(node_id, **inputs)


def test_latents_with_audio_get_no_frame_noise(pack):
    (frame_noise,) = pack.run("BIVDiffFrameNoise", seed=1, mode="shared")
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent={"samples": noise()})
    for generator, name in ((frame_noise, "Frame Noise"), (as_noise, "Inverted Latent to Noise")):
        with pytest.raises(ValueError, match=f"^{name}: .*Separate AV Latent"):
            generator.generate_noise(NESTED)


def test_text_of_another_encoder_is_rejected(pack, sd, video):
    """Also by image models, before torch raises an unclear error."""
    other = tiny.text(1, 7, 2 * tiny.TEXT_WIDTH)
    for node_id, model in (("BIVDiffFrameSampler", sd), ("BIVDiffInvertImage", sd), ("BIVDiffTemporalSmoother", video)):
        with pytest.raises(ValueError, match=f"encoded for another model: .* {2 * tiny.TEXT_WIDTH} values"):
            pack.run(node_id, **make_inputs(node_id, model, latent_for(node_id), other))


# Descriptions of inverted latents


@pytest.fixture(scope="module")
def inverted(pack, video) -> dict:
    return pack.run("BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", video, tiny.make_latent(*LATENT_SHAPE)))[
        0
    ]


def test_a_description_is_valid_for_its_samples_only(pack, sd, video, inverted):
    """Core's nodes also copy it to other samples, for example to sampled frames or scaled latents."""
    text = {"positive": tiny.text(), "negative": tiny.text()}
    (sampled,) = pack.run(
        "KSampler", model=sd, latent_image=inverted, seed=1, steps=4, cfg=1.0, sampler_name="euler",
        scheduler="normal", denoise=1.0, **text,
    )  # fmt: skip
    assert "bivdiff" in sampled
    pack.run("BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", video, sampled))

    (upscaled,) = pack.run(
        "LatentUpscale", samples=inverted, upscale_method="bicubic", width=256, height=256, crop="disabled"
    )
    assert "bivdiff" in upscaled
    with pytest.raises(ValueError, match="this latent does not look like noise"):
        pack.run("BIVDiffInvertedNoise", latent=upscaled)
    (part,) = pack.run("LatentFromBatch", samples=inverted, batch_index=1, length=2)
    _, summary, _ = pack.run("BIVDiffLatentReport", latent=part)
    assert "does not say where it comes from" in summary


def test_a_description_survives_a_cast(pack, inverted):
    """Results are in half precision on many machines."""
    half = {**inverted, "samples": inverted["samples"].to(torch.bfloat16)}
    _, summary, _ = pack.run("BIVDiffLatentReport", latent=half)
    assert "does not say where" not in summary


def test_branches_on_two_devices_are_mixed_on_the_intermediate_device(monkeypatch):
    """A loaded latent is on the CPU, an inverted one with --gpu-only on the GPU (here: the meta device)."""
    device = torch.device("meta")
    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: device)
    image, video = (InvertedLatent(torch.zeros(2, 4, 8, 8, device=where), None) for where in ("cpu", device))
    assert mix_branches(image, video, 0.5, "linear", steadiness=0.0).samples.device == device


def test_inverted_smooth_footage_raises_only_a_warning(pack, video):
    """Its inverted latents are as correlated as images, for any number of steps."""
    correlated = torch.nn.functional.interpolate(noise(FRAMES, 4, 8, 8), scale_factor=4, mode="bilinear")
    correlated = correlated / correlated.std()
    described = tiny.make_inverted_latent(pack, correlated)
    warning = collect_warnings(
        pack, "BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, described)
    )
    assert "far from noise" in warning and "Smooth footage" in warning
    with pytest.raises(ValueError, match="this latent does not look like noise") as error:
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, {"samples": correlated}))
    assert "Save Inverted Latent" in str(error.value) and "raise their steps" not in str(error.value)
    assert not pack.run("BIVDiffLatentReport", latent=described)[1].startswith("Alarm: not an inverted latent")
    assert pack.run("BIVDiffLatentReport", latent={"samples": correlated})[1].startswith(
        "Alarm: not an inverted latent"
    )


def test_a_sky_runs_through_the_chain(pack, sd, video):
    (inverted,) = pack.run("BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", video, smooth_footage()))
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=inverted, video_latent=inverted, mixing_ratio=0.5)
    pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, mixed))


@pytest.mark.parametrize(("strength", "warned"), [(1.0, False), (0.5, False), (0.8, True)])
def test_a_strength_without_effect_raises_a_warning(pack, video, strength, warned):
    """Except for the default strength and the latent's recorded strength."""
    inputs = make_inputs(
        "BIVDiffTemporalSmoother", video, tiny.make_inverted_latent(pack, noise(FRAMES, 4, 32, 32), strength=0.5)
    )
    warnings = collect_warnings(pack, "BIVDiffTemporalSmoother", **inputs, strength=strength)
    assert ("strength 0.8 has no effect" in warnings) == warned


def test_a_loaded_latent_in_which_the_image_shows_raises_a_warning(pack, video):
    """At strength 1 it may be a partly inverted latent. At its real strength there is no warning."""
    coarse = torch.nn.functional.interpolate(noise(FRAMES, 4, 8, 8, seed=1), scale_factor=4, mode="bilinear")
    share = 1 / (1 + sd_sigma(500) ** 2) ** 0.5
    loaded = {"samples": share * coarse / coarse.std() + (1 - share**2) ** 0.5 * noise(FRAMES, 4, 32, 32)}
    inputs = make_inputs("BIVDiffTemporalSmoother", video, loaded)
    warning = collect_warnings(pack, "BIVDiffTemporalSmoother", **inputs)
    assert "does not record how far it was inverted" in warning and "set that strength" in warning
    assert not collect_warnings(pack, "BIVDiffTemporalSmoother", **inputs, strength=0.5)


# Noise levels


@pytest.fixture
def short_scheduler(monkeypatch):
    """A scheduler of another pack, which ends at sigma 1 on every model."""

    def short(sampling, steps):
        return torch.cat([torch.linspace(1, 0.05, steps), torch.zeros(1)])

    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "short", comfy.samplers.SchedulerHandler(short))
    names = [*comfy.samplers.SCHEDULER_NAMES, "short"]
    monkeypatch.setattr(comfy.samplers, "SCHEDULER_NAMES", names)
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", names)


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", *VIDEO_NODES])
def test_a_schedule_that_ends_far_below_full_noise_is_rejected(pack, sd, video, short_scheduler, node_id):
    model = sd if node_id == "BIVDiffInvertImage" else video
    inputs = {**make_inputs(node_id, model, latent_for(node_id)), "scheduler": "short"}
    with AssertNotCalled(model), pytest.raises(ValueError, match="scheduler short reaches only sigma 1, where 71%"):
        pack.run(node_id, **inputs)


def test_below_full_noise_the_reached_sigma_counts(pack, sd, video, short_scheduler):
    """Strength .2 ends at the same sigma for every scheduler that reaches it, and smoothing starts there."""
    image, clip = (
        pack.run(
            node_id, strength=0.2,
            **{**make_inputs(node_id, model, tiny.make_latent(*LATENT_SHAPE)), "scheduler": scheduler},
        )[0]
        for node_id, model, scheduler in (("BIVDiffInvertImage", sd, "short"), ("BIVDiffInvertVideo", video, "normal"))
    )  # fmt: skip
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=clip, mixing_ratio=0.5)
    calls = tiny.CallCounter()
    inputs = make_inputs("BIVDiffTemporalSmoother", calls.on(video), mixed)
    pack.run("BIVDiffTemporalSmoother", **inputs, strength=1.0)
    assert calls.sigmas[0] == pytest.approx(sd_sigma(200), rel=1e-6)


@pytest.mark.parametrize(("sigma", "fits"), [(1.02, True), (1.2, False)])
def test_branches_may_differ_slightly_in_sigma(pack, sigma, fits):
    image = tiny.make_inverted_latent(pack, noise(seed=1), sigma=1.0, strength=0.4)
    clip = tiny.make_inverted_latent(pack, noise(seed=2), sigma=sigma, strength=0.4)
    inputs = {"image_latent": image, "video_latent": clip, "mixing_ratio": 0.5}
    if fits:
        pack.run("BIVDiffMixedInversion", **inputs)
    else:
        with pytest.raises(ValueError, match="different noise levels, image at sigma 1 .* video at sigma 1.2"):
            pack.run("BIVDiffMixedInversion", **inputs)


def test_different_sigma_max_both_count_as_full_noise(pack):
    image, clip = (
        tiny.make_inverted_latent(pack, noise(seed=1)),
        tiny.make_inverted_latent(pack, noise(seed=2), sigma=25.1),
    )
    pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=clip, mixing_ratio=0.5)


# Display of warnings


def test_a_warning_shows_on_the_node_and_in_its_output(pack, server):
    """In the node's ui output, which frontends also show after a reload, and in the log."""
    prompt = {
        "models": ("BIVDiffDemoModels", {"variant": "base"}),
        "text": ("CLIPTextEncode", {"clip": ["models", 2], "text": "a red fish"}),
        "clip": ("BIVDiffDemoClip", {"frames": 4}),
        "frames": ("GetVideoComponents", {"video": ["clip", 0]}),
        "encoded": ("VAEEncode", {"pixels": ["frames", 0], "vae": ["models", 3]}),
        "freeu": ("FreeU_V2", {"model": ["models", 0], "b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}),
        "inverted": (
            "BIVDiffInvertVideo",
            {"model": ["freeu", 0], "conditioning": ["text", 0], "latent": ["encoded", 0], "steps": 3,
             "scheduler": "karras", "solver": "ddim", "strength": 1.0, "grid": "matched", "context_length": 0,
             "context_overlap": 0},
        ),
        "save": ("BIVDiffSaveLatent", {"latent": ["inverted", 0], "filename_prefix": "latents/warned"}),
    }  # fmt: skip
    result = server.run({key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in prompt.items()})
    assert not result.error
    shown = result.outputs["inverted"]["text"]
    assert ["looks like an image model" in text for text in shown] == [True, False]
    assert all(text in server.log for text in shown)


def test_warnings_are_logged(pack, sd, caplog):
    model = tiny.as_video_model(sd)
    with caplog.at_level(logging.WARNING):
        warning = collect_warnings(
            pack, "BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", model, tiny.make_latent(*LATENT_SHAPE))
        )
    assert warning and warning in caplog.text


@pytest.fixture(params=["off", "only errors", "loggers disabled"])
def log_settings(request, pack):
    """Settings of other packs that keep the log free of warnings."""
    loggers = [logger for name, logger in logging.root.manager.loggerDict.items() if name.startswith(pack.name)]
    loggers = [logger for logger in loggers if isinstance(logger, logging.Logger)]
    assert loggers
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    if request.param == "off":
        logging.disable(logging.CRITICAL)
    for logger in loggers:
        if request.param == "only errors":
            logger.setLevel(logging.ERROR)
        logger.disabled = request.param == "loggers disabled"
    yield
    logging.disable(logging.NOTSET)
    for logger, level, disabled in before:
        logger.setLevel(level)
        logger.disabled = disabled


def test_warnings_show_on_the_node_whatever_the_log_settings(pack, sd, log_settings):
    inputs = make_inputs("BIVDiffInvertVideo", tiny.as_video_model(sd), tiny.make_latent(*LATENT_SHAPE))
    assert "looks like an image model" in collect_warnings(pack, "BIVDiffInvertVideo", **inputs)


# Changed names in other packs


def test_a_missing_name_in_another_pack_is_explained(pack, sd):
    model = ade.apply_evolved_sampling(sd)
    del model.get_attachment("ADE_params").context_options
    with pytest.raises(ValueError, match="does not yet support .* AnimateDiff-Evolved 1.5.7 .* Update BIVDiff"):
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", model, {"samples": noise()}))


class BrokenHooks(comfy.hooks.HookGroup):
    """Hooks of another pack, whose code raises an AttributeError or KeyError."""

    error: type[Exception]

    def clone(self):
        raise self.error("an error of another pack")


@pytest.mark.parametrize("error", [AttributeError, KeyError])
def test_a_lookup_error_in_another_packs_code_is_raised_unchanged(pack, sd, error):
    hooks = BrokenHooks()
    hooks.error = error
    inputs = make_inputs("BIVDiffInvertImage", sd, tiny.make_latent(*LATENT_SHAPE), tiny.text(hooks=hooks))
    with pytest.raises(error, match="an error of another pack"):
        pack.run("BIVDiffInvertImage", **inputs)


# Node names in errors

ERRORS = {
    ValueError("a word"): ValueError,
    json.JSONDecodeError("Expecting value", "{", 1): ValueError,
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"): ValueError,
    FileNotFoundError(2, "No such file", "a.json"): FileNotFoundError,
    torch.OutOfMemoryError("CUDA out of memory."): torch.OutOfMemoryError,
}
"""Errors in a patch of a MODEL, and the types with which the node raises them."""


@pytest.mark.parametrize(("error", "kind"), ERRORS.items(), ids=[type(error).__name__ for error in ERRORS])
def test_an_error_of_any_kind_gets_the_nodes_name(pack, sd, error, kind):
    model = tiny.CallCounter(1, error).on(sd)
    with pytest.raises(kind) as raised:
        pack.run(
            "BIVDiffFrameSampler", **make_inputs("BIVDiffFrameSampler", model, tiny.make_latent(1, *LATENT_SHAPE[1:]))
        )
    assert str(raised.value) == f"Frame-wise Image Sampler: {error}"
    assert comfy.model_management.is_oom(raised.value) == isinstance(error, torch.OutOfMemoryError)


def test_an_interrupt_is_raised_unchanged(pack, sd):
    cancel = comfy.model_management.InterruptProcessingException()
    model = tiny.CallCounter(1, cancel).on(sd)
    with pytest.raises(comfy.model_management.InterruptProcessingException) as raised:
        pack.run("BIVDiffFrameSampler", **make_inputs("BIVDiffFrameSampler", model, tiny.make_latent(*LATENT_SHAPE)))
    assert raised.value is cancel

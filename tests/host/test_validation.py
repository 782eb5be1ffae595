"""The wrong thing in a socket is refused before any model call, or said on the node; never passed in silence."""

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
from fixtures.node_calls import collect_warnings, make_inputs
from torch import Tensor

from bivdiff_core.grids import sd_sigma
from bivdiff_core.host.inverted_latents import mix_branches
from research import toy_world

F = 4
LATENT = (F, 4, 8, 8)
VIDEO_NODES = ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"]


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*(shape or LATENT), generator=torch.Generator().manual_seed(seed))


def smooth_footage() -> dict:
    """A LATENT of a sky: nothing but a gradient."""
    ramp = torch.linspace(-1, 1, 32)
    return {"samples": (ramp[:, None] + 0.3 * ramp).expand(F, 4, 32, 32) / 0.18215}


def latent_for(node_id: str) -> dict:
    return {"samples": noise()} if node_id == "BIVDiffTemporalSmoother" else tiny.make_latent(*LATENT)


class Uncalled:
    """Counts the calls of a MODEL's network without putting anything on the MODEL."""

    def __init__(self, model):
        self.calls = 0
        network = model.model.diffusion_model
        self.handle = network.register_forward_pre_hook(self.count)

    def count(self, *_) -> None:
        self.calls += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()
        assert self.calls == 0


@pytest.fixture(scope="module")
def sd():
    return tiny.sd_model()


@pytest.fixture(scope="module")
def video(pack):
    return tiny.video_model(pack)


# Image models where a video model belongs


def lora(model):
    layer = model.model.diffusion_model.out[2]
    return comfy.sd.load_lora_for_models(model, None, {"diffusion_model.out.2.diff": 0.1 * layer.weight}, 1.0, 0.0)[0]


BARE = {
    "plain": lambda pack, sd: sd,
    "lora": lambda pack, sd: lora(sd),
    "another schedule": lambda pack, sd: pack.run(
        "ModelSamplingDiscrete", model=sd, sampling="v_prediction", zsnr=False
    )[0],
    "chunks": lambda pack, sd: pack.run("BIVDiffFrameChunks", model=sd, frames_per_batch=2)[0],
    "core's windows": lambda pack, sd: pack.run(
        "ContextWindowsManual", model=sd, context_length=3, context_overlap=1, context_schedule="standard_static",
        context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False,
    )[0],
}  # fmt: skip
"""None of these makes frames see one another."""


@pytest.mark.parametrize("bare", BARE)
@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_a_bare_image_model_is_no_video_model(pack, sd, node_id, bare):
    model = BARE[bare](pack, sd)
    with Uncalled(model), pytest.raises(ValueError, match="got an image model, expected a video model") as refusal:
        pack.run(node_id, **make_inputs(node_id, model, latent_for(node_id)))
    assert "ZeroScope" in str(refusal.value)


def test_a_lora_on_the_prompt_makes_no_video_model(pack, sd):
    """Hooks that change weights alone; others may change what the model sees."""
    weights = {"diffusion_model.out.2.diff": 0.1 * sd.model.diffusion_model.out[2].weight}
    hooked = comfy.hooks.set_hooks_for_conditioning(tiny.text(), comfy.hooks.create_hook_lora(weights, 1.0, 0.0))
    with pytest.raises(ValueError, match="got an image model"):
        pack.run(VIDEO_NODES[0], **make_inputs(VIDEO_NODES[0], sd, tiny.make_latent(*LATENT), hooked))
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(transformers_dict={}))
    hooked = comfy.hooks.set_hooks_for_conditioning(tiny.text(), group)
    said = collect_warnings(pack, VIDEO_NODES[0], **make_inputs(VIDEO_NODES[0], sd, tiny.make_latent(*LATENT), hooked))
    assert "hooks (transformer_options)" in said


def attention_patch(model) -> None:
    model.set_model_attn1_patch(lambda queries, context, values, options: (queries, context, values))


def function_wrapper(model) -> None:
    model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))


def wrapper(model) -> None:
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "motion_pack", lambda executor, *a, **k: executor(*a, **k))


def exchanged_layer(model) -> None:
    model.add_object_patch("diffusion_model.out.2", copy.deepcopy(model.model.diffusion_model.out[2]))


@pytest.mark.parametrize(
    ("mechanism", "name"),
    [
        (attention_patch, "patches (attn1_patch)"),
        (function_wrapper, "functions (model_function_wrapper)"),
        (wrapper, "wrappers (motion_pack)"),
        (exchanged_layer, "exchanged layers (diffusion_model.out.2)"),
    ],
)
@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_an_image_model_with_more_on_it_is_warned_of(pack, sd, node_id, mechanism, name):
    """It may be a motion module that nobody here knows."""
    model = sd.clone()
    mechanism(model)
    assert name in collect_warnings(pack, node_id, **make_inputs(node_id, model, latent_for(node_id)))


def test_video_models_are_known(pack, sd, video):
    """And say nothing."""
    wan = tiny.wan_model()
    clip = {"samples": noise(1, 16, F, 8, 8)}
    moving = ade.apply_evolved_sampling(sd)
    for model, latent in ((video, {"samples": noise()}), (wan, clip), (moving, {"samples": noise()})):
        inputs = make_inputs("BIVDiffTemporalSmoother", model, latent)
        assert not collect_warnings(pack, "BIVDiffTemporalSmoother", **{**inputs, "scheduler": "simple"})


def test_a_bridge_wants_one_of_each(pack, sd, video):
    text = tiny.text()
    texts = {f"{of}_{kind}": text for of in ("image", "video") for kind in ("positive", "negative")}
    with pytest.raises(ValueError, match="^Bridge Guider: got an image model, expected a video model"):
        pack.run("BIVDiffBridgeGuider", image_model=sd, video_model=sd, **texts)
    with pytest.raises(ValueError, match="^Bridge Guider: got a video model .* expected an image model"):
        pack.run("BIVDiffBridgeGuider", image_model=video, video_model=video, **texts)


# Video models where an image model belongs


@pytest.mark.parametrize("node_id", ["BIVDiffFrameSampler", "BIVDiffInvertImage"])
def test_a_video_model_is_no_image_model(pack, video, node_id):
    """Frames in a chunk would see one another, and the result depend on the chunks."""
    with Uncalled(video), pytest.raises(ValueError, match="got a video model .* expected an image model"):
        pack.run(node_id, **make_inputs(node_id, video, tiny.make_latent(*LATENT)))


@pytest.mark.floats
def test_a_video_model_shown_single_frames_is_an_image_model(pack, video):
    """For families without an image model of their own; each frame is then what it is alone."""
    clip = tiny.make_latent(*LATENT)
    given = {**make_inputs("BIVDiffInvertImage", video, clip), "frames_per_batch": 1}
    (inverted,) = pack.run("BIVDiffInvertImage", **given)
    (alone,) = pack.run("BIVDiffInvertImage", **{**given, "latent": {"samples": clip["samples"][2:3]}})
    torch.testing.assert_close(inverted["samples"][2:3], alone["samples"], rtol=1e-4, atol=1e-5)


def test_a_video_model_is_not_cut_into_chunks(pack, video):
    with pytest.raises(ValueError, match="^Frame Chunks: got a video model .* expected an image model"):
        pack.run("BIVDiffFrameChunks", model=video)


# Latents


def test_an_empty_latent_is_no_noise(pack, video):
    empty = {"samples": torch.zeros(LATENT)}
    with Uncalled(video), pytest.raises(ValueError, match="^Video Temporal Smoother: this latent does not look"):
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, empty), strength=0.5)
    with pytest.raises(ValueError, match="^Mixed Inversion Blend: this latent does not look like noise"):
        pack.run("BIVDiffMixedInversion", image_latent=empty, video_latent=empty)
    with pytest.raises(ValueError, match="^Inverted Latent to Noise: this latent does not look like noise"):
        pack.run("BIVDiffInvertedNoise", latent=empty)


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo"])
def test_an_inverted_latent_is_no_frames(pack, sd, video, node_id):
    model = video if node_id == "BIVDiffInvertVideo" else sd
    for strength in (1.0, 0.4):
        inverted = tiny.make_inverted_latent(pack, noise(), strength=strength)
        with Uncalled(model), pytest.raises(ValueError, match="got an inverted latent, expected frames"):
            pack.run(node_id, **make_inputs(node_id, model, inverted))


def test_settings_of_noise_that_is_not_drawn_are_warned_of(pack, sd):
    inverted = tiny.make_inverted_latent(pack, noise(), strength=0.4, sigma=1.0)
    for settings, said in (({}, False), ({"denoise": 0.5}, True), ({"frame_noise": "shared"}, True)):
        given = {**make_inputs("BIVDiffFrameSampler", sd, inverted), **settings}
        assert ("have no effect" in collect_warnings(pack, "BIVDiffFrameSampler", **given)) == said


def test_frames_with_fine_patterns_are_not_taken_for_noise(pack):
    """Eight latent pixels wide, neighbours on hard demo clips are as unrelated as in noise."""
    model, _, clip, vae, _ = pack.run("BIVDiffDemoModels")
    (text,) = pack.run("CLIPTextEncode", clip=clip, text="")
    for number in range(4):
        (latent,) = pack.run("VAEEncode", vae=vae, pixels=toy_world.held_out_clip("hard", number).frames)
        assert not collect_warnings(pack, "BIVDiffInvertImage", model=model, conditioning=text, latent=latent, steps=5)
        inputs = {"positive": text, "negative": text, "latent_image": latent, "denoise": 0.5, "steps": 2}
        (drawn,) = pack.run("BIVDiffFrameSampler", model=model, **inputs)
        assert drawn["samples"].isfinite().all()


@pytest.mark.parametrize("branch", ["Image", "Video"])
def test_noise_that_lost_its_description_is_warned_of(pack, sd, video, branch):
    model, node_id = (sd if branch == "Image" else video), f"BIVDiffInvert{branch}"
    assert "looks like noise" in collect_warnings(
        pack, node_id, **make_inputs(node_id, model, {"samples": noise(F, 4, 16, 16)})
    )
    assert not collect_warnings(pack, node_id, **make_inputs(node_id, model, tiny.make_latent(*LATENT)))


def test_a_control_in_the_image_inversion_is_warned_of(pack, sd):
    hints = torch.rand(F, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    controlled, _ = pack.run(
        "ControlNetApplyAdvanced", positive=tiny.text(), negative=tiny.text(), control_net=tiny.control_net(),
        image=hints, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    given = make_inputs("BIVDiffInvertImage", sd, tiny.make_latent(*LATENT), controlled)
    assert "before Apply ControlNet" in collect_warnings(pack, "BIVDiffInvertImage", **given)


NESTED = {"samples": comfy.nested_tensor.NestedTensor([torch.randn(1, 4, F, 8, 8), torch.randn(1, 8, 16)])}


@pytest.mark.parametrize(
    "node_id",
    ["BIVDiffFrameSampler", "BIVDiffInvertImage", *VIDEO_NODES, "BIVDiffMixedInversion", "BIVDiffInvertedNoise",
     "BIVDiffLatentReport", "BIVDiffSaveLatent"],
)  # fmt: skip
def test_sound_beside_the_video_is_refused_in_words(pack, sd, node_id):
    given = {"latent": NESTED}
    if node_id == "BIVDiffMixedInversion":
        given = {"image_latent": NESTED, "video_latent": NESTED}
    elif node_id in ("BIVDiffFrameSampler", "BIVDiffInvertImage", *VIDEO_NODES):
        given = make_inputs(node_id, sd, NESTED)
    with pytest.raises(ValueError, match="video and audio.*Separate AV Latent"):
        pack.run(node_id, **given)


def test_sound_beside_the_video_gets_no_frame_noise(pack):
    (frame_noise,) = pack.run("BIVDiffFrameNoise", seed=1, mode="shared")
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent={"samples": noise()})
    for made, name in ((frame_noise, "Frame Noise"), (as_noise, "Inverted Latent to Noise")):
        with pytest.raises(ValueError, match=f"^{name}: .*Separate AV Latent"):
            made.generate_noise(NESTED)


def test_text_of_another_encoder_is_refused(pack, sd, video):
    """By image models too, before torch says it in its own words."""
    other = tiny.text(1, 7, 2 * tiny.TEXT_WIDTH)
    for node_id, model in (("BIVDiffFrameSampler", sd), ("BIVDiffInvertImage", sd), ("BIVDiffTemporalSmoother", video)):
        with pytest.raises(ValueError, match=f"encoded for another model .* {2 * tiny.TEXT_WIDTH} values"):
            pack.run(node_id, **make_inputs(node_id, model, latent_for(node_id), other))


# What a latent says of itself


@pytest.fixture(scope="module")
def inverted(pack, video) -> dict:
    return pack.run("BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", video, tiny.make_latent(*LATENT)))[0]


def test_a_description_counts_for_its_own_samples_only(pack, sd, video, inverted):
    """Core's nodes copy it onto others: onto sampled frames, which can be inverted again, and onto scaled ones."""
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
    """Results are kept in half precision on many machines."""
    half = {**inverted, "samples": inverted["samples"].to(torch.bfloat16)}
    _, summary, _ = pack.run("BIVDiffLatentReport", latent=half)
    assert "does not say where" not in summary


def test_branches_on_two_devices_are_mixed_where_the_host_keeps_latents(monkeypatch):
    """A latent from a file is on the CPU, one just inverted on the GPU under --gpu-only, for which meta stands in."""
    device = torch.device("meta")
    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: device)
    image, video = ({"samples": torch.zeros(2, 4, 8, 8, device=where)} for where in ("cpu", device))
    assert mix_branches(image, video, 0.5, "linear", steadiness=0.0)["samples"].device == device


def test_smooth_footage_is_believed_and_said(pack, video):
    """Its inversions correlate as images do, at any number of steps."""
    correlated = torch.nn.functional.interpolate(noise(F, 4, 8, 8), scale_factor=4, mode="bilinear")
    correlated = correlated / correlated.std()
    told = tiny.make_inverted_latent(pack, correlated)
    said = collect_warnings(pack, "BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, told))
    assert "far from noise" in said and "Smooth footage" in said
    with pytest.raises(ValueError, match="this latent does not look like noise") as refusal:
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, {"samples": correlated}))
    assert "Save Inverted Latent" in str(refusal.value) and "raise their steps" not in str(refusal.value)
    assert not pack.run("BIVDiffLatentReport", latent=told)[1].startswith("Alarm: not an inverted latent")
    assert pack.run("BIVDiffLatentReport", latent={"samples": correlated})[1].startswith(
        "Alarm: not an inverted latent"
    )


def test_a_sky_goes_through_the_chain(pack, sd, video):
    (inverted,) = pack.run("BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", video, smooth_footage()))
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=inverted, video_latent=inverted, mixing_ratio=0.5)
    pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", video, mixed))


@pytest.mark.parametrize(("strength", "said"), [(1.0, False), (0.5, False), (0.8, True)])
def test_a_strength_that_the_latent_overrules_is_warned_of(pack, video, strength, said):
    """Unless it is the default, or what the latent says anyway."""
    given = make_inputs(
        "BIVDiffTemporalSmoother", video, tiny.make_inverted_latent(pack, noise(F, 4, 32, 32), strength=0.5)
    )
    warned = collect_warnings(pack, "BIVDiffTemporalSmoother", **given, strength=strength)
    assert ("strength 0.8 has no effect" in warned) == said


def test_a_loaded_latent_that_shows_the_image_is_warned_of(pack, video):
    """At strength 1 it may be one that stopped halfway; at the strength that it had there is nothing to say."""
    coarse = torch.nn.functional.interpolate(noise(F, 4, 8, 8, seed=1), scale_factor=4, mode="bilinear")
    share = 1 / (1 + sd_sigma(500) ** 2) ** 0.5
    loaded = {"samples": share * coarse / coarse.std() + (1 - share**2) ** 0.5 * noise(F, 4, 32, 32)}
    given = make_inputs("BIVDiffTemporalSmoother", video, loaded)
    said = collect_warnings(pack, "BIVDiffTemporalSmoother", **given)
    assert "does not say how far it was inverted" in said and "set that strength" in said
    assert not collect_warnings(pack, "BIVDiffTemporalSmoother", **given, strength=0.5)


# Levels, by what was reached


@pytest.fixture
def short_scheduler(monkeypatch):
    """A scheduler as other packs add them, which stops at sigma 1 on every model."""

    def short(sampling, steps):
        return torch.cat([torch.linspace(1, 0.05, steps), torch.zeros(1)])

    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "short", comfy.samplers.SchedulerHandler(short))
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", [*comfy.samplers.SCHEDULER_NAMES, "short"])


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", *VIDEO_NODES])
def test_a_schedule_that_stops_far_below_noise_is_refused(pack, sd, video, short_scheduler, node_id):
    model = sd if node_id == "BIVDiffInvertImage" else video
    given = {**make_inputs(node_id, model, latent_for(node_id)), "scheduler": "short"}
    with Uncalled(model), pytest.raises(ValueError, match="scheduler short tops out at sigma 1, where 71%"):
        pack.run(node_id, **given)


def test_below_full_noise_levels_count_and_not_what_was_asked_for(pack, sd, video, short_scheduler):
    """Strength .2 ends at one sigma by every scheduler that gets there, and smoothing begins there."""
    image, clip = (
        pack.run(
            node_id, strength=0.2,
            **{**make_inputs(node_id, model, tiny.make_latent(*LATENT)), "scheduler": scheduler},
        )[0]
        for node_id, model, scheduler in (("BIVDiffInvertImage", sd, "short"), ("BIVDiffInvertVideo", video, "normal"))
    )  # fmt: skip
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=clip, mixing_ratio=0.5)
    calls = tiny.CallCounter()
    given = make_inputs("BIVDiffTemporalSmoother", calls.on(video), mixed)
    pack.run("BIVDiffTemporalSmoother", **given, strength=1.0)
    assert calls.sigmas[0] == pytest.approx(sd_sigma(200), rel=1e-6)


@pytest.mark.parametrize(("sigma", "fits"), [(1.02, True), (1.2, False)])
def test_branches_agree_within_two_hundredths_of_the_image(pack, sigma, fits):
    image = tiny.make_inverted_latent(pack, noise(seed=1), sigma=1.0, strength=0.4)
    clip = tiny.make_inverted_latent(pack, noise(seed=2), sigma=sigma, strength=0.4)
    given = {"image_latent": image, "video_latent": clip, "mixing_ratio": 0.5}
    if fits:
        pack.run("BIVDiffMixedInversion", **given)
    else:
        with pytest.raises(ValueError, match="different noise levels, image at sigma 1 .* video at sigma 1.2"):
            pack.run("BIVDiffMixedInversion", **given)


def test_tops_of_different_models_are_all_full_noise(pack):
    image, clip = (
        tiny.make_inverted_latent(pack, noise(seed=1)),
        tiny.make_inverted_latent(pack, noise(seed=2), sigma=25.1),
    )
    pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=clip, mixing_ratio=0.5)


# How a warning reaches the artist


def test_a_warning_shows_on_the_node_and_in_its_output(pack, server):
    """In what it puts out, which a page shows, also one that is loaded later; in the log as well."""
    prompt = {
        "models": ("BIVDiffDemoModels", {"variant": "base"}),
        "text": ("CLIPTextEncode", {"clip": ["models", 2], "text": "a red star"}),
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
    ran = server.run({key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in prompt.items()})
    assert not ran.error
    (text,) = ran.outputs["inverted"]["text"]
    assert "looks like an image model" in text
    assert text in server.log


def test_the_log_keeps_the_warnings(pack, sd, caplog):
    model = tiny.as_video_model(sd)
    with caplog.at_level(logging.WARNING):
        said = collect_warnings(
            pack, "BIVDiffInvertVideo", **make_inputs("BIVDiffInvertVideo", model, tiny.make_latent(*LATENT))
        )
    assert said and said in caplog.text


# Names that have moved


def test_a_name_that_moved_in_another_pack_is_said(pack, sd):
    model = ade.apply_evolved_sampling(sd)
    del model.get_attachment("ADE_params").context_options
    with pytest.raises(ValueError, match="does not yet support .* AnimateDiff-Evolved 1.5.7 .* Update BIVDiff"):
        pack.run("BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", model, {"samples": noise()}))


class BrokenHooks(comfy.hooks.HookGroup):
    """Hooks of another pack, whose own code looks for something in vain."""

    error: type[Exception]

    def clone(self):
        raise self.error("their own")


@pytest.mark.parametrize("error", [AttributeError, KeyError])
def test_a_name_that_another_packs_own_code_lacks_is_not_taken_for_ours(pack, sd, error):
    hooks = BrokenHooks()
    hooks.error = error
    given = make_inputs("BIVDiffInvertImage", sd, tiny.make_latent(*LATENT), tiny.text(hooks=hooks))
    with pytest.raises(error, match="their own"):
        pack.run("BIVDiffInvertImage", **given)


# A node's name before an error

ERRORS = {
    ValueError("a word"): ValueError,
    json.JSONDecodeError("Expecting value", "{", 1): ValueError,
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"): ValueError,
    FileNotFoundError(2, "No such file", "a.json"): FileNotFoundError,
    torch.OutOfMemoryError("CUDA out of memory."): torch.OutOfMemoryError,
}
"""Errors of whatever is on a MODEL, and the types that they are raised as."""


@pytest.mark.parametrize(("error", "kind"), ERRORS.items(), ids=[type(error).__name__ for error in ERRORS])
def test_an_error_of_any_kind_gets_the_nodes_name(pack, sd, error, kind):
    model = tiny.CallCounter(1, error).on(sd)
    with pytest.raises(kind) as raised:
        pack.run("BIVDiffFrameSampler", **make_inputs("BIVDiffFrameSampler", model, tiny.make_latent(1, *LATENT[1:])))
    assert str(raised.value) == f"Frame-wise Image Sampler: {error}"
    assert comfy.model_management.is_oom(raised.value) == isinstance(error, torch.OutOfMemoryError)


def test_a_cancel_passes_as_it_is(pack, sd):
    cancel = comfy.model_management.InterruptProcessingException()
    model = tiny.CallCounter(1, cancel).on(sd)
    with pytest.raises(comfy.model_management.InterruptProcessingException) as raised:
        pack.run("BIVDiffFrameSampler", **make_inputs("BIVDiffFrameSampler", model, tiny.make_latent(*LATENT)))
    assert raised.value is cancel

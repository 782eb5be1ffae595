"""Frames in chunks give the same result as the whole batch, with any per-frame inputs, also after errors.

The oracle is ComfyUI's sampling of all frames at once, without context windows.
"""

import logging

import comfy.context_windows
import comfy.controlnet
import comfy.model_management
import comfy.samplers
import folder_paths
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.fake_advanced_controlnet import SelfSlicingControlNet
from fixtures.frame_scenarios import (
    ACTIVE_RANGE,
    CORE_WINDOWS,
    FRAME_COUNT,
    KSAMPLER,
    LATENT,
    NEUTRAL_PATCHES,
    SCENARIOS,
    add_image_prompts,
    chain_of_two,
    control_net,
    make_controlled_prompts,
    make_empty_latent,
    make_prompts,
    plain,
    random,
    sample_with_patch,
)
from fixtures.gaussian_mixture import assert_near, rms
from torch import Tensor

from bivdiff_core.host.memory import estimate_max_frames

pytestmark = pytest.mark.floats

CHUNKS = (1, 2, 3, 5)
CONDITIONED = [name for name in SCENARIOS if name not in ("plain", "noise_mask")]


def weight_dtype(model) -> torch.dtype:
    return next(model.model.diffusion_model.parameters()).dtype


def assert_same(a: Tensor, b: Tensor, computed: torch.dtype = torch.float64) -> None:
    """Assert equality up to rounding.

    Args:
        computed: precision of the network. In float64 the summation order of kernels is not visible in the result.
            ComfyUI's transformers compute in float32 only, and these enlarge a rounding up to 35 times.
    """
    assert_near(a, b, 1e-6 if computed == torch.float64 else 2e-5)


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request, pack):
    """A scenario and ComfyUI's result for all frames at once."""
    model, positive, negative, latent = SCENARIOS[request.param](pack, flip=False)
    inputs = {"positive": positive, "negative": negative, "latent_image": latent}
    (whole,) = pack.run("KSampler", model=model, **inputs, **KSAMPLER)
    return request.param, model, inputs, whole["samples"]


def test_per_frame_inputs_have_an_effect(pack, scenario):
    """Reversed per-frame inputs change the result, so the tests below can detect a wrong slice."""
    name, _, _, whole = scenario
    model, positive, negative, latent = SCENARIOS[name](pack, flip=True)
    (flipped,) = pack.run(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **KSAMPLER
    )
    changed = [rms(a - b) > 5e-3 * rms(b) for a, b in zip(flipped["samples"], whole, strict=True)]
    assert sum(changed) >= FRAME_COUNT - 1  # the middle frame keeps its input


@pytest.mark.parametrize("control", [tiny.control_net, tiny.t2i_adapter])
def test_a_controls_range_has_an_effect(pack, control):
    """A later end percent changes the result, so the tests below can detect a lost range."""
    ends = []
    for end in (ACTIVE_RANGE[1], 1.0):
        positive, negative = make_controlled_prompts(pack, make_prompts(), control(), 1, False, ACTIVE_RANGE[0], end)
        inputs = {"positive": positive, "negative": negative, "latent_image": make_empty_latent()}
        ends.append(pack.run("KSampler", model=tiny.sd_model(), **inputs, **KSAMPLER)[0]["samples"])
    assert rms(ends[0] - ends[1]) > 1e-3 * rms(ends[0])


@pytest.mark.parametrize("frames_per_batch", CHUNKS)
def test_core_ksampler_on_a_frame_chunks_model(pack, scenario, frames_per_batch):
    _, model, inputs, whole = scenario
    calls = tiny.CallCounter()
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=frames_per_batch)
    (out,) = pack.run("KSampler", model=chunked, **inputs, **KSAMPLER)
    assert_same(out["samples"], whole, weight_dtype(model))
    assert max(calls.rows) <= 2 * frames_per_batch * (2 if len(inputs["positive"]) > 1 else 1)


@pytest.mark.parametrize("frames_per_batch", [0, *CHUNKS])
def test_frame_sampler(pack, scenario, frames_per_batch):
    """The noise does not depend on the chunks either, including the ancestral sampler's."""
    _, model, inputs, whole = scenario
    (out,) = pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=frames_per_batch, **inputs, **KSAMPLER)
    assert_same(out["samples"], whole, weight_dtype(model))


@pytest.mark.parametrize("name", CONDITIONED)
def test_image_inversion(pack, name):
    model, positive, _, latent = SCENARIOS[name](pack, flip=False)
    clean = tiny.make_latent(*latent["samples"].shape)
    inputs = {
        "latent": clean,
        "steps": 4,
        "scheduler": "normal",
    }  # the last slope is evaluated at t = 666, inside ACTIVE_RANGE
    _, flipped, _, _ = SCENARIOS[name](pack, flip=True)

    def invert(conditioning: list, frames_per_batch: int) -> Tensor:
        (out,) = pack.run(
            "BIVDiffInvertImage", model=model, conditioning=conditioning, frames_per_batch=frames_per_batch,
            **inputs,
        )  # fmt: skip
        return out["samples"]

    whole = invert(positive, FRAME_COUNT)
    assert rms(invert(flipped, FRAME_COUNT) - whole) > 1e-3 * rms(whole)
    for frames_per_batch in CHUNKS[:-1]:
        assert_same(invert(positive, frames_per_batch), whole, weight_dtype(model))


def test_frames_of_a_3d_image_model(pack):
    """An empty batch of images becomes independent one-frame clips for a video-latent model."""
    model, inputs = (
        tiny.wan_model(),
        {"positive": make_prompts()[0], "negative": make_prompts()[1], "latent_image": make_empty_latent()},
    )
    inputs |= {**KSAMPLER, "sampler_name": "euler", "scheduler": "simple"}
    whole, chunked = (
        pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=n, **inputs)[0]["samples"]
        for n in (FRAME_COUNT, 2)
    )
    assert whole.shape == (FRAME_COUNT, 16, 1, 8, 8)
    assert_same(chunked, whole, torch.float32)
    (core,) = pack.run("KSampler", model=model, **inputs)
    assert_same(whole, core["samples"], torch.float32)


@pytest.mark.parametrize("frames_per_batch", CHUNKS)
def test_instruct_pix2pix_through_dual_cfg(pack, frames_per_batch):
    """Three conds a step, with the source frames as additional input channels."""
    image = {"concat_latent_image": 10 * random(*LATENT, seed=1)}
    model = tiny.sd_model(in_channels=8)

    def sample(model) -> Tensor:
        (guider,) = pack.run(
            "DualCFGGuider", model=model, cond1=tiny.text(seed=1, **image), cond2=tiny.text(seed=2, **image),
            negative=tiny.text(seed=2), cfg_conds=5.0, cfg_cond2_negative=1.5, style="regular",
        )  # fmt: skip
        (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
        (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")
        (sigmas,) = pack.run("BasicScheduler", model=model, scheduler="normal", steps=4, denoise=1.0)
        out, _ = pack.run(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=make_empty_latent(),
        )
        return out["samples"]

    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=frames_per_batch)
    assert_same(sample(chunked), sample(model))


# Other packs that slice their inputs themselves


@pytest.mark.parametrize("frames_per_batch", [1, 2])
def test_image_prompts_follow_their_frames(pack, frames_per_batch):
    inputs = dict(zip(("model", "positive", "negative", "latent_image"), plain(pack, False), strict=True))
    model = inputs.pop("model")
    whole, flipped = (
        pack.run("KSampler", model=add_image_prompts(model, flip), **inputs, **KSAMPLER)[0]["samples"]
        for flip in (False, True)
    )
    assert rms(flipped - whole) > 5e-3 * rms(whole)
    (chunked,) = pack.run("BIVDiffFrameChunks", model=add_image_prompts(model), frames_per_batch=frames_per_batch)
    assert_same(pack.run("KSampler", model=chunked, **inputs, **KSAMPLER)[0]["samples"], whole)


def test_hints_for_some_frames_only(pack):
    """A control that slices its own hints may have fewer hints than frames."""
    control = tiny.control_net(1)
    control.__class__ = SelfSlicingControlNet
    hints = random(FRAME_COUNT, 64, 64, 3, seed=1)
    hints[2:] = hints[1]
    chunked = []
    for n, inputs in ((FRAME_COUNT, hints), (2, hints[:2])):
        positive, negative = pack.run(
            "ControlNetApplyAdvanced", positive=make_prompts()[0], negative=make_prompts()[1], control_net=control,
            image=inputs, strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        (out,) = pack.run(
            "BIVDiffFrameSampler", model=tiny.sd_model(), positive=positive, negative=negative,
            latent_image=make_empty_latent(), frames_per_batch=n, **KSAMPLER,
        )  # fmt: skip
        chunked.append(out["samples"])
    assert_same(*chunked)


# Patches of other nodes

CACHE = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}


@pytest.mark.parametrize("patch", NEUTRAL_PATCHES)
def test_patches_of_core_do_not_depend_on_the_chunks(pack, patch):
    model = tiny.sd_model()
    whole, *chunked = (sample_with_patch(pack, model, patch, NEUTRAL_PATCHES[patch], n) for n in (FRAME_COUNT, 3, 1))
    assert rms(whole - sample_with_patch(pack, model, None, {}, FRAME_COUNT)) > 1e-3 * rms(whole)
    for out in chunked:
        assert_same(out, whole)


def test_a_step_cache_is_switched_off_in_chunks_with_a_warning(pack, caplog):
    """It would compare different chunks. With a single chunk it works."""
    model = tiny.sd_model()
    plain = sample_with_patch(pack, model, None, {}, FRAME_COUNT)
    assert rms(sample_with_patch(pack, model, "EasyCache", CACHE, FRAME_COUNT) - plain) > 1e-3 * rms(plain)
    for n in (3, 1):
        with caplog.at_level(logging.WARNING):
            assert_same(sample_with_patch(pack, model, "EasyCache", CACHE, n), plain)
        assert "EasyCache is switched off" in caplog.text
        caplog.clear()


def test_self_attention_guidance_needs_all_frames_in_one_call(pack):
    model, settings = tiny.sd_model(), {"scale": 0.5, "blur_sigma": 2.0}
    assert sample_with_patch(pack, model, "SelfAttentionGuidance", settings, FRAME_COUNT).isfinite().all()
    with pytest.raises(ValueError, match="Self-Attention Guidance uses only .* Set frames_per_batch"):
        sample_with_patch(pack, model, "SelfAttentionGuidance", settings, 3)


def test_repeated_inversions_with_tome_are_equal(pack):
    """ToMe uses the global random generator."""
    (patched,) = pack.run("TomePatchModel", model=tiny.sd_model(), ratio=0.5)
    inputs = {"model": patched, "conditioning": tiny.text(), "latent": tiny.make_latent(*LATENT), "steps": 4}
    first, second = (pack.run("BIVDiffInvertImage", **inputs)[0]["samples"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.fixture
def hypernetwork(tmp_path):
    """File name of a hypernetwork that changes the self-attention of `tiny.sd_model`."""
    generator = torch.Generator().manual_seed(1)
    keys, values = (
        {"linear.0.weight": torch.randn(32, 32, generator=generator) / 32**0.5, "linear.0.bias": torch.zeros(32)}
        for _ in range(2)
    )
    file = tmp_path / "tiny.pt"
    torch.save({32: (keys, values)}, file)
    folder_paths.add_model_folder_path("hypernetworks", str(tmp_path))
    yield file.name
    folder_paths.folder_names_and_paths["hypernetworks"][0].remove(str(tmp_path))


@pytest.mark.parametrize("frames_per_batch", [3, 1])
def test_a_patch_may_be_an_object(pack, hypernetwork, frames_per_batch):
    """Load Hypernetwork adds one. Like core's other patches it does not depend on the chunks."""
    model, settings = tiny.sd_model(), {"hypernetwork_name": hypernetwork, "strength": 1.0}
    whole = sample_with_patch(pack, model, "HypernetworkLoader", settings, FRAME_COUNT)
    assert rms(whole - sample_with_patch(pack, model, None, {}, FRAME_COUNT)) > 1e-3 * rms(whole)
    # The hypernetwork's own layers compute in float32.
    assert_same(sample_with_patch(pack, model, "HypernetworkLoader", settings, frames_per_batch), whole, torch.float32)
    (loaded,) = pack.run("HypernetworkLoader", model=model, **settings)
    inputs = {"conditioning": tiny.text(), "latent": tiny.make_latent(*LATENT), "steps": 4, "scheduler": "normal"}
    inverted, chunked = (
        pack.run("BIVDiffInvertImage", model=loaded, frames_per_batch=n, **inputs)[0]["samples"]
        for n in (FRAME_COUNT, frames_per_batch)
    )
    assert_same(chunked, inverted, torch.float32)


FLUX_2 = {"global_modulation": True, "guidance_embed": False, "vec_in_dim": None}
"""The differences between Flux.2's and Flux.1's transformers that Flux KV Cache checks."""


def test_flux_kv_cache_raises_a_warning_in_chunks(pack, caplog):
    """It would use the first chunk's reference latents for all chunks."""
    _, positive, negative, latent = SCENARIOS["reference_latents"](pack, flip=False)
    (caching,) = pack.run("FluxKVCache", model=tiny.flux_model(**FLUX_2))
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    for n, warned in ((FRAME_COUNT, False), (1, True)):
        caplog.clear()
        (out,) = pack.run("BIVDiffFrameSampler", model=caching, frames_per_batch=n, **inputs)
        assert out["samples"].isfinite().all()
        assert ("Flux KV Cache uses the first call's reference latents" in caplog.text) == warned


# Windows of a video model


@pytest.mark.parametrize("name", CONDITIONED)
def test_overlapping_windows_on_independent_frames(pack, name):
    """On a model without temporal layers, overlapping windows give the result of the whole clip."""
    model, positive, negative, latent = SCENARIOS[name](pack, flip=False)
    model = tiny.as_video_model(model)
    z = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(9))
    inputs = {"positive": positive, "negative": negative, "latent": {"samples": z}, "steps": 3, "cfg": 3.0}
    inputs["scheduler"] = "normal"
    whole, windowed = (
        pack.run("BIVDiffTemporalSmoother", model=model, context_length=n, context_overlap=1, **inputs)[0]
        for n in (0, 3)
    )
    assert_same(windowed["samples"], whole["samples"], weight_dtype(model))


def test_frames_of_a_window_affect_each_other(pack):
    """A change of the last frame changes all frames of its window and no others."""
    model, text, latent = tiny.video_model(pack), tiny.text(), tiny.make_latent(*LATENT)
    # A single step, with one model call: in a second one, changes would spread through the overlap.
    inputs = {"model": model, "conditioning": text, "steps": 1, "strength": 0.01, "solver": "ddim"}
    other = {"samples": torch.cat([latent["samples"][:-1], tiny.make_latent(1, 4, 8, 8, seed=99)["samples"]])}

    def changed_frames(length: int, overlap: int) -> list[bool]:
        a, b = (
            pack.run("BIVDiffInvertVideo", latent=frames, context_length=length, context_overlap=overlap, **inputs)[0][
                "samples"
            ]
            for frames in (latent, other)
        )
        return [not torch.equal(x, y) for x, y in zip(a, b, strict=True)]

    assert changed_frames(0, 0) == changed_frames(FRAME_COUNT, 1) == [True] * FRAME_COUNT
    assert changed_frames(3, 1) == [False, False, True, True, True]  # windows 0-2 and 2-4


# Out of memory, errors, cancel


def chain_hints(conds: list) -> list[Tensor]:
    """The hint of every control in the chain."""
    found, control = [], conds[0][1]["control"]
    while control is not None:
        found.append(control.cond_hint_original)
        control = control.previous_controlnet
    return found


def prepare_chunked_run(pack, calls: tiny.CallCounter, frames_per_batch: int):
    """KSampler's inputs for a chunked MODEL with two controls, the controls' hints, and the result without chunks."""
    model, positive, negative, latent = chain_of_two(pack, flip=False)
    (whole,) = pack.run("KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **KSAMPLER)
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=frames_per_batch)
    inputs = {"model": chunked, "positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    return inputs, chain_hints(positive), whole["samples"]


@pytest.mark.parametrize(("frames_per_batch", "fail_at"), [(5, 1), (4, 2), (4, 3)])
def test_a_chunk_that_does_not_fit_is_halved(pack, caplog, frames_per_batch, fail_at):
    """The step restarts with half as many frames, the run keeps that size, and the result is the same."""
    calls = tiny.CallCounter(fail_at, torch.OutOfMemoryError("CUDA out of memory."))
    inputs, before, whole = prepare_chunked_run(pack, calls, frames_per_batch)
    with caplog.at_level(logging.WARNING):
        (out,) = pack.run("KSampler", **inputs)
    assert_same(out["samples"], whole)
    assert max(calls.rows[fail_at:]) <= 2 * (frames_per_batch // 2) < max(calls.rows)
    assert "2 frames at a time" in caplog.text
    assert all(a is b for a, b in zip(chain_hints(inputs["positive"]), before, strict=True))


def test_one_frame_that_does_not_fit_is_an_error(pack):
    """Chunks of 5, 2 and 1 frames are tried, then the error is raised."""

    class Full(tiny.CallCounter):
        def __call__(self, apply_model, args):
            self.rows.append(len(args["input"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    calls = Full()
    inputs, before, _ = prepare_chunked_run(pack, calls, 5)
    with pytest.raises(torch.OutOfMemoryError):
        pack.run("KSampler", **inputs)
    assert min(calls.rows) <= 2 and len(calls.rows) == 3
    assert all(a is b for a, b in zip(chain_hints(inputs["positive"]), before, strict=True))


def test_other_errors_are_raised_and_the_hints_restored(pack):
    inputs, before, whole = prepare_chunked_run(pack, tiny.CallCounter(4, RuntimeError("broken layer")), 2)
    with pytest.raises(RuntimeError, match="broken layer"):
        pack.run("KSampler", **inputs)
    assert all(a is b for a, b in zip(chain_hints(inputs["positive"]), before, strict=True))
    (again,) = pack.run("KSampler", **inputs)
    assert_same(again["samples"], whole)


def test_cancelling_stops_before_the_next_call_and_restores_the_hints(pack):
    class Cancelled(tiny.CallCounter):
        def __call__(self, apply_model, args):
            if len(self.rows) == 3:
                comfy.model_management.interrupt_current_processing()
            return super().__call__(apply_model, args)

    calls = Cancelled()
    inputs, before, whole = prepare_chunked_run(pack, calls, 2)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        pack.run("KSampler", **inputs)
    assert len(calls.rows) == 4
    assert all(a is b for a, b in zip(chain_hints(inputs["positive"]), before, strict=True))
    (again,) = pack.run("KSampler", **inputs)
    assert_same(again["samples"], whole)


def test_the_input_models_options_are_unchanged(pack):
    """The node patches a clone. A halved chunk size lasts until the end of the run."""
    model, positive, negative, latent = plain(pack, flip=False)
    pack.run(
        "BIVDiffFrameSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert "context_handler" not in model.model_options
    calls = tiny.CallCounter(1, torch.OutOfMemoryError("CUDA out of memory."))
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=4)
    inputs = {"model": chunked, "positive": positive, "negative": negative, "latent_image": latent}
    pack.run("KSampler", **inputs, **KSAMPLER)
    done = len(calls.rows)
    pack.run("KSampler", **inputs, **KSAMPLER)
    assert max(calls.rows[1:done]) == 4 and max(calls.rows[done:]) == 8


def test_a_hint_is_encoded_once_for_each_chunk(pack):
    """Not in every step: the adapter's features are cached."""
    control = tiny.t2i_adapter()
    encodings = []
    control.t2i_model.register_forward_hook(lambda module, args, out: encodings.append(len(args[0])))
    positive, negative = make_controlled_prompts(pack, make_prompts(), control, 1, False, 0.0, 1.0)
    pack.run(
        "BIVDiffFrameSampler", model=tiny.sd_model(), positive=positive, negative=negative,
        latent_image=make_empty_latent(), frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert len(encodings) == 3


@tiny.needs_multigpu
def test_clones_of_a_control_for_other_devices_get_the_same_frames(pack):
    """ComfyUI runs a chunk's conds on several devices, each with a clone of the control."""
    model, positive, negative, latent = control_net(pack, flip=False)
    control = positive[0][1]["control"]
    clone = control.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    seen = []

    class Recorder(tiny.CallCounter):
        def __call__(self, apply_model, args):
            seen.append((clone.cond_hint_original, control.cond_hint_original))
            return super().__call__(apply_model, args)

    (chunked,) = pack.run("BIVDiffFrameChunks", model=Recorder().on(model), frames_per_batch=2)
    whole = clone.cond_hint_original
    pack.run("KSampler", model=chunked, positive=positive, negative=negative, latent_image=latent, **KSAMPLER)
    assert {len(hint) for hint, _ in seen} == {2, 1}
    assert all(torch.equal(a, b) for a, b in seen)
    assert clone.cond_hint_original is whole


# Memory


def set_free_memory(monkeypatch, memory: float) -> None:
    """Let ComfyUI report this many free bytes."""
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (memory, memory) if torch_free_too else memory,
    )


def frame_memory(model) -> float:
    """Bytes that ComfyUI keeps free for a call with one frame's cond and uncond."""
    return 1.5 * model.model.memory_required([2, *LATENT[1:]])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_chunks_fill_the_memory_that_is_free(pack, monkeypatch, frames):
    """frames_per_batch 0 uses as many frames as fit beside the weights, which are not loaded yet."""
    model, positive, negative, latent = plain(pack, flip=False)
    set_free_memory(monkeypatch, model.model_size() + (frames + 0.5) * frame_memory(model))
    calls = tiny.CallCounter()
    pack.run(
        "BIVDiffFrameSampler", model=calls.on(model), positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=0, **KSAMPLER,
    )  # fmt: skip
    assert max(calls.rows) == 2 * frames
    assert len(calls.rows) == -(-FRAME_COUNT // frames) * KSAMPLER["steps"]


def test_a_controls_weights_reduce_the_chunks(pack, monkeypatch):
    model, positive, negative, latent = control_net(pack, flip=False)
    set_free_memory(monkeypatch, model.model_size() + 3.5 * frame_memory(model))
    calls = tiny.CallCounter()
    inputs = {"model": calls.on(model), "latent_image": latent, "frames_per_batch": 0, **KSAMPLER}
    pack.run("BIVDiffFrameSampler", positive=positive, negative=negative, **inputs)
    assert max(calls.rows) < 2 * 3


@pytest.mark.parametrize(("device", "fit"), [(torch.device("cpu", 1), 4), (torch.device("cpu"), 1)], ids=str)
def test_models_that_comfyui_can_unload_count_as_free_memory(pack, monkeypatch, device, fit):
    """Other models on the device count, the run's models do not. ComfyUI unloads nothing from CPU memory."""
    model, positive, negative, latent = plain(pack, flip=False)
    model, other = model.clone(), tiny.sd_model()
    model.load_device = other.load_device = device
    frame = frame_memory(model)
    set_free_memory(monkeypatch, 1.5 * frame)
    monkeypatch.setattr(model, "loaded_size", model.model_size)
    monkeypatch.setattr(other, "loaded_size", lambda: 3 * frame)
    loaded = [comfy.model_management.LoadedModel(patcher) for patcher in (model, other)]
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", loaded)
    conds = {"positive": [], "negative": []}
    assert estimate_max_frames(model, latent["samples"].shape, conds) == fit


# Context windows of the MODEL


class OtherPackHandler(comfy.context_windows.ContextHandlerABC):
    """Context windows of another pack; this handler runs the whole clip at once."""

    used = 0
    dim = 0
    context_length = 16

    def should_use_context(self, *args) -> bool:
        return True

    def get_resized_cond(self, *args):
        raise NotImplementedError

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        self.used += 1
        return calc_cond_batch(model, conds, x_in, timestep, model_options)


def test_other_packs_windows_are_kept_with_a_warning(pack, caplog):
    model, positive, negative, latent = plain(pack, flip=False)
    model = model.clone()
    model.model_options["context_handler"] = handler = OtherPackHandler()
    with caplog.at_level(logging.WARNING):
        (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=2)
    assert chunked.model_options["context_handler"] is handler
    assert "OtherPackHandler" in caplog.text
    (out,) = pack.run(
        "BIVDiffFrameSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert handler.used == KSAMPLER["steps"]
    assert torch.isfinite(out["samples"]).all()


def test_core_windows_keep_their_settings(pack):
    """Without control hints, the pack's handler gives bit-equal results to ComfyUI's, which it replaces."""
    model, positive, negative, latent = tiny.video_model(pack), *make_prompts(), make_empty_latent()
    (windowed,) = pack.run("ContextWindowsManual", model=model, **CORE_WINDOWS)
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    (expected,) = pack.run("KSampler", model=windowed, **inputs)
    (whole,) = pack.run("KSampler", model=model, **inputs)
    (replaced,) = pack.run("BIVDiffFrameChunks", model=windowed, frames_per_batch=1)
    (out,) = pack.run("KSampler", model=replaced, **inputs)
    assert torch.equal(out["samples"], expected["samples"])
    assert not torch.equal(out["samples"], whole["samples"])
    handler = replaced.model_options["context_handler"]
    assert (handler.context_length, handler.context_overlap) == (3, 1)
    assert handler.fuse_method.name == "overlap-linear"


@pytest.mark.parametrize("anchored", [False, True] if tiny.HAS_ANCHOR else [False])
def test_core_windows_get_the_right_hints(pack, anchored):
    """ComfyUI gives every window the first frames' hints; the pack gives each window its frames' hints."""
    model, positive, negative, latent = control_net(pack, flip=False)
    anchor = {"causal_window_fix": True} if anchored else {}
    (windowed,) = pack.run("ContextWindowsManual", model=model, **{**CORE_WINDOWS, **anchor})
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    (whole,) = pack.run("KSampler", model=model, **inputs)
    (core,) = pack.run("KSampler", model=windowed, **inputs)
    (out,) = pack.run("BIVDiffFrameSampler", model=windowed, **inputs)
    assert_same(out["samples"], whole["samples"])
    assert rms(core["samples"] - whole["samples"]) > 1e-3 * rms(whole["samples"])


@pytest.mark.parametrize("context_length", [0, 4])
def test_core_windows_get_the_right_hints_in_the_smoother(pack, context_length):
    """With windows on the MODEL, the node's context_length may be 0."""
    model, positive, negative, _ = control_net(pack, flip=False)
    model = tiny.as_video_model(model)
    (windowed,) = pack.run("ContextWindowsManual", model=model, **CORE_WINDOWS)
    z = torch.randn(LATENT, generator=torch.Generator().manual_seed(9))
    inputs = {"positive": positive, "negative": negative, "latent": {"samples": z}, "steps": 3, "cfg": 3.0}
    (whole,) = pack.run("BIVDiffTemporalSmoother", model=model, **inputs)
    (out,) = pack.run("BIVDiffTemporalSmoother", model=windowed, context_length=context_length, **inputs)
    assert_same(out["samples"], whole["samples"])


# Noise


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
@pytest.mark.parametrize("frames_per_batch", [1, 2])
def test_frame_noise_does_not_depend_on_chunks(pack, mode, frames_per_batch):
    model, positive, negative, latent = tiny.sd_model(), *make_prompts(), make_empty_latent()
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, "frame_noise": mode, **KSAMPLER}
    inputs["sampler_name"] = "euler"
    whole, chunked = (
        pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=n, **inputs)[0]["samples"]
        for n in (FRAME_COUNT, frames_per_batch)
    )
    assert_same(chunked, whole)
    alike = [torch.allclose(frame, whole[0], rtol=1e-3, atol=1e-3 * rms(whole)) for frame in whole[1:]]
    assert all(alike) if mode == "shared" else not any(alike)


def test_frame_noise_is_comfyuis_noise(pack):
    """Mode "independent" equals RandomNoise, also with a batch_index; mode "shared" gives its first frame."""
    latent = {**make_empty_latent(), "batch_index": [7, 8, 9, 10, 11]}
    (independent,) = pack.run("BIVDiffFrameNoise", seed=5, mode="independent")
    (core,) = pack.run("RandomNoise", noise_seed=5)
    assert torch.equal(independent.generate_noise(latent), core.generate_noise(latent))
    (shared,) = pack.run("BIVDiffFrameNoise", seed=5, mode="shared")
    noise = shared.generate_noise(latent)
    assert all(torch.equal(frame, noise[0]) for frame in noise)
    assert torch.equal(noise[0], core.generate_noise(make_empty_latent())[0])


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_a_frames_noise_depends_on_its_index_in_the_clip(pack, mode):
    """Frames from Latent From Batch, also applied twice, get the same noise as in the whole clip."""
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    whole = noise.generate_noise(make_empty_latent())
    (part,) = pack.run("LatentFromBatch", samples=make_empty_latent(), batch_index=2, length=3)
    assert torch.equal(noise.generate_noise(part), whole[2:])
    (last,) = pack.run("LatentFromBatch", samples=part, batch_index=2, length=1)
    assert torch.equal(noise.generate_noise(last), whole[4:])


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_frames_of_one_seed_are_alike_and_of_unit_variance(pack, mode):
    """With Latent Batch Seed Behavior "fixed", all frames have the same index."""
    large = {"samples": torch.zeros(8, 4, 32, 32)}
    (fixed,) = pack.run("LatentBatchSeedBehavior", samples=large, seed_behavior="fixed")
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    generated = noise.generate_noise(fixed)
    assert all(torch.equal(frame, generated[0]) for frame in generated)
    assert generated.std(dim=(1, 2, 3)).tolist() == pytest.approx([1] * 8, abs=0.05)


@pytest.mark.parametrize(
    "index",
    [[0, 1, 2, 3, -1], [0, 1, 2], list(range(7)), [0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3, 4.5], [], "01234"],
    ids=["negative", "shorter", "longer", "floats", "half", "empty", "text"],
)
@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_a_batch_index_that_does_not_fit_the_frames_is_refused(pack, mode, index):
    calls, latent = tiny.CallCounter(), {**make_empty_latent(), "batch_index": index}
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    with pytest.raises(ValueError, match="^Frame Noise: the latent's batch_index is .* expected 5 whole numbers"):
        noise.generate_noise(latent)
    inputs = {"positive": make_prompts()[0], "negative": make_prompts()[1], "latent_image": latent, **KSAMPLER}
    with pytest.raises(ValueError, match="^Frame-wise Image Sampler: the latent's batch_index is"):
        pack.run("BIVDiffFrameSampler", model=calls.on(tiny.sd_model()), frame_noise=mode, **inputs)
    assert calls.rows == []


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_a_batch_index_may_be_a_tensor(pack, mode):
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    as_list = noise.generate_noise({**make_empty_latent(), "batch_index": [4, 3, 2, 1, 0]})
    as_tensor = noise.generate_noise({**make_empty_latent(), "batch_index": torch.arange(5).flip(0)})
    assert torch.equal(as_tensor, as_list)

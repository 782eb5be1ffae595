"""Context windows distributed over the devices of core's MultiGPU CFG Split.

Two fake devices, cpu and cpu:1, are two names for the CPU. Results must be bit-equal to one device: each device
computes whole windows with the same calls as one device, and the windows are summed in order.
"""

import copy
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import pytest
import torch
from fixtures import frame_scenarios
from fixtures import tiny_models as tiny
from fixtures.fake_animatediff import apply_evolved_sampling
from fixtures.gaussian_mixture import assert_near
from fixtures.node_calls import make_keyframed_text
from torch import Tensor

from bivdiff_core.host.compat.comfyui_internals import drain_workers
from bivdiff_core.host.memory import estimate_max_frames

pytestmark = tiny.needs_multigpu

FRAMES = 6
DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]
KSAMPLER = {"seed": 3, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TIMEOUT_SECONDS = 30
"""Seconds that a device waits for another one before the test fails."""


class CallRecorder:
    """Records the device and rows of every call of a MODEL, and runs `happens` in each."""

    def __init__(self, happens: Callable[[torch.device, int], None] = lambda device, rows: None):
        self.made: list[tuple[torch.device | None, int]] = []
        self.happens = happens

    def on(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(self)
        return model

    def __call__(self, apply_model, args: dict) -> Tensor:
        device, rows = args["c"]["transformer_options"].get("multigpu_thread_device"), len(args["input"])
        self.made.append((device, rows))
        self.happens(device, rows)
        return apply_model(args["input"], args["timestep"], **args["c"])

    @property
    def by_device(self) -> Counter:
        return Counter(device for device, _ in self.made)


def raise_out_of_memory(on: torch.device, fit: int) -> Callable[[torch.device, int], None]:
    """A function that raises an out-of-memory error for more than `fit` rows on a device."""

    def happens(device, rows):
        if device == on and rows > fit:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return happens


def make_model_factory(network) -> Callable:
    """A function with which core creates another MODEL with a copy of a network and its current weights."""
    kept = {id(thing): thing for thing in (network.model_config, network.current_patcher)}
    network = copy.deepcopy(network, kept)
    return lambda disable_dynamic=False: comfy.model_patcher.CoreModelPatcher(network, DEVICES[0], DEVICES[0])


@pytest.fixture
def split(pack, monkeypatch):
    """A function that puts a MODEL on both devices with core's node."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES)

    def split(model):
        loaded = comfy.model_management.current_loaded_models
        loaded[:] = [entry for entry in loaded if entry.model is not None]  # core's node fails on deleted models
        if model.cached_patcher_init is None:
            model.cached_patcher_init = (make_model_factory(model.model), ())
        return pack.run("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]

    return split


@pytest.fixture(scope="module")
def controlled(pack) -> tuple:
    """The demo image model, and prompts with its ControlNet."""
    models = pack.run("BIVDiffDemoModels", variant="base")
    positive, negative = (pack.run("CLIPTextEncode", clip=models[2], text=t)[0] for t in ("a yellow sailboat", ""))
    prompts = pack.run(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=models[4],
        image=frame_scenarios.random(FRAMES, 64, 64, 3, seed=1).round(), strength=1.0, start_percent=0.0,
        end_percent=1.0,
    )  # fmt: skip
    return models[0], *prompts


def sample(pack, model, positive: list, negative: list, frames_per_batch: int) -> Tensor:
    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=frames_per_batch)
    latent = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    return pack.run("KSampler", model=chunked, **inputs)[0]["samples"]


def assert_same_on_both_devices(make: Callable, model, split) -> CallRecorder:
    """Assert that a result is bit-equal on one device and on both; return the calls on both."""
    calls = CallRecorder()
    on_both = split(calls.on(model))
    assert torch.equal(make(on_both), make(model))
    return calls


# The same as on one device


@pytest.mark.parametrize("name", frame_scenarios.SCENARIOS)
def test_per_frame_inputs_go_to_the_frames_device(pack, split, name):
    model, positive, negative, latent = frame_scenarios.SCENARIOS[name](pack, flip=False)
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **frame_scenarios.KSAMPLER}

    def make(model) -> Tensor:
        return pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=2, **inputs)[0]["samples"]

    calls = assert_same_on_both_devices(make, model, split)
    if name in ("self_slicing_before_control_net", "inherited_mask"):
        assert set(calls.by_device) == {None}
    else:
        assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("solver", ["ddim", "fixed_point"])
def test_image_inversion(pack, split, solver):
    inputs = {"conditioning": tiny.text(), "latent": tiny.make_latent(FRAMES, 4, 8, 8), "steps": 4, "solver": solver}
    calls = assert_same_on_both_devices(
        lambda model: pack.run("BIVDiffInvertImage", model=model, frames_per_batch=2, **inputs)[0]["samples"],
        tiny.sd_model(), split,
    )  # fmt: skip
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("kind", ["UNet3D", "VidRD", "Wan"])
def test_windows_of_a_video_model(pack, split, kind):
    """In inversion and smoothing. The windows overlap, so a different order of summation would change the bits."""
    models = {"UNet3D": tiny.video_model, "VidRD": tiny.vidrd_model, "Wan": lambda pack: tiny.wan_model()}
    clip = tiny.make_latent(*((1, 16, 9, 8, 8) if kind == "Wan" else (9, 4, 8, 8)))
    noise = torch.randn(clip["samples"].shape, generator=torch.Generator().manual_seed(1))
    inputs = {"context_length": 4, "context_overlap": 2, "steps": 3, "scheduler": "ddim_uniform"}
    if kind == "Wan":
        inputs |= {"context_length": 13, "context_overlap": 8, "scheduler": "simple"}

    def invert(model) -> Tensor:
        (out,) = pack.run("BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent=clip, **inputs)
        return out["samples"]

    def smooth(model) -> Tensor:
        texts = {"positive": tiny.text(), "negative": tiny.text(seed=9), "cfg": 2.0}
        (out,) = pack.run("BIVDiffTemporalSmoother", model=model, latent={"samples": noise}, **texts, **inputs)
        return out["samples"]

    for make in (invert, smooth):
        assert set(assert_same_on_both_devices(make, models[kind](pack), split).by_device) == set(DEVICES)


def test_core_windows(pack, split):
    """Windows of ComfyUI's Context Windows node."""
    model, positive, negative, latent = frame_scenarios.control_net(pack, flip=False)
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}

    def make(model) -> Tensor:
        (windowed,) = pack.run("ContextWindowsManual", model=model, **frame_scenarios.CORE_WINDOWS)
        return pack.run("BIVDiffFrameSampler", model=windowed, **inputs)[0]["samples"]

    assert set(assert_same_on_both_devices(make, model, split).by_device) == set(DEVICES)


@pytest.mark.parametrize("patch", frame_scenarios.NEUTRAL_PATCHES)
def test_patches_of_core(pack, split, patch):
    def make(model) -> Tensor:
        return frame_scenarios.sample_with_patch(pack, model, patch, frame_scenarios.NEUTRAL_PATCHES[patch], 2)

    assert set(assert_same_on_both_devices(make, tiny.sd_model(), split).by_device) == set(DEVICES)


def test_image_prompts_of_other_packs(pack, split):
    given = dict(
        zip(("model", "positive", "negative", "latent_image"), frame_scenarios.plain(pack, False), strict=True)
    )
    model = given.pop("model")

    def make(model) -> Tensor:
        inputs = {"model": frame_scenarios.add_image_prompts(model), "frames_per_batch": 2, **given, **KSAMPLER}
        return pack.run("BIVDiffFrameSampler", **inputs)[0]["samples"]

    assert set(assert_same_on_both_devices(make, model, split).by_device) == set(DEVICES)


def test_bridge_guider(pack, split):
    texts = {f"{of}_{kind}": tiny.text(seed=1) for of in ("image", "video") for kind in ("positive", "negative")}
    video = tiny.video_model(pack)
    (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")

    def make(model) -> Tensor:
        models = {"image_model": model, "video_model": video}
        (guider,) = pack.run("BIVDiffBridgeGuider", **models, **texts, frames_per_batch=1)
        (sigmas,) = pack.run("BasicScheduler", model=model, scheduler="normal", steps=3, denoise=1.0)
        inputs = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        empty = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
        return pack.run("SamplerCustomAdvanced", **inputs, latent_image=empty)[0]["samples"]

    assert set(assert_same_on_both_devices(make, tiny.sd_model(), split).by_device) == set(DEVICES)


def test_borrowed_control(pack, split):
    video, noise = tiny.video_model(pack), pack.run("BIVDiffFrameNoise", seed=4)[0]
    (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")
    (sigmas,) = pack.run("BasicScheduler", model=video, scheduler="normal", steps=3, denoise=1.0)
    (with_control,) = pack.run(
        "ControlNetApply", conditioning=tiny.text(seed=1), control_net=tiny.control_net(),
        image=frame_scenarios.random(FRAMES, 64, 64, 3, seed=1), strength=1.0,
    )  # fmt: skip

    def make(model) -> Tensor:
        inputs = {"with_control": with_control, "without_control": tiny.text(seed=1), "frames_per_batch": 1}
        (borrowed,) = pack.run("BIVDiffBorrowControl", model=video, image_model=model, **inputs)
        (guider,) = pack.run("BasicGuider", model=borrowed, conditioning=tiny.text(seed=2))
        inputs = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        empty = {"samples": torch.zeros(FRAMES, 4, 8, 8)}
        return pack.run("SamplerCustomAdvanced", **inputs, latent_image=empty)[0]["samples"]

    assert set(assert_same_on_both_devices(make, tiny.sd_model(), split).by_device) == set(DEVICES)


def test_evolved_sampling_of_animatediff(pack, split):
    """Without a motion model, which core cannot copy."""
    inputs = {"conditioning": tiny.text(), "latent": tiny.make_latent(FRAMES, 4, 8, 8), "steps": 3}

    def make(model) -> Tensor:
        evolved = apply_evolved_sampling(model, motion=False)
        return pack.run("BIVDiffInvertImage", model=evolved, frames_per_batch=2, **inputs)[0]["samples"]

    assert set(assert_same_on_both_devices(make, tiny.sd_model(), split).by_device) == set(DEVICES)


@pytest.mark.parametrize(("word", "devices"), [("", set(DEVICES)), ("fish", {None})])
def test_prompt2prompt_runs_a_local_blend_on_one_device(pack, split, caplog, word, devices):
    image, _, clip, *_ = pack.run("BIVDiffDemoModels", variant="base")
    noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    texts = {"source_prompt": "a red fish over a cyan sea", "target_prompt": "a blue fish over a cyan sea"}
    texts |= {"negative_prompt": "", "word_weights": ""}
    inputs = {"clip": clip, "latent": {"samples": noise}, **texts, "steps": 3, "frames_per_batch": 2}

    def make(model) -> Tensor:
        return pack.run("BIVDiffPrompt2Prompt", model=model, local_blend_words=word, **inputs)[0]["samples"]

    with caplog.at_level(logging.WARNING):
        assert set(assert_same_on_both_devices(make, image, split).by_device) == devices
    assert ("A local blend needs the attention of all frames" in caplog.text) is bool(word)


@pytest.mark.parametrize("name", ["hooks on prompts", "ToMe"])
def test_patches_that_depend_on_the_order_run_on_one_device(pack, split, caplog, name):
    model = tiny.sd_model()
    if name == "ToMe":
        (model,) = pack.run("TomePatchModel", model=model, ratio=0.5)

    def make(model) -> Tensor:
        text = make_keyframed_text() if name == "hooks on prompts" else tiny.text()
        inputs = {
            "positive": text,
            "negative": tiny.text(seed=2),
            "latent_image": {"samples": torch.zeros(FRAMES, 4, 8, 8)},
        }
        return pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=2, **inputs, **KSAMPLER)[0]["samples"]

    with caplog.at_level(logging.WARNING):
        assert set(assert_same_on_both_devices(make, model, split).by_device) == {None}
    assert f"run on one GPU, one after another: with {name}" in caplog.text


# Distribution of windows


def test_devices_work_at_the_same_time(pack, controlled, split):
    model, *prompts = controlled
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)
    calls = CallRecorder(lambda device, rows: barrier.wait() if calls.by_device[device] == 1 else None)
    sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("slow", DEVICES, ids=str)
def test_an_idle_device_takes_the_next_window(pack, controlled, split, slow):
    """The slow device computes its first chunk until the other one has computed all others of the step."""
    model, *prompts = controlled
    done = threading.Event()

    def happens(device, rows):
        if device == slow and calls.by_device[slow] == 1:
            assert done.wait(TIMEOUT_SECONDS)
        elif calls.by_device[device] == FRAMES - 1:
            done.set()

    calls = CallRecorder(happens)
    out = sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    first_step = Counter(device for device, _ in calls.made[:FRAMES])
    assert first_step[slow] == 1 and first_step.total() == FRAMES
    assert torch.equal(out, sample(pack, model, *prompts, frames_per_batch=1))


def test_the_device_with_less_memory_limits_the_chunk(controlled, split, monkeypatch):
    model, *_ = controlled
    models = model, split(model)
    copies = [model, *models[1].get_additional_models_with_key("multigpu")]
    frame = 1.5 * model.model.memory_required([2, 4, 8, 8])
    weights = [copy.model_size() - copy.loaded_size() for copy in copies]
    free_memory = {
        copy.load_device: size + n * frame for copy, size, n in zip(copies, weights, (8.5, 2.5), strict=True)
    }
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory.get)
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])
    conds = {"positive": [], "negative": []}
    assert [estimate_max_frames(patcher, (20, 4, 8, 8), conds) for patcher in models] == [8, 2]


def test_with_enough_memory_each_device_has_two_calls(pack, controlled, split):
    model, *prompts = controlled
    calls = CallRecorder()
    sample(pack, split(calls.on(model)), *prompts, frames_per_batch=0)
    conds = 2
    assert Counter(rows for _, rows in calls.made) == {2 * conds: KSAMPLER["steps"] * FRAMES // 2}


def test_progress_counts_the_windows_of_all_devices(pack, split, monkeypatch):
    """In order, and in the node's execution context, by which ComfyUI assigns the progress bar."""
    import comfy_execution.utils as context

    reports = []

    def hook(value, total, preview, node_id=None):
        reports.append((value, total, context.get_executing_context().node_id))

    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    sampling = {"steps": 3, "scheduler": "ddim_uniform", "solver": "ddim"}  # no first step that is divided
    inputs = {"conditioning": tiny.text(), "latent": tiny.make_latent(FRAMES, 4, 8, 8), **sampling}
    with context.CurrentNodeContext("prompt", "node"):
        pack.run("BIVDiffInvertImage", model=split(tiny.sd_model()), frames_per_batch=2, **inputs)
    assert reports == [(i, 9, "node") for i in range(1, 10)]


# Out of memory, errors, cancel


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("frames_per_batch", [3, 2])
def test_running_out_of_memory_halves_the_chunks(pack, controlled, split, device, frames_per_batch):
    """On either device. The other device's results of the failed call are discarded."""
    model, *prompts = controlled
    expected = sample(pack, model, *prompts, frames_per_batch=1)
    happens = raise_out_of_memory(device, fit=2)
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    def both_begin(device, rows):
        if calls.by_device[device] == 1:
            barrier.wait()  # else one device may compute all chunks before the other runs out
        happens(device, rows)

    calls = CallRecorder(both_begin)
    assert torch.equal(sample(pack, split(calls.on(model)), *prompts, frames_per_batch), expected)
    assert {rows for _, rows in calls.made[-FRAMES:]} == {2}
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.floats
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_single_chunk_that_does_not_fit_is_halved_too(pack, controlled, split, device):
    """Core splits a single chunk by its prompts."""
    model, *prompts = controlled
    calls = CallRecorder(raise_out_of_memory(device, fit=FRAMES - 1))
    out = sample(pack, split(calls.on(model)), *prompts, frames_per_batch=FRAMES)
    expected = sample(pack, model, *prompts, frames_per_batch=FRAMES)
    assert_near(out, expected, 2e-5)
    assert calls.made[0][1] == FRAMES and calls.made[-1][1] < FRAMES


def test_memory_of_a_failed_call_is_freed(pack, controlled, split):
    """Before the retry, although the errors' tracebacks refer to each other and to the tensors of their frames."""
    model, *prompts = controlled
    large: list[weakref.ref] = []

    def happens(device, rows):
        if rows > 2:
            tensor = torch.empty(1)
            large.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert not any(ref() is not None for ref in large)

    gc.disable()
    try:
        sample(pack, split(CallRecorder(happens).on(model)), *prompts, frames_per_batch=4)
    finally:
        gc.enable()
    assert large


def test_an_error_that_persists_is_raised_unchanged(pack, controlled, split):
    model, *prompts = controlled
    with pytest.raises(torch.OutOfMemoryError):
        sample(
            pack, split(CallRecorder(raise_out_of_memory(DEVICES[1], fit=0)).on(model)), *prompts, frames_per_batch=2
        )
    assert_healthy(pack, controlled, split)


def assert_healthy(pack, controlled, split) -> None:
    """Assert that after a failed run the hints are restored and the next run is right."""
    model, *prompts = controlled
    control = prompts[0][0][1]["control"]
    assert {len(c.cond_hint_original) for c in (control, *control.multigpu_clones.values())} == {FRAMES}
    assert_same_on_both_devices(lambda model: sample(pack, model, *prompts, frames_per_batch=2), model, split)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_failing_device_ends_the_run_with_its_error(pack, controlled, split, device):
    """Even if the other device runs out of memory, which computes no window after that."""
    model, *prompts = controlled
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    def happens(at, rows):
        barrier.wait()
        raise KeyError("broken layer") if at == device else torch.OutOfMemoryError("CUDA out of memory.")

    calls = CallRecorder(happens)
    with pytest.raises(KeyError, match="broken layer"):
        sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert calls.by_device == dict.fromkeys(DEVICES, 1)
    assert_healthy(pack, controlled, split)


def run_with_timeout(work: Callable) -> BaseException | None:
    """Run a function in a thread and return its exception; fail if it does not finish in time."""
    raised = []

    def run():
        try:
            work()
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    assert raised, "it did not finish in time"
    return raised[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_worker_that_dies_ends_the_run(pack, controlled, split, device):
    """Its thread ends with an exception that the worker does not catch."""
    model, *prompts = controlled

    def happens(at, rows):
        if at == device:
            raise SystemExit

    split_model = split(CallRecorder(happens).on(model))
    error = run_with_timeout(lambda: sample(pack, split_model, *prompts, frames_per_batch=1))
    assert isinstance(error, RuntimeError) and f"worker for {device} " in str(error)
    assert_healthy(pack, controlled, split)


def die() -> None:
    raise SystemExit


def raise_no_device(device: torch.device) -> None:
    raise RuntimeError("no such device")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", ["ended", "without a device"])
def test_waiting_for_a_broken_worker_ends(broken, monkeypatch):
    if broken == "without a device":
        monkeypatch.setattr(comfy.model_management, "set_torch_device", raise_no_device)
    pool = comfy.multigpu.MultiGPUThreadPool(DEVICES[1:])
    if broken == "ended":
        pool.submit(DEVICES[1], die)
    error = run_with_timeout(lambda: drain_workers({"multigpu_thread_pool": pool}))
    assert isinstance(error, RuntimeError) and "worker for cpu:1 " in str(error)
    pool.shutdown()


def test_waiting_discards_the_workers_results():
    pool = comfy.multigpu.MultiGPUThreadPool(DEVICES)
    for device in DEVICES:
        pool.submit(device, time.sleep, 1.5)
    assert run_with_timeout(lambda: drain_workers({"multigpu_thread_pool": pool})) is None
    assert all(results.empty() for results in pool._result_queues.values())
    pool.shutdown()


def test_cancelling_stops_every_device_after_its_call(pack, controlled, split):
    model, *prompts = controlled
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    def happens(device, rows):
        if barrier.wait() == 0:
            comfy.model_management.interrupt_current_processing()

    calls = CallRecorder(happens)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert calls.by_device == dict.fromkeys(DEVICES, 1)
    assert_healthy(pack, controlled, split)

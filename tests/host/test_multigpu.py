"""Windows shared out among the devices that core's MultiGPU CFG Split gives a MODEL.

On two stand-in devices, cpu and cpu:1: one memory, two names. The oracle is one device, to the bit: whole windows go to
the devices, so each is the very call that one device would make, and they are summed in their order.
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

F = 6
DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]
KSAMPLER = {"seed": 3, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
PATIENCE = 30
"""Seconds after which a device that waits for another one gives up, and the test fails."""


class Calls:
    """The device and rows of every call of a MODEL, and what is to happen in one."""

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


def out_of_memory(on: torch.device, fit: int) -> Callable[[torch.device, int], None]:
    """More rows than fit on a device."""

    def happens(device, rows):
        if device == on and rows > fit:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return happens


def twin(network) -> Callable:
    """What makes the MODEL of a tiny network again, for core; its weights as they are now."""
    kept = {id(thing): thing for thing in (network.model_config, network.current_patcher)}
    network = copy.deepcopy(network, kept)
    return lambda disable_dynamic=False: comfy.model_patcher.CoreModelPatcher(network, DEVICES[0], DEVICES[0])


@pytest.fixture
def split(pack, monkeypatch):
    """A MODEL on both devices, through core's node."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES)

    def split(model):
        loaded = comfy.model_management.current_loaded_models
        loaded[:] = [entry for entry in loaded if entry.model is not None]  # core's node fails on one that is gone
        if model.cached_patcher_init is None:
            model.cached_patcher_init = (twin(model.model), ())
        return pack.run("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]

    return split


@pytest.fixture(scope="module")
def controlled(pack) -> tuple:
    """The demo's image model and prompts under its ControlNet."""
    models = pack.run("BIVDiffDemoModels", variant="base")
    positive, negative = (pack.run("CLIPTextEncode", clip=models[2], text=t)[0] for t in ("a blue square", ""))
    prompts = pack.run(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=models[4],
        image=frame_scenarios.random(F, 64, 64, 3, seed=1).round(), strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    return models[0], *prompts


def sample(pack, model, positive: list, negative: list, frames_per_batch: int) -> Tensor:
    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=frames_per_batch)
    latent = {"samples": torch.zeros(F, 4, 8, 8)}
    given = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    return pack.run("KSampler", model=chunked, **given)[0]["samples"]


def same_on_both(make: Callable, model, split) -> Calls:
    """What is made of a MODEL is the same, to the bit, on one device and on both; the calls on both."""
    calls = Calls()
    on_both = split(calls.on(model))
    assert torch.equal(make(on_both), make(model))
    return calls


# The same as on one device


@pytest.mark.parametrize("name", frame_scenarios.SCENARIOS)
def test_what_goes_with_a_frame_goes_to_its_device(pack, split, name):
    model, positive, negative, latent = frame_scenarios.SCENARIOS[name](pack, flip=False)
    given = {"positive": positive, "negative": negative, "latent_image": latent, **frame_scenarios.KSAMPLER}

    def make(model) -> Tensor:
        return pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=2, **given)[0]["samples"]

    calls = same_on_both(make, model, split)
    if name in ("self_slicing_before_control_net", "inherited_mask"):
        assert set(calls.by_device) == {None}
    else:
        assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("solver", ["ddim", "fixed_point"])
def test_image_inversion(pack, split, solver):
    given = {"conditioning": tiny.text(), "latent": tiny.make_latent(F, 4, 8, 8), "steps": 4, "solver": solver}
    calls = same_on_both(
        lambda model: pack.run("BIVDiffInvertImage", model=model, frames_per_batch=2, **given)[0]["samples"],
        tiny.sd_model(), split,
    )  # fmt: skip
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("kind", ["UNet3D", "VidRD", "Wan"])
def test_windows_of_a_video_model(pack, split, kind):
    """Inverted and smoothed; they overlap, so it shows in what order they are summed."""
    models = {"UNet3D": tiny.video_model, "VidRD": tiny.vidrd_model, "Wan": lambda pack: tiny.wan_model()}
    clip = tiny.make_latent(*((1, 16, 9, 8, 8) if kind == "Wan" else (9, 4, 8, 8)))
    noise = torch.randn(clip["samples"].shape, generator=torch.Generator().manual_seed(1))
    given = {"context_length": 4, "context_overlap": 2, "steps": 3}
    given["scheduler"] = "simple" if kind == "Wan" else "ddim_uniform"

    def invert(model) -> Tensor:
        (out,) = pack.run("BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent=clip, **given)
        return out["samples"]

    def smooth(model) -> Tensor:
        texts = {"positive": tiny.text(), "negative": tiny.text(seed=9), "cfg": 2.0}
        (out,) = pack.run("BIVDiffTemporalSmoother", model=model, latent={"samples": noise}, **texts, **given)
        return out["samples"]

    for make in (invert, smooth):
        assert set(same_on_both(make, models[kind](pack), split).by_device) == set(DEVICES)


def test_core_windows(pack, split):
    """Those that someone set with the host's own node."""
    model, positive, negative, latent = frame_scenarios.control_net(pack, flip=False)
    given = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}

    def make(model) -> Tensor:
        (windowed,) = pack.run("ContextWindowsManual", model=model, **frame_scenarios.CORE_WINDOWS)
        return pack.run("BIVDiffFrameSampler", model=windowed, **given)[0]["samples"]

    assert set(same_on_both(make, model, split).by_device) == set(DEVICES)


@pytest.mark.parametrize("patch", frame_scenarios.NEUTRAL_PATCHES)
def test_patches_of_core(pack, split, patch):
    def make(model) -> Tensor:
        return frame_scenarios.sample_with_patch(pack, model, patch, frame_scenarios.NEUTRAL_PATCHES[patch], 2)

    assert set(same_on_both(make, tiny.sd_model(), split).by_device) == set(DEVICES)


def test_image_prompts_of_other_packs(pack, split):
    given = dict(
        zip(("model", "positive", "negative", "latent_image"), frame_scenarios.plain(pack, False), strict=True)
    )
    model = given.pop("model")

    def make(model) -> Tensor:
        given_here = {"model": frame_scenarios.add_image_prompts(model), "frames_per_batch": 2, **given, **KSAMPLER}
        return pack.run("BIVDiffFrameSampler", **given_here)[0]["samples"]

    assert set(same_on_both(make, model, split).by_device) == set(DEVICES)


def test_bridge_guider(pack, split):
    texts = {f"{of}_{kind}": tiny.text(seed=1) for of in ("image", "video") for kind in ("positive", "negative")}
    video = tiny.video_model(pack)
    (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")

    def make(model) -> Tensor:
        models = {"image_model": model, "video_model": video}
        (guider,) = pack.run("BIVDiffBridgeGuider", **models, **texts, frames_per_batch=1)
        (sigmas,) = pack.run("BasicScheduler", model=model, scheduler="normal", steps=3, denoise=1.0)
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        empty = {"samples": torch.zeros(F, 4, 8, 8)}
        return pack.run("SamplerCustomAdvanced", **given, latent_image=empty)[0]["samples"]

    assert set(same_on_both(make, tiny.sd_model(), split).by_device) == set(DEVICES)


def test_evolved_sampling_of_animatediff(pack, split):
    """Without a motion model, whose copies core cannot make."""
    given = {"conditioning": tiny.text(), "latent": tiny.make_latent(F, 4, 8, 8), "steps": 3}

    def make(model) -> Tensor:
        evolved = apply_evolved_sampling(model, motion=False)
        return pack.run("BIVDiffInvertImage", model=evolved, frames_per_batch=2, **given)[0]["samples"]

    assert set(same_on_both(make, tiny.sd_model(), split).by_device) == set(DEVICES)


@pytest.mark.parametrize(("word", "devices"), [("", set(DEVICES)), ("star", {None})])
def test_prompt2prompt_keeps_a_local_blend_to_one_device(pack, split, caplog, word, devices):
    image, _, clip, *_ = pack.run("BIVDiffDemoModels", variant="base")
    noise = torch.randn(F, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    texts = {"source_prompt": "a red star on a cyan background", "target_prompt": "a blue star on a cyan background"}
    texts |= {"negative_prompt": "", "word_weights": ""}
    given = {"clip": clip, "latent": {"samples": noise}, **texts, "steps": 3, "frames_per_batch": 2}

    def make(model) -> Tensor:
        return pack.run("BIVDiffPrompt2Prompt", model=model, local_blend_words=word, **given)[0]["samples"]

    with caplog.at_level(logging.WARNING):
        assert set(same_on_both(make, image, split).by_device) == devices
    assert ("A local blend needs the attention of all frames" in caplog.text) is bool(word)


@pytest.mark.parametrize("name", ["hooks on prompts", "ToMe"])
def test_what_depends_on_the_order_keeps_to_one_device(pack, split, caplog, name):
    model = tiny.sd_model()
    if name == "ToMe":
        (model,) = pack.run("TomePatchModel", model=model, ratio=0.5)

    def make(model) -> Tensor:
        text = make_keyframed_text() if name == "hooks on prompts" else tiny.text()
        given = {"positive": text, "negative": tiny.text(seed=2), "latent_image": {"samples": torch.zeros(F, 4, 8, 8)}}
        return pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=2, **given, **KSAMPLER)[0]["samples"]

    with caplog.at_level(logging.WARNING):
        assert set(same_on_both(make, model, split).by_device) == {None}
    assert f"run on one GPU, one after another: with {name}" in caplog.text


# Who takes which


def test_devices_work_at_the_same_time(pack, controlled, split):
    model, *prompts = controlled
    meeting = threading.Barrier(2, timeout=PATIENCE)
    calls = Calls(lambda device, rows: meeting.wait() if calls.by_device[device] == 1 else None)
    sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.parametrize("slow", DEVICES, ids=str)
def test_an_idle_device_takes_the_next_window(pack, controlled, split, slow):
    """One is at its first chunk until the other has done all the rest of the step."""
    model, *prompts = controlled
    done = threading.Event()

    def happens(device, rows):
        if device == slow and calls.by_device[slow] == 1:
            assert done.wait(PATIENCE)
        elif calls.by_device[device] == F - 1:
            done.set()

    calls = Calls(happens)
    out = sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    first_step = Counter(device for device, _ in calls.made[:F])
    assert first_step[slow] == 1 and first_step.total() == F
    assert torch.equal(out, sample(pack, model, *prompts, frames_per_batch=1))


def test_the_fuller_device_says_how_many_frames_fit(controlled, split, monkeypatch):
    model, *_ = controlled
    models = model, split(model)
    copies = [model, *models[1].get_additional_models_with_key("multigpu")]
    frame = 1.5 * model.model.memory_required([2, 4, 8, 8])
    weights = [copy.model_size() - copy.loaded_size() for copy in copies]
    room = {copy.load_device: size + n * frame for copy, size, n in zip(copies, weights, (8.5, 2.5), strict=True)}
    monkeypatch.setattr(comfy.model_management, "get_free_memory", room.get)
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])
    conds = {"positive": [], "negative": []}
    assert [estimate_max_frames(one, (20, 4, 8, 8), conds) for one in models] == [8, 2]


def test_where_memory_is_plenty_each_device_has_two_calls(pack, controlled, split):
    model, *prompts = controlled
    calls = Calls()
    sample(pack, split(calls.on(model)), *prompts, frames_per_batch=0)
    conds = 2
    assert Counter(rows for _, rows in calls.made) == {2 * conds: KSAMPLER["steps"] * F // 2}


def test_progress_counts_the_windows_of_all_devices(pack, split, monkeypatch):
    """In order, and in the context of the node, by which the host knows whose bar it is."""
    import comfy_execution.utils as context

    reports = []

    def hook(value, total, preview, node_id=None):
        reports.append((value, total, context.get_executing_context().node_id))

    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    given = {"conditioning": tiny.text(), "latent": tiny.make_latent(F, 4, 8, 8), "steps": 3, "solver": "ddim"}
    with context.CurrentNodeContext("prompt", "node"):
        pack.run("BIVDiffInvertImage", model=split(tiny.sd_model()), frames_per_batch=2, **given)
    assert reports == [(i, 9, "node") for i in range(1, 10)]


# Out of memory, errors, cancel


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("frames_per_batch", [3, 2])
def test_running_out_of_memory_halves_and_goes_on(pack, controlled, split, device, frames_per_batch):
    """On whichever device; the other's results of the call that failed are nobody's."""
    model, *prompts = controlled
    expected = sample(pack, model, *prompts, frames_per_batch=1)
    happens = out_of_memory(device, fit=2)
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def both_begin(device, rows):
        if calls.by_device[device] == 1:
            meeting.wait()  # else one device may have taken all before the other runs out
        happens(device, rows)

    calls = Calls(both_begin)
    assert torch.equal(sample(pack, split(calls.on(model)), *prompts, frames_per_batch), expected)
    assert {rows for _, rows in calls.made[-F:]} == {2}
    assert set(calls.by_device) == set(DEVICES)


@pytest.mark.floats
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_single_chunk_that_does_not_fit_is_halved_too(pack, controlled, split, device):
    """Where core has split it into its prompts."""
    model, *prompts = controlled
    calls = Calls(out_of_memory(device, fit=F - 1))
    out = sample(pack, split(calls.on(model)), *prompts, frames_per_batch=F)
    expected = sample(pack, model, *prompts, frames_per_batch=F)
    assert_near(out, expected, 2e-5)
    assert calls.made[0][1] == F and calls.made[-1][1] < F


def test_what_did_not_fit_is_let_go(pack, controlled, split):
    """Before it goes on, though the errors of several devices hold themselves, their frames and what lies there."""
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
        sample(pack, split(Calls(happens).on(model)), *prompts, frames_per_batch=4)
    finally:
        gc.enable()
    assert large


def test_what_never_fits_ends_with_the_devices_own_error(pack, controlled, split):
    model, *prompts = controlled
    with pytest.raises(torch.OutOfMemoryError):
        sample(pack, split(Calls(out_of_memory(DEVICES[1], fit=0)).on(model)), *prompts, frames_per_batch=2)
    healthy(pack, controlled, split)


def healthy(pack, controlled, split) -> None:
    """After a run that failed, hints are whole again and the next one is right."""
    model, *prompts = controlled
    control = prompts[0][0][1]["control"]
    assert {len(c.cond_hint_original) for c in (control, *control.multigpu_clones.values())} == {F}
    same_on_both(lambda model: sample(pack, model, *prompts, frames_per_batch=2), model, split)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_failing_device_ends_the_run_with_its_own_error(pack, controlled, split, device):
    """Though the other one runs out of memory; which takes no window after that."""
    model, *prompts = controlled
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def happens(at, rows):
        meeting.wait()
        raise KeyError("broken layer") if at == device else torch.OutOfMemoryError("CUDA out of memory.")

    calls = Calls(happens)
    with pytest.raises(KeyError, match="broken layer"):
        sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert calls.by_device == dict.fromkeys(DEVICES, 1)
    healthy(pack, controlled, split)


def within_patience(work: Callable) -> BaseException | None:
    """What work raises; it fails the test by taking too long."""
    raised = []

    def run():
        try:
            work()
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert raised, "it waits without end"
    return raised[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_worker_that_dies_ends_the_run(pack, controlled, split, device):
    """Its thread, with whatever no worker catches."""
    model, *prompts = controlled

    def happens(at, rows):
        if at == device:
            raise SystemExit

    split_model = split(Calls(happens).on(model))
    error = within_patience(lambda: sample(pack, split_model, *prompts, frames_per_batch=1))
    assert isinstance(error, RuntimeError) and f"worker for {device} " in str(error)
    healthy(pack, controlled, split)


def die() -> None:
    raise SystemExit


def refuse(device: torch.device) -> None:
    raise RuntimeError("no such device")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", ["ended", "without a device"])
def test_waiting_for_a_broken_worker_ends(broken, monkeypatch):
    if broken == "without a device":
        monkeypatch.setattr(comfy.model_management, "set_torch_device", refuse)
    pool = comfy.multigpu.MultiGPUThreadPool(DEVICES[1:])
    if broken == "ended":
        pool.submit(DEVICES[1], die)
    error = within_patience(lambda: drain_workers({"multigpu_thread_pool": pool}))
    assert isinstance(error, RuntimeError) and "worker for cpu:1 " in str(error)
    pool.shutdown()


def test_waiting_drops_what_workers_have_made():
    pool = comfy.multigpu.MultiGPUThreadPool(DEVICES)
    for device in DEVICES:
        pool.submit(device, time.sleep, 1.5)
    assert within_patience(lambda: drain_workers({"multigpu_thread_pool": pool})) is None
    assert all(results.empty() for results in pool._result_queues.values())
    pool.shutdown()


def test_a_cancel_takes_effect_within_one_call_on_every_device(pack, controlled, split):
    model, *prompts = controlled
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def happens(device, rows):
        if meeting.wait() == 0:
            comfy.model_management.interrupt_current_processing()

    calls = Calls(happens)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(pack, split(calls.on(model)), *prompts, frames_per_batch=1)
    assert calls.by_device == dict.fromkeys(DEVICES, 1)
    healthy(pack, controlled, split)

"""Context windows for clips longer than the video model's limit, in inversion and smoothing."""

import comfy.context_windows as core
import comfy.model_management
import pytest
import torch
from comfy.context_windows import ContextFuseMethods, ContextSchedules
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import CORE_WINDOWS
from fixtures.node_calls import collect_warnings, make_inputs

pytestmark = pytest.mark.floats

FRAMES, LENGTH, OVERLAP = 6, 4, 2
WINDOWS = {"context_length": LENGTH, "context_overlap": OVERLAP}


@pytest.fixture(scope="module")
def model(pack):
    return tiny.video_model(pack)


def smooth(pack, model, **settings):
    noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    (latent,) = pack.run(
        "BIVDiffTemporalSmoother",
        model=model,
        positive=tiny.text(),
        negative=tiny.text(seed=9),
        latent={"samples": noise},
        steps=4,
        cfg=2.0,
        scheduler="normal",
        **settings,
    )
    return latent["samples"]


def clean_samples() -> torch.Tensor:
    """A latent without spatial structure. A random network cannot turn structured frames into noise."""
    return torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2)) / 0.18215


def with_core_windows(model):
    """A MODEL with the windows of ComfyUI's Context Windows (Manual) node."""
    model = model.clone()
    model.model_options["context_handler"] = core.IndexListContextHandler(
        core.get_matching_context_schedule(ContextSchedules.STATIC_STANDARD),
        core.get_matching_fuse_method(ContextFuseMethods.PYRAMID),
        context_length=LENGTH,
        context_overlap=OVERLAP,
        **tiny.NO_ANCHOR_FRAME,
    )
    core.create_prepare_sampling_wrapper(model)
    return model


def test_windows_equal_comfyuis(pack, model):
    calls = tiny.CallCounter()
    smoothed = smooth(pack, calls.on(model), **WINDOWS)
    assert set(calls.rows) == {2 * LENGTH}  # cond and uncond, never more than a window
    torch.testing.assert_close(smoothed, smooth(pack, with_core_windows(model)))
    assert not torch.allclose(smoothed, smooth(pack, model))


def test_windows_of_the_model_are_kept(pack, model):
    kept = smooth(pack, with_core_windows(model), context_length=3, context_overlap=1)
    torch.testing.assert_close(kept, smooth(pack, model, **WINDOWS))


@pytest.mark.parametrize("node_windows", [{}, {"context_length": 3, "context_overlap": 1}], ids=["none", "others"])
def test_windows_of_the_model_are_kept_in_inversion(pack, model, node_windows):
    inputs = {"conditioning": tiny.text(), "latent": {"samples": clean_samples()}, "steps": 4, "scheduler": "normal"}
    kept, expected, whole = (
        pack.run("BIVDiffInvertVideo", model=m, **inputs, **windows)[0]["samples"]
        for m, windows in ((with_core_windows(model), node_windows), (model, WINDOWS), (model, {}))
    )
    torch.testing.assert_close(kept, expected)
    assert not torch.allclose(kept, whole)


def test_a_clip_that_fits_one_window_is_not_split(pack, model):
    assert torch.equal(smooth(pack, model, context_length=FRAMES, context_overlap=2), smooth(pack, model))


def make_latent(node_id: str, *shape: int) -> dict:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    return {"samples": noise / 0.18215 if node_id == "BIVDiffInvertVideo" else noise}


@pytest.mark.parametrize(
    ("schedule", "length", "warned"),
    [("standard_uniform", 3, True), ("looped_uniform", 3, True), ("standard_static", 3, False), ("batched", 3, False)]
    + [("standard_uniform", FRAMES, False)],
)
@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"])
def test_windows_that_change_from_step_to_step_raise_a_warning(pack, model, node_id, schedule, length, warned):
    settings = {**CORE_WINDOWS, "context_schedule": schedule, "context_length": length}
    (windowed,) = pack.run("ContextWindowsManual", model=model, **settings)
    warning = collect_warnings(pack, node_id, **make_inputs(node_id, windowed, make_latent(node_id, FRAMES, 4, 8, 8)))
    assert ("Set context_schedule to standard_static" in warning) == warned


@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"])
@pytest.mark.parametrize("windows", ["WanContextWindowsManual", "LTXVContextWindows"])
def test_the_default_windows_of_core_change_from_step_to_step(pack, node_id, windows):
    """Wan's and LTX's nodes differ only in the number of frames in a latent frame."""
    (windowed,) = pack.run(windows, model=tiny.wan_model(), context_length=17, context_overlap=0)
    inputs = make_inputs(node_id, windowed, make_latent(node_id, 1, 16, FRAMES, 8, 8)) | {"scheduler": "simple"}
    assert "Set context_schedule to standard_static" in collect_warnings(pack, node_id, **inputs)


def test_step_caches_are_switched_off_in_windows_of_the_model(pack, model):
    """Also if the node has no windows of its own."""
    cache = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    (cached,) = pack.run("EasyCache", model=with_core_windows(model), **cache)
    assert torch.equal(smooth(pack, cached), smooth(pack, with_core_windows(model)))
    latent = make_latent("BIVDiffTemporalSmoother", FRAMES, 4, 8, 8)
    warning = collect_warnings(
        pack, "BIVDiffTemporalSmoother", **make_inputs("BIVDiffTemporalSmoother", cached, latent)
    )
    assert "EasyCache is switched off" in warning


def test_patches_that_need_one_call_are_rejected_in_windows_of_the_model(pack):
    windowed = with_core_windows(tiny.as_video_model(tiny.sd_model()))
    (guided,) = pack.run("SelfAttentionGuidance", model=windowed, scale=0.5, blur_sigma=2.0)
    with pytest.raises(ValueError, match="Self-Attention Guidance uses only .*context_length"):
        smooth(pack, guided)


def test_random_patches_in_windows_of_the_model(pack):
    """Overlapping windows draw the same numbers in a step, so a frame gets one result."""
    windowed = with_core_windows(tiny.as_video_model(tiny.sd_model()))
    (merged,) = pack.run("TomePatchModel", model=windowed, ratio=0.5)
    (whole,) = pack.run("TomePatchModel", model=tiny.as_video_model(tiny.sd_model()), ratio=0.5)
    torch.testing.assert_close(smooth(pack, merged), smooth(pack, whole), rtol=1e-5, atol=1e-5)


def test_round_trip_through_windows(pack, model):
    """Inversion and smoothing use the same windows, so the round trip is as exact as without windows."""
    latent = {"samples": clean_samples()}
    settings = {"model": model, "steps": 12, "scheduler": "normal"}

    def error(**windows) -> float:
        (inverted,) = pack.run(
            "BIVDiffInvertVideo", conditioning=tiny.text(), latent=latent, solver="uni_inv", **settings, **windows
        )
        (back,) = pack.run(
            "BIVDiffTemporalSmoother",
            positive=tiny.text(),
            negative=tiny.text(),
            latent=inverted,
            cfg=1.0,
            **settings,
            **windows,
        )
        return (back["samples"] - latent["samples"]).norm() / latent["samples"].norm()

    assert error(**WINDOWS) < 1.2 * error()


@pytest.mark.parametrize(("windows", "window_length"), [({}, FRAMES), (WINDOWS, LENGTH)])
def test_running_out_of_memory_is_explained(pack, model, windows, window_length):
    """The message names the node's controls, and ComfyUI still recognizes the error as out of memory."""
    calls = tiny.CallCounter(1, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError) as error:
        smooth(pack, calls.on(model), **windows)
    assert str(error.value).startswith(
        f"Video Temporal Smoother: out of memory: the video model processed {window_length} frames"
    )
    assert f"Set context_length below {window_length}" in str(error.value)
    assert comfy.model_management.is_oom(error.value)

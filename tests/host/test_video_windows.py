"""Context windows for clips longer than the video model's limit, in inversion and smoothing."""

import comfy.context_windows as core
import comfy.model_management
import pytest
import torch
from comfy.context_windows import ContextFuseMethods, ContextSchedules
from fixtures import tiny_models as tiny

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

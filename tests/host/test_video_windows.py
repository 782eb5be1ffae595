"""Clips longer than the video model's window: the same overlapping windows in inversion and smoothing."""

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


def clean() -> torch.Tensor:
    """Frames without structure in space: an untrained model cannot turn that into what passes for noise."""
    return torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2)) / 0.18215


def with_core_windows(model):
    """The MODEL as the host's Context Windows (Manual) node leaves it."""
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


def test_windows_equal_the_hosts_own(pack, model):
    calls = tiny.CallCounter()
    ours = smooth(pack, calls.on(model), **WINDOWS)
    assert set(calls.rows) == {2 * LENGTH}  # cond and uncond, never more than a window
    torch.testing.assert_close(ours, smooth(pack, with_core_windows(model)))
    assert not torch.allclose(ours, smooth(pack, model))


def test_windows_that_the_model_brings_stay_in_force(pack, model):
    brought = smooth(pack, with_core_windows(model), context_length=3, context_overlap=1)
    torch.testing.assert_close(brought, smooth(pack, model, **WINDOWS))


@pytest.mark.parametrize("ours", [{}, {"context_length": 3, "context_overlap": 1}], ids=["none", "others"])
def test_windows_that_the_model_brings_stay_in_force_in_inversion(pack, model, ours):
    given = {"conditioning": tiny.text(), "latent": {"samples": clean()}, "steps": 4, "scheduler": "normal"}
    brought, expected, whole = (
        pack.run("BIVDiffInvertVideo", model=m, **given, **windows)[0]["samples"]
        for m, windows in ((with_core_windows(model), ours), (model, WINDOWS), (model, {}))
    )
    torch.testing.assert_close(brought, expected)
    assert not torch.allclose(brought, whole)


def test_a_clip_that_fits_is_shown_whole(pack, model):
    assert torch.equal(smooth(pack, model, context_length=FRAMES, context_overlap=2), smooth(pack, model))


def test_inversion_and_smoothing_come_back_through_windows(pack, model):
    """Windows are the same both ways, so the round trip is as exact as without them."""
    latent = {"samples": clean()}
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


def test_windows_that_do_not_move_on_are_refused(pack, model):
    calls = tiny.CallCounter()
    with pytest.raises(ValueError, match="Set context_overlap below context_length"):
        smooth(pack, calls.on(model), context_length=4, context_overlap=4)
    assert not calls.rows


@pytest.mark.parametrize(("windows", "seen"), [({}, FRAMES), (WINDOWS, LENGTH)])
def test_running_out_of_memory_is_explained(pack, model, windows, seen):
    """In the words of the node's controls, and so that the host still knows it for what it is."""
    calls = tiny.CallCounter(1, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError) as error:
        smooth(pack, calls.on(model), **windows)
    assert str(error.value).startswith(f"Video Temporal Smoother: out of memory: the video model saw {seen} frames")
    assert f"Set context_length below {seen}" in str(error.value)
    assert comfy.model_management.is_oom(error.value)

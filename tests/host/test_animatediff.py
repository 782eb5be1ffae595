"""MODELs of (a fake) AnimateDiff-Evolved: its windows, settings and keyframes in inversion and smoothing."""

import logging
from dataclasses import replace

import comfy.context_windows as core
import pytest
import torch
from fixtures import fake_animatediff as ade
from fixtures import tiny_models as tiny
from fixtures.fake_animatediff import ContextOptions, Keyframe, SampleSettings
from fixtures.gaussian_mixture import assert_near, rms
from torch import Tensor

FRAMES = 6
STATIC = ContextOptions(context_length=4, context_overlap=2, context_schedule="standard_static", fuse_method="pyramid")
UNIFORM = ContextOptions(
    context_length=4, context_overlap=2, context_schedule="looped_uniform", fuse_method="pyramid", context_stride=1
)
VIEWS, MOVING_VIEWS = (
    ContextOptions(context_schedule="view_as_context", use_on_equal_length=True, view_options=windows)
    for windows in (STATIC, UNIFORM)
)
"""Windows that only the motion models use; the pack's View Options node sets no context_length."""
NAMES = {"BIVDiffInvertVideo": "DDIM Inverse (Video)", "BIVDiffTemporalSmoother": "Video Temporal Smoother"}
both_nodes = pytest.mark.parametrize("node_id", NAMES)


@pytest.fixture(scope="module")
def sd():
    return tiny.sd_model()


@pytest.fixture(autouse=True)
def runs():
    ade.RECORDED_RUNS.clear()
    return ade.RECORDED_RUNS


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*(shape or (FRAMES, 4, 8, 8)), generator=torch.Generator().manual_seed(seed))


def run(pack, node_id: str, model, samples: Tensor | None = None, **settings) -> Tensor:
    """Invert or smooth noise. The output of a random network is noise too."""
    latent = {"samples": noise() if samples is None else samples}
    texts = {"conditioning": tiny.text(seed=1)}
    if node_id == "BIVDiffTemporalSmoother":
        texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "cfg": 2.0}
    inputs = {"model": model, "latent": latent, "steps": 4, "scheduler": "normal", **texts, **settings}
    return pack.run(node_id, **inputs)[0]["samples"]


def calls() -> list[tuple]:
    return ade.RECORDED_RUNS[-1]["calls"]


# Windows


@both_nodes
def test_windows_of_the_node_are_animatediffs_windows(pack, sd, node_id):
    """As from AnimateDiff-Evolved's context node. ComfyUI's windows would give its motion models wrong frames."""
    inputs = {"context_length": 4, "context_overlap": 2}
    ours = run(pack, node_id, ade.apply_evolved_sampling(sd), **inputs)
    assert {tuple(window) for *_, window in calls()} == {(0, 1, 2, 3), (2, 3, 4, 5)}
    theirs = run(pack, node_id, ade.apply_evolved_sampling(sd, windows=STATIC))
    assert torch.equal(ours, theirs)
    assert rms(ours - run(pack, node_id, ade.apply_evolved_sampling(sd))) > 1e-3 * rms(ours)


@pytest.mark.parametrize("windows", [STATIC, VIEWS], ids=["windows", "views"])
@both_nodes
def test_windows_of_the_model_are_kept(pack, sd, node_id, windows):
    model = ade.apply_evolved_sampling(sd, windows=windows)
    assert torch.equal(run(pack, node_id, model), run(pack, node_id, model, context_length=3, context_overlap=1))


def test_the_input_model_is_unchanged(pack, sd):
    keyframes = (Keyframe(0.0, 0.2), Keyframe(0.5, 1.5, guarantee_steps=2))
    model = ade.apply_evolved_sampling(sd, keyframes=keyframes)
    run(pack, "BIVDiffInvertVideo", model, context_length=4, context_overlap=2)
    assert model.get_attachment("ADE_params").context_options.context_length is None
    (motion,) = model.get_additional_models_with_key("ADE")
    assert [k.guarantee_steps for k in motion.get_attachment("ADE").keyframes.keyframes] == [1, 2]


@both_nodes
def test_comfyuis_windows_are_rejected(pack, sd, node_id):
    model = ade.apply_evolved_sampling(sd)
    model.model_options["context_handler"] = core.IndexListContextHandler(
        core.get_matching_context_schedule("standard_static"), core.get_matching_fuse_method("pyramid"), 4, 2
    )
    with pytest.raises(ValueError, match="ComfyUI's Context Windows") as error:
        run(pack, node_id, model)
    assert str(error.value).startswith(NAMES[node_id])
    assert not ade.RECORDED_RUNS


@pytest.mark.parametrize(
    ("windows", "warned"),
    [
        (STATIC, False),
        (VIEWS, False),
        (UNIFORM, True),
        (MOVING_VIEWS, True),
        ([STATIC, replace(STATIC, start_percent=0.5)], True),
    ],
    ids=["static", "views", "uniform", "moving views", "changing"],
)
@both_nodes
def test_changing_windows_raise_a_warning(pack, sd, caplog, node_id, windows, warned):
    with caplog.at_level(logging.WARNING):
        run(pack, node_id, ade.apply_evolved_sampling(sd, windows=windows))
    assert ("Standard Static" in caplog.text) is warned


@pytest.mark.parametrize(("solver", "each"), [("ddim", 1), ("fireflow", 1), ("uni_inv", 1), ("fixed_point", 3)])
def test_windows_shift_once_a_step(pack, sd, solver, each):
    """For any number of model calls a step. The initial slope of fireflow and uni_inv belongs to the first step."""
    run(pack, "BIVDiffInvertVideo", ade.apply_evolved_sampling(sd, windows=UNIFORM), solver=solver)
    steps = [step for step, *_ in calls()][::3]  # three windows a call
    initial_slope = [0] if solver in ("fireflow", "uni_inv") else []
    assert steps == initial_slope + [step for step in range(4) for _ in range(each)]


def test_windows_shift_once_a_step_in_smoothing(pack, sd):
    """As in core: heun calls the model twice a step and reports the step between the calls."""
    run(pack, "BIVDiffTemporalSmoother", ade.apply_evolved_sampling(sd, windows=UNIFORM), sampler_name="heun")
    assert [step for step, *_ in calls()][::3] == [0, 1, 1, 2, 2, 3, 3]


# Sample Settings and Context Extras


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (SampleSettings(iteration_opts=ade.IterationOptions(2)), "iterations"),
        (SampleSettings(image_injection=ade.ImageInjections(["an image"])), "image injection"),
        (SampleSettings(noise_calibration="some"), "noise calibration"),
    ],
    ids=["iterations", "injection", "calibration"],
)
@both_nodes
def test_settings_that_replace_the_inverted_frames_are_rejected(pack, sd, node_id, settings, setting):
    with pytest.raises(ValueError, match=setting) as error:
        run(pack, node_id, ade.apply_evolved_sampling(sd, settings=settings))
    assert str(error.value).startswith(NAMES[node_id]) and "Sample Settings" in str(error.value)
    assert not ade.RECORDED_RUNS


@both_nodes
def test_its_noise_never_replaces_the_inverted_frames(pack, sd, caplog, node_id):
    """A run begins with zero noise, an empty latent and an integer seed; the frames are in our sampler."""
    with caplog.at_level(logging.WARNING):
        out = run(pack, node_id, ade.apply_evolved_sampling(sd, settings=SampleSettings(noise_type="constant")))
    assert "noise of type constant" in caplog.text
    assert torch.equal(out, run(pack, node_id, ade.apply_evolved_sampling(sd)))
    assert all(not r["noise"].any() and not r["latents"].any() and type(r["seed"]) is int for r in ade.RECORDED_RUNS)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"noise_type": "FreeNoise"}, "noise of type FreeNoise"),
        ({"noise_type": "repeated_context"}, "noise of type repeated_context"),
        ({"seed_gen": "auto1111"}, "the seed generator auto1111"),
        ({"seed_override": 7}, "a seed override"),
        ({"seed_offset": 1}, "a seed offset"),
        ({"batch_offset": 2}, "a batch offset"),
        ({"noise_layers": ade.NoiseLayers(["a layer"])}, "noise layers"),
    ],
)
@both_nodes
def test_settings_that_replace_noise_raise_a_warning(pack, sd, caplog, node_id, settings, setting):
    """In core samplers they would replace the output of Inverted Latent to Noise."""
    model = ade.apply_evolved_sampling(sd, settings=SampleSettings(**settings))
    with caplog.at_level(logging.WARNING):
        run(pack, node_id, model)
    assert f"ask for {setting}." in caplog.text and "Inverted Latent to Noise" in caplog.text


def test_context_extras_are_switched_off_in_an_inversion(pack, sd, caplog):
    """They mix one step's prediction into the next. Smoothing keeps them."""
    model = ade.apply_evolved_sampling(sd, reuse=True)
    with caplog.at_level(logging.WARNING):
        out = run(pack, "BIVDiffInvertVideo", model)
    assert "Switched off for the inversion: NaiveReuse" in caplog.text
    assert torch.equal(out, run(pack, "BIVDiffInvertVideo", ade.apply_evolved_sampling(sd)))
    assert model.get_attachment("ADE_params").context_options.extras.get_extras_list()
    smoothed, plain = (run(pack, "BIVDiffTemporalSmoother", m) for m in (model, ade.apply_evolved_sampling(sd)))
    assert rms(smoothed - plain) > 1e-3 * rms(plain)


def test_a_custom_cfg_does_not_affect_an_inversion(pack, sd, caplog):
    with caplog.at_level(logging.WARNING):
        run(pack, "BIVDiffInvertVideo", ade.apply_evolved_sampling(sd, settings=SampleSettings(custom_cfg=5.0)))
    assert "cfg" not in caplog.text


@pytest.mark.floats
def test_a_custom_cfg_raises_a_warning_in_smoothing(pack, sd, caplog):
    with caplog.at_level(logging.WARNING):
        model = ade.apply_evolved_sampling(sd, settings=SampleSettings(custom_cfg=5.0))
        theirs = run(pack, "BIVDiffTemporalSmoother", model, cfg=2.0)
    assert "overrides the smoother's cfg" in caplog.text
    torch.testing.assert_close(theirs, run(pack, "BIVDiffTemporalSmoother", ade.apply_evolved_sampling(sd), cfg=5.0))


def test_default_settings_raise_no_warning(pack, sd, caplog):
    with caplog.at_level(logging.WARNING):
        run(pack, "BIVDiffTemporalSmoother", ade.apply_evolved_sampling(sd, windows=STATIC))
    assert not [record for record in caplog.records if record.name.startswith(pack.name)]


# Keyframes, per-block settings, limits

KEYFRAMES = (Keyframe(0.0, 0.2), Keyframe(0.3, 0.7), Keyframe(0.5), Keyframe(0.7, 1.5, guarantee_steps=3))
SCALES = {0.0: 0.2, 0.3: 0.7, 0.5: 0.7, 0.7: 1.5}
"""The expected scale from each start percent on. The third keyframe inherits the second one's scale."""


@pytest.mark.parametrize("solver", ["ddim", "fireflow", "uni_inv", "fixed_point"])
def test_keyframes_apply_at_their_sigmas_in_an_inversion(pack, sd, solver):
    model = ade.apply_evolved_sampling(sd, keyframes=KEYFRAMES)
    sampling = model.get_model_object("model_sampling")
    run(pack, "BIVDiffInvertVideo", model, solver=solver, steps=10)
    for _, sigma, scale, _ in calls():
        (*_, expected) = (s for start, s in SCALES.items() if sampling.percent_to_sigma(start) >= sigma)
        assert scale == expected
    assert {scale for *_, scale, _ in calls()} == set(SCALES.values())


def test_keyframes_in_smoothing_are_as_in_cores_sampler(pack, sd):
    """AnimateDiff-Evolved selects them, including guaranteed steps."""
    model = ade.apply_evolved_sampling(sd, keyframes=KEYFRAMES)
    run(pack, "BIVDiffTemporalSmoother", model, steps=10)
    pack.run(
        "KSampler", model=model, seed=1, steps=10, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        positive=tiny.text(seed=1), negative=tiny.text(seed=2), latent_image={"samples": torch.zeros(FRAMES, 4, 8, 8)},
    )  # fmt: skip
    smoother, ksampler = ([call[:3] for call in r["calls"]] for r in ade.RECORDED_RUNS)
    assert smoother == ksampler


@both_nodes
def test_per_block_settings_survive_cloning(pack, sd, node_id):
    """AnimateDiff-Evolved's clones lose them."""
    model = ade.apply_evolved_sampling(sd, per_block=[0.3, 0.5])
    run(pack, node_id, model, context_length=4, context_overlap=2)
    assert {scale for *_, scale, _ in calls()} == {0.15}


@pytest.mark.parametrize(
    ("windows", "inputs", "window_length"),
    [
        (None, {}, FRAMES),
        (None, {"context_length": 5, "context_overlap": 1}, 5),
        (replace(STATIC, context_length=5), {}, 5),
        (replace(VIEWS, view_options=replace(STATIC, context_length=5)), {}, 5),
    ],
    ids=["whole clip", "node", "model", "views"],
)
@both_nodes
def test_more_frames_than_a_motion_model_takes(pack, sd, node_id, windows, inputs, window_length):
    """The node raises the error before AnimateDiff-Evolved would raise it during the run."""
    with pytest.raises(ValueError, match=f"takes at most 4 frames at once but would get {window_length}") as error:
        run(pack, node_id, ade.apply_evolved_sampling(sd, windows=windows, encoding_max_len=4), **inputs)
    assert str(error.value).startswith(NAMES[node_id])
    assert not ade.RECORDED_RUNS


@both_nodes
def test_windows_that_a_motion_model_takes(pack, sd, node_id):
    run(pack, node_id, ade.apply_evolved_sampling(sd, encoding_max_len=4), context_length=4, context_overlap=2)
    run(pack, node_id, ade.apply_evolved_sampling(sd, encoding_max_len=4), noise(4, 4, 8, 8))
    run(pack, node_id, ade.apply_evolved_sampling(sd, encoding_max_len=None))
    run(pack, node_id, ade.apply_evolved_sampling(sd, windows=VIEWS, encoding_max_len=4))
    assert len(ade.RECORDED_RUNS) == 4


# Image branch


@pytest.mark.parametrize("motion", [True, False])
def test_models_that_generate_frames_together_are_not_image_models(pack, sd, motion):
    model = ade.apply_evolved_sampling(sd, motion=motion, windows=None if motion else STATIC)
    text, latent = tiny.text(), {"samples": noise()}
    for name, node_id, inputs in (
        ("Frame Chunks", "BIVDiffFrameChunks", {}),
        ("DDIM Inverse (Image)", "BIVDiffInvertImage", {"conditioning": text, "latent": latent}),
        ("Frame-wise Image", "BIVDiffFrameSampler", {"positive": text, "negative": text, "latent_image": latent}),
    ):
        reason = "which generates frames together" if motion else "Context Options without a motion model"
        with pytest.raises(ValueError, match=f"{reason}.* from before the AnimateDiff nodes") as error:
            pack.run(node_id, model=model, **inputs)
        assert str(error.value).startswith(name)
    assert not ade.RECORDED_RUNS


@pytest.mark.floats
def test_without_motion_models_it_is_an_image_model(pack, sd):
    """Evolved sampling without motion models: the result does not depend on the chunks."""
    model = ade.apply_evolved_sampling(sd, motion=False)
    inputs = {"conditioning": tiny.text(), "latent": {"samples": noise()}, "steps": 4, "scheduler": "normal"}
    whole, chunked = (
        pack.run("BIVDiffInvertImage", model=model, frames_per_batch=n, **inputs)[0]["samples"] for n in (FRAMES, 2)
    )
    assert_near(chunked, whole, 1e-6)


def test_it_cannot_run_beside_another_model(pack, sd):
    """The other model would run with AnimateDiff-Evolved's sampling function instead of ComfyUI's."""
    text = tiny.text()
    texts = {f"{of}_{kind}": text for of in ("image", "video") for kind in ("positive", "negative")}
    with pytest.raises(ValueError, match="Bridge Guider: AnimateDiff-Evolved takes over all sampling"):
        pack.run("BIVDiffBridgeGuider", image_model=sd, video_model=ade.apply_evolved_sampling(sd), **texts)


# Use together with its image model


def test_two_schedules_on_one_network(pack, sd):
    """AnimateDiff's schedule is a patch of a clone of the image model. Each branch uses its schedule, in any order."""
    video = ade.apply_evolved_sampling(sd)
    text, latent = tiny.text(), {"samples": noise()}
    inputs = {"conditioning": text, "latent": latent, "steps": 6, "scheduler": "normal"}

    def invert(branch: str) -> dict:
        model = sd if branch == "Image" else video
        return pack.run(f"BIVDiffInvert{branch}", model=model, **inputs)[0]

    first = {branch: invert(branch) for branch in ("Image", "Video")}
    again = {branch: invert(branch) for branch in ("Image", "Image", "Video", "Video")}
    for branch, sigma_max in (("Image", 14.6146), ("Video", 25.146)):
        assert first[branch]["bivdiff"]["sigma"] == pytest.approx(sigma_max, rel=1e-4)
        assert first[branch]["bivdiff"]["at_sigma_max"]
        assert torch.equal(first[branch]["samples"], again[branch]["samples"])


def test_frames_affect_each_other(pack, sd):
    """A change of the last frame changes the inverted first frame, but not without the motion model."""
    other = torch.cat([noise()[:-1], noise(1, 4, 8, 8, seed=8)])
    for motion in (True, False):
        model = ade.apply_evolved_sampling(sd, motion=motion)
        a, b = (run(pack, "BIVDiffInvertVideo", model, samples)[0] for samples in (noise(), other))
        assert (rms(a - b) > 1e-4 * rms(a)) is motion

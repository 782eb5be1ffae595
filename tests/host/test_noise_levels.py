"""Every stage starts at the noise level where the last one stopped, and takes the steps that were asked for."""

import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.fake_animatediff import LinearBetaSchedule
from fixtures.gaussian_mixture import GaussianMixture, relative_error
from fixtures.node_calls import collect_warnings
from torch import Tensor

from bivdiff_core import grids

pytestmark = pytest.mark.floats

MIXTURE = GaussianMixture()
SCALE = 0.18215
SHIFTS = (1, 3, 5, 8)
SAMPLERS = (
    "ddim", "euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "deis", "res_multistep",
    "gradient_estimation", "uni_pc", "uni_pc_bh2",
)  # fmt: skip


class LevelRecorder(tiny.CallCounter):
    """Also records the levels of a MODEL's run."""

    def __call__(self, apply_model, args: dict) -> Tensor:
        self.levels = args["c"]["transformer_options"]["sample_sigmas"]
        return super().__call__(apply_model, args)


def exact(kind: str):
    """A video MODEL whose denoiser is exact, and a latent of its distribution."""
    model = tiny.as_video_model(tiny.exact_model(tiny.PREDICTION_TYPES[kind], MIXTURE))
    return model, {"samples": (MIXTURE.sample(3) / SCALE).float()}


def with_shift(model, shift: float):
    """A flow MODEL with this shift, as ModelSamplingSD3 sets it."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=shift)
    model = model.clone()
    model.add_object_patch("model_sampling", sampling)
    return model


def invert(pack, model, latent: dict, **inputs) -> dict:
    return pack.run("BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent=latent, **inputs)[0]


def smooth(pack, model, latent: dict, **inputs) -> dict:
    inputs = {"cfg": 1.0, **inputs}
    texts = {"positive": tiny.text(), "negative": tiny.text()}
    return pack.run("BIVDiffTemporalSmoother", model=model, latent=latent, **texts, **inputs)[0]


def test_the_listed_samplers(pack):
    """ipndm_v is not one: its round trip is off by up to 3 times the latent on uneven steps."""
    options = pack.classes["BIVDiffTemporalSmoother"].INPUT_TYPES()["required"]["sampler_name"][1]["options"]
    assert tuple(options) == SAMPLERS


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_every_sampler_starts_at_the_level_reached_and_takes_all_steps(pack, kind, scheduler):
    """Also if the inversion used another scheduler, and below full noise."""
    model, latent = exact(kind)
    for strength in (1.0, 0.5):
        inverted = invert(pack, model, latent, steps=6, scheduler="simple", strength=strength)
        reached = inverted["bivdiff"]["sigma"]
        if kind == "flow" and scheduler == "ddim_uniform" and strength == 1:
            with pytest.raises(ValueError, match="reaches only sigma 0.924, below sigma 1"):
                smooth(pack, model, inverted, steps=5, scheduler=scheduler)
            continue
        for sampler in SAMPLERS:
            recorder = LevelRecorder()
            smooth(pack, recorder.on(model), inverted, steps=5, scheduler=scheduler, sampler_name=sampler)
            assert recorder.levels[0].item() == pytest.approx(reached, rel=1e-6)
            if kind == "flow":  # other models are called with a timestep
                assert recorder.sigmas[0] == pytest.approx(reached, rel=1e-4)
            assert recorder.levels[-1] == 0
            assert len(recorder.levels) - 1 == 5


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [(kind, name) for kind in ("eps", "flow") for name in comfy.samplers.SCHEDULER_NAMES
     if (kind, name) != ("eps", "linear_quadratic")],
)  # fmt: skip
def test_the_round_trip_improves_with_steps_for_every_sampler(pack, kind, scheduler):
    """Twice the steps lower the error 1.4 times or more, unless it is below 1% already.

    1.4 to 1.5 times for gradient_estimation and for kl_optimal on flow models, more for all others. linear_quadratic is
    made for flow models: on diffusion models its last step covers 77% of the way.
    """
    model, latent = exact(kind)
    for strength in (1.0, 0.5):
        if kind == "flow" and scheduler == "ddim_uniform" and strength == 1:
            continue  # refused, because it does not reach pure noise
        errors: dict[str, list[float]] = {sampler: [] for sampler in SAMPLERS}
        for steps in (20, 40):
            inputs = {"steps": steps, "scheduler": scheduler}
            inverted = invert(pack, model, latent, solver="fireflow", strength=strength, **inputs)
            for sampler in SAMPLERS:
                back = smooth(pack, model, inverted, sampler_name=sampler, **inputs)
                errors[sampler].append(relative_error(back["samples"], latent["samples"]))
        for sampler, (few, many) in errors.items():
            assert many < max(few / 1.4, 0.01), f"{sampler}, strength {strength}: {few:.4f} to {many:.4f}"


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("strength", [0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scheduler", ["simple", "normal", "beta"])
def test_inversion_and_denoising_take_the_same_levels(pack, shift, strength, scheduler):
    """All 12 steps, at every strength and shift. The inversion may divide its first step."""
    model, latent = exact("flow")
    model = with_shift(model, shift)
    up, down = LevelRecorder(), LevelRecorder()
    inputs = {"steps": 12, "scheduler": scheduler}
    inverted = invert(pack, up.on(model), latent, strength=strength, **inputs)
    smooth(pack, down.on(model), inverted, **inputs)
    assert len(down.levels) == 13
    assert torch.equal(up.levels[-12:], down.levels[:-1].flip(0))
    assert up.levels[0] == 0 and inverted["bivdiff"]["levels"] == up.levels.tolist()
    first = grids.path_fraction(down.levels[-2].item(), flow=True)
    assert (len(up.levels) > 13) == (first > grids.MAX_FIRST_STEP)


@pytest.mark.parametrize(("scheduler", "steps", "parts"), [("linear_quadratic", 20, 4), ("simple", 3, 2)])
@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo"])
def test_a_divided_first_step_raises_a_warning(pack, node_id, scheduler, steps, parts):
    image, latent, recorder = tiny.sd_model(), tiny.make_latent(3, 4, 8, 8), LevelRecorder()
    model = recorder.on(image if node_id == "BIVDiffInvertImage" else tiny.as_video_model(image))
    inputs = {"model": model, "conditioning": tiny.text(), "latent": latent, "scheduler": scheduler}
    assert f"is divided into {parts} steps" in collect_warnings(pack, node_id, steps=steps, **inputs)
    assert len(recorder.levels) == steps + parts
    assert "is divided" not in collect_warnings(pack, node_id, **{**inputs, "scheduler": "simple"}, steps=12)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("denoise", [0.1, 0.25, 0.5, 0.8])
def test_strength_compared_with_ksamplers_denoise(pack, shift, denoise):
    """docs/models.md: KSampler's denoise d starts at sigma = shift * d / (1 + (shift - 1) * d)."""
    model = with_shift(exact("flow")[0], shift)
    sampler = comfy.samplers.KSampler(model, 100, tiny.CPU, "euler", "simple", denoise, model.model_options)
    expected = shift * denoise / (1 + (shift - 1) * denoise)
    assert sampler.sigmas[0].item() == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("denoise", [0.1, 0.25, 0.5, 0.8])
def test_strength_equals_ksamplers_denoise_on_stable_diffusion(pack, denoise):
    model = exact("eps")[0]
    sampler = comfy.samplers.KSampler(model, 100, tiny.CPU, "euler", "simple", denoise, model.model_options)
    assert sampler.sigmas[0].item() == pytest.approx(grids.strength_sigma(denoise, flow=False), rel=0.01)


def test_auto_is_ddim_for_diffusion_and_fireflow_for_flow_models(pack):
    for kind, solver in (("eps", "ddim"), ("flow", "fireflow")):
        model, latent = exact(kind)
        by_default, chosen = (invert(pack, model, latent, steps=6, **inputs) for inputs in ({}, {"solver": solver}))
        assert torch.equal(by_default["samples"], chosen["samples"])
        other = invert(pack, model, latent, steps=6, solver="uni_inv")
        assert relative_error(other["samples"], chosen["samples"]) > 1e-3


# Wired sigmas


def test_wired_sigmas_equal_the_same_scheduler(pack):
    """In both DDIM Inverse nodes and the smoother, whatever steps and scheduler are set."""
    latent = tiny.make_latent(3, 4, 8, 8)
    image, video = tiny.sd_model(), tiny.as_video_model(tiny.sd_model())
    (sigmas,) = pack.run("BasicScheduler", model=video, scheduler="karras", steps=6, denoise=1.0)
    wired, named = {"sigmas": sigmas, "steps": 50}, {"scheduler": "karras", "steps": 6}
    for node_id, model in (("BIVDiffInvertImage", image), ("BIVDiffInvertVideo", video)):
        inputs = {"model": model, "conditioning": tiny.text(), "latent": latent}
        ours, expected = (pack.run(node_id, **inputs, **chosen)[0]["samples"] for chosen in (wired, named))
        assert torch.equal(ours, expected)
    inverted = invert(pack, video, latent, **wired)
    ours, expected = (smooth(pack, video, inverted, **chosen)["samples"] for chosen in (wired, named))
    assert torch.equal(ours, expected)


def test_wired_sigmas_are_used_below_the_level_reached(pack):
    model, latent = exact("flow")
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.0])
    up, down = LevelRecorder(), LevelRecorder()
    inverted = invert(pack, up.on(model), latent, sigmas=sigmas, strength=0.6)
    smooth(pack, down.on(model), inverted, sigmas=sigmas)
    assert down.levels.tolist() == pytest.approx([0.6, 0.5, 0.25, 0.1, 0.0])
    assert torch.equal(up.levels, down.levels.flip(0))


@pytest.mark.parametrize(
    ("sigmas", "inputs", "message"),
    [
        ([0.0, 0.5, 1.0], {}, "sigmas is a schedule of 0, 0.5, 1, expected levels that decrease to 0"),
        ([0.5, 0.2, 0.1, 0.0], {}, "the schedule wired to sigmas reaches only sigma 0.500, but a flow"),
        ([0.5, 0.2, 0.1, 0.0], {"strength": 0.8}, "reaches only sigma 0.5, below sigma 0.8"),
    ],
)
def test_unusable_sigmas_are_refused(pack, sigmas, inputs, message):
    model, latent = exact("flow")
    recorder = LevelRecorder()
    with pytest.raises(ValueError, match=f"^DDIM Inverse \\(Video\\): .*{message}"):
        invert(pack, recorder.on(model), latent, sigmas=torch.tensor(sigmas), **inputs)
    assert not recorder.sigmas


def test_the_reference_grid_takes_no_sigmas(pack):
    sigmas = torch.tensor([14.6, 3.0, 0.4, 0.1, 0.0])
    with pytest.raises(ValueError, match="grid reference has its own noise levels. Unlink sigmas"):
        invert(
            pack, tiny.as_video_model(tiny.sd_model()), tiny.make_latent(3, 4, 8, 8), sigmas=sigmas, grid="reference"
        )


def test_few_wired_sigmas_below_the_level_raise_a_warning(pack):
    model, latent = exact("flow")
    inverted = invert(pack, model, latent, steps=6, strength=0.4)
    texts = {"positive": tiny.text(), "negative": tiny.text()}
    warning = collect_warnings(
        pack, "BIVDiffTemporalSmoother", model=model, latent=inverted, cfg=1.0, **texts,
        sigmas=torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]),
    )  # fmt: skip
    assert "Only 2 steps of the schedule wired to sigmas lie below sigma 0.4" in warning


# One state


def test_samples_do_not_pass_through_the_vaes_space(pack, monkeypatch):
    """Between inversion and smoothing nothing is rescaled, so large per-channel factors cost no precision."""
    wan = tiny.wan_model()
    latent = {"samples": wan.model.process_latent_out(torch.randn(1, 16, 3, 8, 8))}
    calls: list[str] = []
    for name in ("process_latent_in", "process_latent_out"):
        original = getattr(wan.model, name)
        monkeypatch.setattr(wan.model, name, lambda x, original=original, name=name: calls.append(name) or original(x))
    inverted = invert(pack, wan, latent, steps=3)
    assert calls[0] == "process_latent_in" and calls.count("process_latent_in") == 1
    calls.clear()
    smooth(pack, wan, inverted, steps=3)
    assert calls == ["process_latent_out"]


def test_free_noise_does_not_shuffle_an_inverted_latent(pack):
    """Core's Wan Context Windows shuffle the noise of later windows unless freenoise is off."""
    wan, latent = tiny.wan_model(), tiny.make_latent(1, 16, 8, 8, 8)
    results = []
    for free_noise in (False, True):
        (model,) = pack.run(
            "WanContextWindowsManual", model=wan, context_length=13, context_overlap=4,
            context_schedule="standard_static", freenoise=free_noise,
        )  # fmt: skip
        inverted = invert(pack, model, latent, steps=3)
        results.append((inverted["samples"], smooth(pack, model, inverted, steps=3)["samples"]))
    for plain, with_free_noise in zip(*results, strict=True):
        assert torch.equal(plain, with_free_noise)


@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother", "BIVDiffMixedInversion"])
def test_a_latent_is_verified_and_written_once(pack, monkeypatch, node_id):
    """The fingerprint goes over all samples."""
    module = pack.import_module("bivdiff_core.host.inverted_latents")
    model, latent = exact("eps")
    inverted = invert(pack, model, latent, steps=4)
    computed: list[Tensor] = []
    original = module._fingerprint
    monkeypatch.setattr(module, "_fingerprint", lambda samples: computed.append(samples) or original(samples))
    if node_id == "BIVDiffInvertVideo":
        invert(pack, model, latent, steps=4)
        assert len(computed) == 1
    elif node_id == "BIVDiffTemporalSmoother":
        smooth(pack, model, inverted, steps=4)
        assert len(computed) == 1
    else:
        pack.run(node_id, image_latent=inverted, video_latent=inverted, mixing_ratio=0.5)
        assert len(computed) == 3


@pytest.mark.parametrize("unknown", ["image_latent", "video_latent"])
def test_the_level_of_one_branch_holds_for_an_unknown_one(pack, unknown):
    model, latent = exact("eps")
    known = invert(pack, model, latent, steps=8, strength=0.5)
    noise = {"samples": torch.randn(known["samples"].shape, generator=torch.Generator().manual_seed(1))}
    branches = {"image_latent": known, "video_latent": known, unknown: noise}
    mixed, _ = pack.run("BIVDiffMixedInversion", **branches, mixing_ratio=0.5)
    assert mixed["bivdiff"]["sigma"] == known["bivdiff"]["sigma"] and mixed["bivdiff"]["branch"] == "mix"
    warning = collect_warnings(pack, "BIVDiffMixedInversion", **branches, mixing_ratio=0.5)
    assert f"The {unknown.split('_')[0]} branch does not record how far it was inverted" in warning


def test_old_records_are_read(pack):
    """They have neither a version nor levels. One that lacks more is taken for none, and unknown keys are ignored."""
    model, latent = exact("eps")
    inverted = invert(pack, model, latent, steps=8, strength=0.5)
    record = inverted["bivdiff"]
    old = {key: value for key, value in record.items() if key not in ("version", "levels")}
    expected = smooth(pack, model, inverted, steps=4)["samples"]
    for other in (old, {**record, "a later field": 1}):
        assert torch.equal(smooth(pack, model, {**inverted, "bivdiff": other}, steps=4)["samples"], expected)
    incomplete = {key: value for key, value in record.items() if key != "sigma"}
    read = pack.import_module("bivdiff_core.host.inverted_latents").InvertedLatent.from_latent
    assert read({**inverted, "bivdiff": incomplete}).info is None


def test_a_single_branch_starts_at_its_level_on_a_model_with_another_range(pack):
    """An image branch at sigma 14.6 on AnimateDiff, whose sigma_max is 25.1."""
    image, recorder = tiny.sd_model(), LevelRecorder()
    video = recorder.on(tiny.as_video_model(image))
    video.add_object_patch("model_sampling", LinearBetaSchedule())
    inputs = {"model": image, "conditioning": tiny.text(), "latent": tiny.make_latent(3, 4, 8, 8)}
    (inverted,) = pack.run("BIVDiffInvertImage", **inputs, steps=6)
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=inverted, mixing_ratio=1.0)
    smooth(pack, video, mixed, steps=6)
    assert recorder.levels[0].item() == pytest.approx(14.6146, rel=1e-4) and len(recorder.levels) == 7

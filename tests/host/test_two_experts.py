"""Models of two experts (Wan 2.2): one MODEL above a noise level and another below it."""

import comfy.sd
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import GaussianMixture, assert_near, relative_error
from fixtures.node_calls import AssertNotCalled, collect_warnings

from bivdiff_core.solvers import SOLVERS

pytestmark = pytest.mark.floats

BOUNDARY = 0.875
SAMPLERS = ["ddim", "heun", "dpmpp_2m", "lms"]


@pytest.fixture(scope="module")
def experts():
    return tiny.wan_model(seed=4), tiny.wan_model(seed=14)


def invert(pack, high, low, latent: dict, node_id: str = "BIVDiffInvertVideo", **inputs) -> dict:
    given = {"conditioning": tiny.text(), "steps": 12, "latent": latent, **inputs}
    return pack.run(node_id, model=high, low_noise_model=low, **given)[0]


def smooth(pack, high, low, latent: dict, **inputs) -> dict:
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "cfg": 2.0}
    given = {"model": high, "low_noise_model": low, "latent": latent, "steps": 12, **texts, **inputs}
    return pack.run("BIVDiffTemporalSmoother", **given)[0]


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_smoothing_equals_two_core_samplers_on_split_sigmas(pack, experts, sampler_name):
    high, low = experts
    z = noise(1, 16, 3, 8, 8)
    latent = tiny.make_inverted_latent(pack, z, latent_format="Wan21", family="flow", sigma=1.0, at_sigma_max=True)
    ours = smooth(pack, high, low, latent, sampler_name=sampler_name)["samples"]

    (sigmas,) = pack.run("BasicScheduler", model=high, scheduler="simple", steps=12, denoise=1.0)
    split = int((sigmas - BOUNDARY).abs().argmin())
    sigmas = torch.cat([sigmas[:split], torch.tensor([BOUNDARY]), sigmas[split + 1 :]])
    (sampler,) = pack.run("KSamplerSelect", sampler_name=sampler_name)
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent=latent)
    (no_noise,) = pack.run("DisableNoise")
    result = {"samples": torch.zeros_like(z)}
    for model, part, source in ((high, sigmas[: split + 1], as_noise), (low, sigmas[split:], no_noise)):
        texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2)}
        (guider,) = pack.run("CFGGuider", model=model, cfg=2.0, **texts)
        result, _ = pack.run(
            "SamplerCustomAdvanced", noise=source, guider=guider, sampler=sampler, sigmas=part, latent_image=result
        )
    assert_near(ours, result["samples"], 1e-4)
    assert relative_error(ours, smooth(pack, high, None, latent, sampler_name=sampler_name)["samples"]) > 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_inversion_runs_the_low_noise_expert_first(pack, solver):
    """Against the solver on a denoiser that changes at the boundary; each expert is exact for another distribution."""
    mixtures = [GaussianMixture(means_std=std) for std in (0.4, 0.9)]
    high, low = (tiny.as_video_model(tiny.exact_model(tiny.TinySDFlow, mixture)) for mixture in mixtures)
    clean = mixtures[1].sample(3)
    latent = {"samples": (clean / 0.18215).float()}
    inverted = invert(pack, high, low, latent, solver=solver, steps=24)

    levels = torch.tensor(inverted["bivdiff"]["levels"])
    split = levels.tolist().index(BOUNDARY)
    expected = clean
    for mixture, part in ((mixtures[1], levels[: split + 1]), (mixtures[0], levels[split:])):
        sigma_min = float(high.get_model_object("model_sampling").sigma_min)
        expected = SOLVERS[solver](mixture.flow, expected, part.double(), disable=True, sigma_min=sigma_min)
    assert_near(inverted["samples"], expected, 1e-4)
    assert len(levels) == 25


@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffInvertImage"])
def test_no_expert_is_called_on_the_wrong_side(pack, experts, node_id):
    high, low = tiny.CallCounter(), tiny.CallCounter()
    models = [calls.on(model) for calls, model in zip((high, low), experts, strict=True)]
    inverted = invert(pack, *models, {"samples": noise(1, 16, 3, 8, 8)}, node_id)
    assert min(high.sigmas) >= BOUNDARY - 1e-6 and max(low.sigmas) <= BOUNDARY + 1e-6
    high.sigmas.clear()
    low.sigmas.clear()
    smooth(pack, *models, inverted)
    assert min(high.sigmas) >= BOUNDARY - 1e-6 and max(low.sigmas) <= BOUNDARY + 1e-6
    assert high.sigmas and low.sigmas


def test_below_the_boundary_only_the_low_noise_expert_runs(pack, experts):
    high, low = experts
    with AssertNotCalled(high):
        inverted = invert(pack, high, low, {"samples": noise(1, 16, 3, 8, 8)}, strength=0.6)
        smoothed = smooth(pack, high, low, inverted)
    alone = invert(pack, low, None, {"samples": noise(1, 16, 3, 8, 8)}, strength=0.6)
    assert torch.equal(inverted["samples"], alone["samples"])
    assert torch.equal(smoothed["samples"], smooth(pack, low, None, alone)["samples"])


@tiny.needs_packed_frames
def test_windows_and_wired_sigmas_apply_to_both(pack, experts):
    high, low = tiny.CallCounter(), tiny.CallCounter()
    models = [calls.on(model) for calls, model in zip((high, low), experts, strict=True)]
    inputs = {"context_length": 5, "context_overlap": 4, "sigmas": torch.tensor([1.0, 0.9, 0.6, 0.25, 0.0])}
    inverted = invert(pack, *models, {"samples": noise(1, 16, 4, 8, 8)}, solver="ddim", **inputs)
    assert inverted["bivdiff"]["levels"] == pytest.approx([0, 0.25, 0.6, BOUNDARY, 1.0])
    assert len(low.sigmas) == 3 * 3 and len(high.sigmas) == 1 * 3  # three windows of two latents


def test_progress_counts_the_steps_of_both(pack, experts, monkeypatch):
    import comfy.utils

    reports: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: reports.append((done, total)))
    invert(pack, *experts, {"samples": noise(1, 16, 3, 8, 8)}, solver="ddim", steps=24)
    assert reports == sorted(reports) and reports[-1] == (24, 24)
    assert {total for _, total in reports} == {24}


def test_experts_of_different_kinds_are_refused(pack, experts):
    with pytest.raises(ValueError, match="low_noise_model has latent space HunyuanVideo, but model has Wan21"):
        invert(pack, experts[0], tiny.hunyuan_model(), {"samples": noise(1, 16, 3, 8, 8)})


def test_experts_of_models_in_one_latent_space_are_refused(pack, experts):
    frames = {"samples": noise(3, 16, 1, 8, 8)}
    with pytest.raises(ValueError, match="low_noise_model has model family Wan, but model has image"):
        invert(pack, tiny.qwen_model(), experts[1], frames, "BIVDiffInvertImage")


def test_the_reference_grid_is_for_one_model(pack):
    model = tiny.as_video_model(tiny.sd_model())
    with pytest.raises(ValueError, match="grid reference is for one model. Unlink low_noise_model"):
        invert(pack, model, model, tiny.make_latent(3, 4, 8, 8), grid="reference")


# Experts that are known by the name of their file


@pytest.fixture
def load(tmp_path):
    def load_expert(name: str):
        tiny.write_wan(tmp_path, name, "vae")
        return comfy.sd.load_diffusion_model(str(tmp_path / "diffusion_models" / f"{name}.safetensors"))

    return load_expert


def warn(pack, model, low=None, **inputs) -> str:
    latent = {"samples": noise(1, 16, 3, 8, 8)}
    given = {"conditioning": tiny.text(), "latent": latent, "steps": 4, "low_noise_model": low, **inputs}
    return collect_warnings(pack, "BIVDiffInvertVideo", model=model, **given)


HIGH, LOW = "wan2.2_t2v_high_noise_14B_fp8_scaled", "Wan2_2-T2V-A14B-LOW_fp8"


def test_an_expert_alone_beyond_the_boundary_is_named(pack, load):
    high, low = load(HIGH), load(LOW)
    (shifted,) = pack.run("ModelSamplingSD3", model=low, shift=5.0)
    named = "The name of {}.safetensors says that it is the {}, but this run covers sigma 0 to 1."
    assert named.format(HIGH, "high-noise expert, trained above sigma 0.875") in warn(pack, high)
    assert named.format(LOW, "low-noise expert, trained below sigma 0.875") in warn(pack, shifted)
    assert "trained above sigma 0.9" in warn(pack, high, boundary=0.9)
    inverted = {"samples": noise(1, 16, 3, 8, 8)}
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "steps": 4}
    assert "high-noise expert" in collect_warnings(
        pack, "BIVDiffTemporalSmoother", model=high, latent=inverted, **texts
    )


def test_swapped_experts_are_named(pack, load):
    text = warn(pack, load(LOW), load(HIGH))
    assert "high-noise expert" in text and "low-noise expert, trained below sigma 0.875, but this run covers" in text


@pytest.mark.parametrize("boundary", [BOUNDARY, 0.9])
def test_experts_within_their_range_are_no_warning(pack, load, boundary):
    high, low = load(HIGH), load(LOW)
    alone = {"strength": boundary, "boundary": boundary}
    assert "expert" not in warn(pack, high, low, boundary=boundary) + warn(pack, low, **alone)
    assert "expert" not in warn(pack, tiny.wan_model()) + warn(pack, load("wan2.1_t2v_low_res"))

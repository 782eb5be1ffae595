"""The nodes against independent oracles on the same networks: diffusers' scheduler, direct model calls, an exact
denoiser and ComfyUI's samplers."""

import inspect

import comfy.latent_formats
import comfy.model_management
import comfy.sample
import pytest
import torch
from diffusers import UNet3DConditionModel
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import GaussianMixture, assert_near, relative_error, rms, solve_ode
from fixtures.released_loops import ddim_denoise, invert_as_released, make_released_scheduler
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bivdiff_core import blend
from bivdiff_core.grids import sd_sigma

pytestmark = pytest.mark.floats

STEPS = 10
SCALE = comfy.latent_formats.SD15().scale_factor
MIXTURE = GaussianMixture(shape=(4, 8, 8), means_std=0.3, spread=0.95)


@pytest.fixture(scope="module")
def image_model():
    return tiny.sd_model()


@pytest.fixture(scope="module")
def video_model(pack):
    return tiny.video_model(pack)


@pytest.fixture(scope="module")
def wan():
    return tiny.wan_model()


def video_eps(model, conditioning: list):
    """diffusers' UNet3DConditionModel, called directly: `[F, C, H, W]` as one clip."""

    def eps(z: Tensor, t: int) -> Tensor:
        clip, text = z.double().transpose(0, 1).unsqueeze(0), conditioning[0][0].double()
        return model.model.diffusion_model.unet(clip, t, text).sample[0].transpose(0, 1).to(z.dtype)

    return eps


# The networks


def test_video_unet_equals_a_direct_diffusers_call(video_model):
    """Called by ComfyUI's apply_model with cond and uncond in one batch, each with its text."""
    x, sigma = noise(8, 4, 8, 8), 3.0
    cond, uncond = tiny.text(seed=1), tiny.text(seed=2)
    context = torch.cat([cond[0][0].expand(4, -1, -1), uncond[0][0].expand(4, -1, -1)])
    sampling = video_model.get_model_object("model_sampling")
    with torch.no_grad():
        denoised = video_model.model.apply_model(
            x, torch.full((8,), sigma), c_crossattn=context, transformer_options={"cond_or_uncond": [0, 1]}
        )
        t = float(sampling.timestep(torch.tensor(sigma)))
        z = x / (1 + sigma**2) ** 0.5
        expected = torch.cat(
            [video_eps(video_model, text)(part, t) for part, text in zip(z.split(4), (cond, uncond), strict=True)]
        )
    assert_near((x - denoised) / sigma, expected, 1e-5)


def test_video_unet_casts_stored_weights_layer_by_layer(pack):
    """Weights in half precision are cast in every layer, as ComfyUI does with little memory."""
    model, text = tiny.video_model(pack, stored=torch.float16), tiny.text()
    network = UNet3DConditionModel(**tiny.UNET_3D).eval()
    network.load_state_dict(model.model.diffusion_model.unet.state_dict())
    x, sigma = noise(4, 4, 8, 8), 3.0
    with torch.no_grad():
        denoised = model.model.apply_model(
            x,
            torch.full((4,), sigma),
            c_crossattn=text[0][0].expand(4, -1, -1),
            transformer_options={"cond_or_uncond": [0]},
        )
        t = float(model.get_model_object("model_sampling").timestep(torch.tensor(sigma)))
        clip = (x / (1 + sigma**2) ** 0.5).transpose(0, 1).unsqueeze(0)
        expected = network(clip, t, text[0][0]).sample[0].transpose(0, 1)
    assert_near((x - denoised) / sigma, expected, 1e-5)


def test_frames_of_the_video_unet_affect_each_other(video_model):
    """A change of the last frame changes the prediction of the first."""
    text = tiny.text()
    z = noise(4, 4, 8, 8)
    other = torch.cat([z[:3], noise(1, 4, 8, 8, seed=8)])
    with torch.no_grad():
        change = video_eps(video_model, text)(other, 500)[0] - video_eps(video_model, text)(z, 500)[0]
    assert rms(change) > 1e-3


# Inversion and smoothing against diffusers


@pytest.mark.parametrize(("grid", "set_alpha_to_one"), [("matched", True), ("reference", False)])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_smoother_equals_diffusers(pack, video_model, grid, set_alpha_to_one, cfg):
    positive, negative = tiny.text(seed=1), tiny.text(seed=2)
    z = noise(4, 4, 8, 8)
    (out,) = pack.run(
        "BIVDiffTemporalSmoother", model=video_model, positive=positive, negative=negative,
        latent={"samples": z}, steps=STEPS, cfg=cfg, grid=grid, scheduler="ddim_uniform",
    )  # fmt: skip
    cond, uncond = video_eps(video_model, positive), video_eps(video_model, negative)
    guided = (lambda z, t: uncond(z, t) + cfg * (cond(z, t) - uncond(z, t))) if cfg != 1 else cond
    with torch.no_grad():
        expected = ddim_denoise(guided, make_released_scheduler(STEPS, set_alpha_to_one), z)[-1]
    assert_near(out["samples"] * SCALE, expected, 1e-5)


@pytest.mark.parametrize(
    ("branch", "settings"), [("Image", {"group_norms": "per_frame"}), ("Video", {})], ids=["image", "video"]
)
def test_reference_inversion_equals_the_released_loop(pack, image_model, video_model, branch, settings):
    model, eps = (image_model, tiny.make_eps_function) if branch == "Image" else (video_model, video_eps)
    conditioning, latent = tiny.text(), tiny.make_latent(4, 4, 8, 8)
    (out,) = pack.run(
        f"BIVDiffInvert{branch}", model=model, conditioning=conditioning, latent=latent, steps=STEPS,
        grid="reference", solver="ddim", **settings,
    )  # fmt: skip
    with torch.no_grad():
        z = latent["samples"] * SCALE
        expected = invert_as_released(eps(model, conditioning), make_released_scheduler(STEPS), z)[-1]
    assert_near(out["samples"], expected, 1e-5)


def test_matched_inversion_equals_ddim_from_no_noise(pack, image_model):
    """Steps between alphas 1, a_1, a_101, ..., a_901. Each is predicted at its start, the first at t = 0."""
    conditioning, latent = tiny.text(), tiny.make_latent(4, 4, 8, 8)
    (out,) = pack.run(
        "BIVDiffInvertImage", model=image_model, conditioning=conditioning, latent=latent, steps=STEPS,
        solver="ddim", scheduler="ddim_uniform",
    )  # fmt: skip
    scheduler, eps = make_released_scheduler(STEPS), tiny.make_eps_function(image_model, conditioning)
    a = scheduler.alphas_cumprod.double()
    x = latent["samples"].double() * SCALE  # k-space: z / sqrt(alpha)
    sigma, t = torch.tensor(0.0, dtype=torch.float64), 0
    with torch.no_grad():
        for t_next in scheduler.timesteps.flip(0).tolist():
            sigma_next = ((1 - a[t_next]) / a[t_next]).sqrt()
            x, sigma, t = x + (sigma_next - sigma) * eps(x * a[t].sqrt(), t), sigma_next, t_next
    assert_near(out["samples"], x * a[t].sqrt(), 1e-5)


def test_inversion_of_a_conditioned_model_uses_no_guidance(pack, image_model):
    """One call a step, with the given text."""
    latent, calls = tiny.make_latent(3, 4, 8, 8), tiny.CallCounter()
    model = calls.on(image_model)
    outs = [
        pack.run(
            "BIVDiffInvertImage", model=model, conditioning=tiny.text(seed=s), latent=latent, steps=8,
            solver="ddim",
        )[0]
        for s in (1, 2)
    ]  # fmt: skip
    assert calls.rows == [3] * 16
    assert relative_error(outs[0]["samples"], outs[1]["samples"]) > 1e-3


# Inversion and denoising


@pytest.mark.parametrize("kind", tiny.PREDICTION_TYPES)
def test_inversion_follows_the_ode(pack, kind):
    """From sigma 0 to the model's sigma_max; the result has the scale of inverted latents."""
    model = tiny.as_video_model(tiny.exact_model(tiny.PREDICTION_TYPES[kind], MIXTURE))
    sampling = model.get_model_object("model_sampling")
    sigma_max, x0 = float(sampling.sigma_max), MIXTURE.sample(4)
    (out,) = pack.run(
        "BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent={"samples": (x0 / SCALE).float()},
        steps=25, scheduler="normal", solver="fireflow",
    )  # fmt: skip
    expected = solve_ode(getattr(MIXTURE, kind), x0, sigma_max, float(sampling.sigma_min), steps=500)
    if kind != "flow":
        expected = expected / (1 + sigma_max**2) ** 0.5
    assert_near(out["samples"], expected, 0.02)
    assert out["samples"].std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("solver", "sampler"), [("uni_inv", "ddim"), ("fireflow", "heun")])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("kind", tiny.PREDICTION_TYPES)
def test_round_trip(pack, kind, strength, solver, sampler):
    """Inversion and denoising on the same noise levels return to the latent, also at strength 0.6."""
    model, text = tiny.as_video_model(tiny.exact_model(tiny.PREDICTION_TYPES[kind], MIXTURE)), tiny.text()
    latent = {"samples": (MIXTURE.sample(4) / SCALE).float()}
    errors = []
    for steps in (20, 40) if strength == 1 else (12, 24):
        inputs = {"model": model, "steps": steps, "scheduler": "normal" if kind == "flow" else "ddim_uniform"}
        (inverted,) = pack.run(
            "BIVDiffInvertVideo", conditioning=text, latent=latent, solver=solver, strength=strength, **inputs
        )
        (back,) = pack.run(
            "BIVDiffTemporalSmoother", positive=text, negative=text, latent=inverted, cfg=1.0,
            sampler_name=sampler, **inputs,
        )  # fmt: skip
        errors.append(relative_error(back["samples"], latent["samples"]))
    assert errors[0] < 0.05 and errors[1] < errors[0] / 2


@pytest.mark.parametrize("kind", tiny.PREDICTION_TYPES)
def test_every_listed_sampler_returns_to_the_latent(pack, kind):
    """All samplers of the smoother solve the ODE. None adds noise, which would destroy the inverted frames."""
    model, text = tiny.as_video_model(tiny.exact_model(tiny.PREDICTION_TYPES[kind], MIXTURE)), tiny.text()
    latent = {"samples": (MIXTURE.sample(3) / SCALE).float()}
    inputs = {"model": model, "steps": 40, "scheduler": "simple" if kind == "flow" else "ddim_uniform"}
    (inverted,) = pack.run("BIVDiffInvertVideo", conditioning=text, latent=latent, solver="fixed_point", **inputs)
    samplers = pack.classes["BIVDiffTemporalSmoother"].INPUT_TYPES()["required"]["sampler_name"][1]["options"]
    errors = {}
    for sampler in samplers:
        (back,) = pack.run(
            "BIVDiffTemporalSmoother", positive=text, negative=text, latent=inverted, cfg=1.0,
            sampler_name=sampler, **inputs,
        )  # fmt: skip
        errors[sampler] = relative_error(back["samples"], latent["samples"])
    assert errors.pop("ddim") < 0.01
    assert max(errors.values()) < 0.1


def test_round_trip_of_a_5d_flow_model(pack, wan):
    """Wan with random weights: fixed_point inverts DDIM on any network. Wan's latents have a per-channel shift."""
    latent, text = tiny.make_latent(1, 16, 4, 8, 8), tiny.text()
    errors = []
    for steps in (6, 24):
        inputs = {"model": wan, "steps": steps, "scheduler": "karras"}
        (inverted,) = pack.run("BIVDiffInvertVideo", conditioning=text, latent=latent, solver="fixed_point", **inputs)
        (back,) = pack.run("BIVDiffTemporalSmoother", positive=text, negative=text, latent=inverted, cfg=1.0, **inputs)
        errors.append(relative_error(back["samples"], latent["samples"]))
    assert back["samples"].shape == latent["samples"].shape
    assert errors[0] < 0.01 and errors[1] < errors[0] / 10


# Mixing


def test_models_with_different_schedules_mix_to_unit_variance(pack):
    """Stable Diffusion's sigma_max is 14.6, AnimateDiff's 25.1, so their unscaled x have different sizes."""
    latent = {"samples": (MIXTURE.sample(6) / SCALE).float()}
    models = [tiny.exact_model(config, MIXTURE) for config in (tiny.TinySD, tiny.AnimateDiffSchedule)]
    models[1] = tiny.as_video_model(models[1])
    image, video = (
        pack.run(
            f"BIVDiffInvert{branch}", model=model, conditioning=tiny.text(), latent=latent, steps=25,
            scheduler="normal", solver="fireflow",
        )[0]
        for branch, model in zip(("Image", "Video"), models, strict=True)
    )  # fmt: skip
    assert image["bivdiff"]["sigma"] == pytest.approx(14.6146, rel=1e-4)
    assert video["bivdiff"]["sigma"] == pytest.approx(25.15, rel=1e-3)
    for mode in ("linear", "variance_preserving", "slerp"):
        mixed, ratio = pack.run(
            "BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.4, mode=mode
        )
        assert ratio == 0.4
        expected = {**video["bivdiff"], "branch": "mix", "fingerprint": mixed["bivdiff"]["fingerprint"]}
        assert mixed["bivdiff"] == expected
        assert mixed["samples"].std().item() == pytest.approx(1, abs=0.03)
    # Both models are exact for the same data distribution, so their inverted latents must agree.
    assert torch.corrcoef(torch.stack([image["samples"].flatten(), video["samples"].flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("mode", ["linear", "variance_preserving", "slerp"])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_single_branch_is_returned_bit_for_bit(pack, mode, ratio):
    """With and without the other branch, which a graph does not evaluate."""
    image, video = ({"samples": noise(4, 4, 8, 8, seed=s)} for s in (1, 2))
    expected = image if ratio else video
    alone = {"image_latent": image} if ratio else {"video_latent": video}
    for inputs in ({"image_latent": image, "video_latent": video}, alone):
        mixed, used = pack.run("BIVDiffMixedInversion", mixing_ratio=ratio, mode=mode, **inputs)
        assert torch.equal(mixed["samples"], expected["samples"]) and used == ratio


@pytest.mark.parametrize(
    ("task", "ratio"),
    {"custom": 0.5, "controlnet": 1, "t2i_adapter": 1, "instruct_pix2pix": 1, "prompt2prompt": 0.25}.items(),
)
def test_a_task_sets_the_papers_ratio(pack, task, ratio):
    image, video = ({"samples": noise(4, 4, 8, 8, seed=s)} for s in (1, 2))
    mixed, used = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=video, task=task, mixing_ratio=0.5)
    assert used == ratio
    torch.testing.assert_close(mixed["samples"], ratio * image["samples"] + (1 - ratio) * video["samples"])


def test_steadiness_smooths_the_mix(pack):
    image, video = (tiny.make_inverted_latent(pack, noise(6, 4, 8, 8, seed=seed)) for seed in (7, 8))

    def mixed(ratio: float, steadiness: float) -> Tensor:
        branches = {"image_latent": image, "video_latent": video}
        latent, _ = pack.run("BIVDiffMixedInversion", mixing_ratio=ratio, steadiness=steadiness, **branches)
        assert latent["bivdiff"]["branch"] == "mix"
        return latent["samples"]

    for ratio in (0.0, 0.3, 1.0):
        plain = mixed(ratio, 0.0)
        torch.testing.assert_close(plain, ratio * image["samples"] + (1 - ratio) * video["samples"])
        assert torch.equal(mixed(ratio, 0.5), blend.smooth_over_time(plain, 0.5))


def test_steadiness_smooths_a_video_latent_along_time(pack):
    clip = noise(1, 16, 5, 8, 8)
    mixed, _ = pack.run("BIVDiffMixedInversion", video_latent={"samples": clip}, mixing_ratio=0.0, steadiness=0.5)
    expected = blend.smooth_over_time(clip[0].transpose(0, 1), 0.5)
    torch.testing.assert_close(mixed["samples"][0].transpose(0, 1), expected)


def test_frames_of_a_3d_image_model_mix_with_a_video(pack):
    """[F, C, 1, H, W] with [1, C, F, H, W]: frame i is mixed with time slice i."""
    image, video = {"samples": noise(3, 16, 1, 8, 8)}, {"samples": noise(1, 16, 3, 8, 8, seed=8)}
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    for i in range(3):
        expected = 0.5 * image["samples"][i, :, 0] + 0.5 * video["samples"][0, :, i]
        torch.testing.assert_close(mixed["samples"][0, :, i], expected)


@pytest.mark.parametrize("context_length", [0, 5])
def test_the_smoother_takes_frames_of_a_3d_image_model_as_a_clip(pack, wan, context_length):
    """At a mixing ratio of 1 the smoother gets the image branch's latent, with its shape."""
    z, text = noise(3, 16, 1, 8, 8), tiny.text()
    inputs = {"model": wan, "positive": text, "negative": text, "steps": 3, "scheduler": "simple", "cfg": 1.0}
    inputs["context_length"] = context_length
    (as_frames,) = pack.run("BIVDiffTemporalSmoother", latent={"samples": z}, **inputs)
    (as_clip,) = pack.run("BIVDiffTemporalSmoother", latent={"samples": z.transpose(0, 2)}, **inputs)
    assert torch.equal(as_frames["samples"], as_clip["samples"])


# Core samplers


@pytest.mark.parametrize(
    ("family", "scheduler", "strength"),
    [
        ("diffusion", "normal", 1.0),  # starts at sigma_max, where ComfyUI scales noise differently
        ("diffusion", "ddim_uniform", 1.0),
        ("diffusion", "ddim_uniform", 0.5),
        ("flow", "simple", 1.0),
        ("flow", "simple", 0.5),
    ],
)
def test_core_samplers_take_an_inverted_latent_as_noise(pack, video_model, wan, family, scheduler, strength):
    """SamplerCustomAdvanced with CFGGuider and an empty latent equals the smoother."""
    model, latent = (
        (video_model, tiny.make_latent(3, 4, 8, 8))
        if family == "diffusion"
        else (wan, tiny.make_latent(1, 16, 3, 8, 8))
    )
    positive, negative = tiny.text(seed=1), tiny.text(seed=2)
    (inverted,) = pack.run(
        "BIVDiffInvertVideo", model=model, conditioning=negative, latent=latent, steps=25, scheduler=scheduler,
        strength=strength,
    )  # fmt: skip
    (smoothed,) = pack.run(
        "BIVDiffTemporalSmoother", model=model, positive=positive, negative=negative, latent=inverted, steps=25,
        cfg=2.0, scheduler=scheduler,
    )  # fmt: skip

    sigmas = torch.tensor(inverted["bivdiff"]["levels"]).flip(0)
    assert len(sigmas) == 26  # no step was divided
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent=inverted)
    (guider,) = pack.run("CFGGuider", model=model, positive=positive, negative=negative, cfg=2.0)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="ddim")
    empty = {"samples": torch.zeros_like(latent["samples"])}
    sampled, _ = pack.run(
        "SamplerCustomAdvanced", noise=as_noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    assert_near(smoothed["samples"], sampled["samples"], 1e-5)
    assert relative_error(smoothed["samples"], latent["samples"]) > 1e-3


# Other entries of a latent


def test_description_and_mask_are_passed_on(pack, video_model):
    """An inverted latent records its noise level and keeps its mask; a denoised latent has no such record."""
    mask = (noise(3, 8, 8) > 0).float()
    latent = {**tiny.make_latent(3, 4, 8, 8), "noise_mask": mask, "batch_index": [4, 5, 6]}
    text = tiny.text()
    (inverted,) = pack.run(
        "BIVDiffInvertVideo", model=video_model, conditioning=text, latent=latent, steps=4, strength=0.5
    )
    info = inverted["bivdiff"]
    assert info["sigma"] == pytest.approx(sd_sigma(500), rel=1e-6)
    assert (info["strength"], info["at_sigma_max"], info["branch"], info["grid"]) == (0.5, False, "video", "matched")
    assert (info["latent_format"], info["family"]) == ("SD15", "diffusion")
    (smoothed,) = pack.run(
        "BIVDiffTemporalSmoother", model=video_model, positive=text, negative=text, latent=inverted, steps=4
    )
    assert "bivdiff" not in smoothed
    for out in (inverted, smoothed):
        assert torch.equal(out["noise_mask"], mask) and out["batch_index"] == [4, 5, 6]


def test_an_empty_latents_downscale_ratio_is_dropped(pack, image_model):
    """As in core's KSampler, because generated frames have the model's size."""
    (empty,) = pack.run("EmptyLatentImage", width=64, height=64, batch_size=2)
    inputs = {"model": image_model, "positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "steps": 2}
    if "downscale_ratio_temporal" in inspect.signature(comfy.sample.fix_empty_latent_channels).parameters:
        empty["downscale_ratio_temporal"] = 1
    inputs |= {"sampler_name": "euler", "scheduler": "normal", "latent_image": empty}
    ours, core = (pack.run(node_id, **inputs)[0] for node_id in ("BIVDiffFrameSampler", "KSampler"))
    assert ours.keys() == core.keys()


def test_results_have_comfyuis_intermediate_dtype(pack, image_model, video_model, monkeypatch):
    """With --fp16-intermediates all latents are in half precision, and every node accepts them."""
    monkeypatch.setattr(comfy.model_management.args, "fp16_intermediates", True)
    text, steps = tiny.text(), {"steps": 4}
    texts = {"positive": text, "negative": text}
    (empty,) = pack.run("EmptyLatentImage", width=64, height=64, batch_size=3)
    (frames,) = pack.run("BIVDiffFrameSampler", model=image_model, latent_image=empty, **texts, **steps)
    image, video = (
        pack.run(f"BIVDiffInvert{branch}", model=model, conditioning=text, latent=frames, **steps)[0]
        for branch, model in (("Image", image_model), ("Video", video_model))
    )
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    (smoothed,) = pack.run("BIVDiffTemporalSmoother", model=video_model, latent=mixed, **texts, **steps)
    for latent in (frames, image, video, mixed, smoothed):
        assert latent["samples"].dtype == torch.float16 and latent["samples"].isfinite().all()


@pytest.mark.parametrize("mode", ["linear", "variance_preserving", "slerp", "frequency"])
def test_a_blend_in_half_precision_is_rounded_once(pack, monkeypatch, mode):
    monkeypatch.setattr(comfy.model_management.args, "fp16_intermediates", True)
    blend = pack.import_module("bivdiff_core.blend")
    image, video = (noise(3, 4, 8, 8, seed=seed).half() for seed in (1, 2))
    branches = {"image_latent": {"samples": image}, "video_latent": {"samples": video}}
    mixed, _ = pack.run("BIVDiffMixedInversion", **branches, mixing_ratio=0.3, mode=mode)
    assert torch.equal(mixed["samples"], blend.MODES[mode](image.float(), video.float(), 0.3).half())


def test_results_are_moved_to_the_intermediate_device(pack):
    """Fake tensors of torch know their device without a GPU."""
    latents = pack.import_module("bivdiff_core.host.latents")
    with FakeTensorMode():
        result = latents.replace_samples({}, torch.empty(3, 4, 8, 8, device="cuda"))
    assert result["samples"].device == comfy.model_management.intermediate_device()


def test_every_pixel_is_inverted_with_any_mask(pack, image_model):
    latent = tiny.make_latent(2, 4, 8, 8)
    masked = {**latent, "noise_mask": torch.zeros(2, 8, 8)}
    plain, with_mask = (
        pack.run("BIVDiffInvertImage", model=image_model, conditioning=tiny.text(), latent=inputs, steps=4)[0]
        for inputs in (latent, masked)
    )
    assert torch.equal(plain["samples"], with_mask["samples"])


def test_smoother_starts_at_its_strength_if_the_latent_has_no_record(pack, video_model):
    """Core's SaveLatent and LoadLatent keep the samples only."""
    text = tiny.text()
    (inverted,) = pack.run(
        "BIVDiffInvertVideo", model=video_model, conditioning=text, latent=tiny.make_latent(3, 4, 8, 8), steps=4,
        strength=0.5,
    )  # fmt: skip
    inputs = {"model": video_model, "positive": text, "negative": text, "steps": 4}
    loaded = {"samples": noise(3, 4, 8, 8)}  # a latent without a record must look like noise
    recorded = tiny.make_inverted_latent(pack, loaded["samples"], strength=0.5, sigma=inverted["bivdiff"]["sigma"])
    (by_record,) = pack.run("BIVDiffTemporalSmoother", latent=recorded, **inputs)
    (by_strength,) = pack.run("BIVDiffTemporalSmoother", latent=loaded, strength=0.5, **inputs)
    (full,) = pack.run("BIVDiffTemporalSmoother", latent=loaded, **inputs)
    assert_near(by_record["samples"], by_strength["samples"], 1e-5)
    assert relative_error(full["samples"], by_strength["samples"]) > 1e-3


def test_the_same_graph_gives_the_same_bits(pack, image_model, video_model):
    """Frames, both inversions, blend and smoothing, run twice."""
    positive, negative = tiny.text(seed=1), tiny.text(seed=2)

    def chain() -> Tensor:
        inputs = {"positive": positive, "negative": negative, "steps": 3, "cfg": 2.0}
        empty = {"samples": torch.zeros(4, 4, 8, 8)}
        (frames,) = pack.run(
            "BIVDiffFrameSampler",
            model=image_model,
            latent_image=empty,
            seed=5,
            frame_noise="progressive",
            **inputs,
        )
        image, video = (
            pack.run(
                f"BIVDiffInvert{branch}", model=model, conditioning=negative, latent=frames, steps=3,
                scheduler="karras",
            )[0]
            for branch, model in (("Image", image_model), ("Video", video_model))
        )  # fmt: skip
        mixed, _ = pack.run(
            "BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.25,
            mode="variance_preserving",
        )  # fmt: skip
        return pack.run("BIVDiffTemporalSmoother", model=video_model, latent=mixed, **inputs)[0]["samples"]

    assert torch.equal(chain(), chain())

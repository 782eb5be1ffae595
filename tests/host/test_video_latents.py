"""Flow models with video latents (Wan 2.1, LTX, HunyuanVideo) in both branches and in the smoother.

Networks have random weights, so every change of their inputs is visible. The oracle is a direct call of ComfyUI's
network.
"""

import math

import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error, rms, solve_ode
from fixtures.node_calls import AssertNotCalled
from fixtures.tiny_models import FlowVideo
from torch import Tensor

pytestmark = pytest.mark.floats

LATENT_FRAMES = 3
INVERSION_NODES = ["BIVDiffInvertImage", "BIVDiffInvertVideo"]


@pytest.fixture(scope="module", params=FlowVideo.KINDS)
def video(request) -> FlowVideo:
    return FlowVideo(request.param)


@pytest.fixture(scope="module", params=[*FlowVideo.KINDS, *FlowVideo.OTHER_KINDS])
def every_video(request) -> FlowVideo:
    return FlowVideo(request.param)


@pytest.fixture(scope="module")
def wan() -> FlowVideo:
    return FlowVideo("wan")


@pytest.fixture(scope="module")
def hunyuan() -> FlowVideo:
    return FlowVideo("hunyuan")


def assert_same(a: Tensor, b: Tensor) -> None:
    """Assert equality within float32 rounding."""
    assert a.shape == b.shape
    assert_near(a, b, 2e-5)


def invert(pack, video: FlowVideo, branch: str, latent: dict, **inputs) -> dict:
    given = {"model": video.model, "conditioning": video.text(), "steps": 4, "scheduler": "simple"}
    given |= {"solver": "fireflow", **inputs}
    return pack.run(f"BIVDiffInvert{branch}", latent=latent, **given)[0]


def smooth(pack, video: FlowVideo, latent: dict, **inputs) -> Tensor:
    given = {"model": video.model, "positive": video.text(), "negative": video.text(seed=2), "steps": 4, "cfg": 1.0}
    given |= {"scheduler": "simple", **inputs}
    return pack.run("BIVDiffTemporalSmoother", latent=latent, **given)[0]["samples"]


# Inversion and denoising


def test_inversion_follows_the_ode(pack, video):
    """From sigma 0 to 1, with the first slope at the model's sigma_min, against Runge-Kutta with small steps."""
    (text, extra), latent = video.text()[0], video.latent()
    model = video.model.model
    inputs = {key: value for key, value in extra.items() if key == "attention_mask"}
    if video.kind == "hunyuan":
        inputs = {"y": extra["pooled_output"], "guidance": torch.tensor([1.0])}

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return model.apply_model(x.float(), sigma.float(), c_crossattn=text, transformer_options={}, **inputs).double()

    with torch.no_grad():
        sigma_min = float(model.model_sampling.sigma_min)
        expected = solve_ode(denoised, model.process_latent_in(latent["samples"]).double(), 1.0, sigma_min, steps=80)
    errors = [relative_error(invert(pack, video, "Video", latent, steps=n)["samples"], expected) for n in (10, 80)]
    assert errors[0] < 0.01 and errors[1] < errors[0] / 3


def test_round_trip(pack, every_video):
    """Inversion with fireflow and denoising with heun return to the clip."""
    video, errors = every_video, []
    latent = video.latent()
    for steps in (10, 20):
        inverted = invert(pack, video, "Video", latent, steps=steps)
        assert torch.isfinite(inverted["samples"]).all()
        assert inverted["bivdiff"]["at_sigma_max"] and math.isclose(inverted["bivdiff"]["sigma"], 1, abs_tol=1e-6)
        errors.append(
            relative_error(smooth(pack, video, inverted, sampler_name="heun", steps=steps), latent["samples"])
        )
    assert errors[1] < 0.05 and errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("ratio", [1.0, 0.25, 0.0])
def test_one_model_in_both_branches(pack, every_video, ratio):
    """Independently encoded frames and the encoded clip are inverted, mixed slice by slice, and smoothed."""
    video, clip = every_video, every_video.latent()
    frames = {"samples": clip["samples"].transpose(0, 2)}
    assert frames["samples"].shape == (LATENT_FRAMES, video.channels, 1, 8, 8)
    image, whole = invert(pack, video, "Image", frames), invert(pack, video, "Video", clip)
    assert relative_error(image["samples"].transpose(0, 2), whole["samples"]) > 1e-3
    mixed, _ = pack.run(
        "BIVDiffMixedInversion", image_latent=image, video_latent=whole, mixing_ratio=ratio,
        mode="variance_preserving",
    )  # fmt: skip
    if ratio == 0.25:
        assert mixed["samples"].shape == clip["samples"].shape
    out = smooth(pack, video, mixed, cfg=2.0)
    assert out.shape == clip["samples"].shape and torch.isfinite(out).all()


def test_from_frames_to_frames(pack, wan):
    """A video model and its VAE, without an image model, turn nine frames into nine different ones."""
    vae, images = tiny.wan_vae(), torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    frames, clip = (
        pack.run("BIVDiffEncodeFrames", vae=vae, images=images, stride=stride, mode=mode)[0]
        for stride, mode in ((4, "single_frames"), (1, "clip"))
    )
    image, whole = invert(pack, wan, "Image", frames), invert(pack, wan, "Video", clip)
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=whole, mixing_ratio=0.25)
    (out,) = pack.run("VAEDecode", vae=vae, samples={"samples": smooth(pack, wan, mixed, cfg=2.0)})
    assert out.shape == images.shape and torch.isfinite(out).all()
    (decoded,) = pack.run("VAEDecode", vae=vae, samples=clip)
    assert rms(out - decoded) > 1e-3


# The image branch


@pytest.mark.parametrize("frames_per_batch", [1, 2, LATENT_FRAMES])
def test_time_slices_and_single_frames_are_inverted_independently(pack, video, frames_per_batch):
    """Each is inverted as a clip of length 1; the chunks do not matter."""
    clip = video.latent()
    frames = {"samples": clip["samples"].transpose(0, 2)}
    inputs = {"frames_per_batch": frames_per_batch}
    sliced = invert(pack, video, "Image", clip, **inputs)["samples"]
    separate = invert(pack, video, "Image", frames, **inputs)["samples"]
    assert sliced.shape == clip["samples"].shape and separate.shape == frames["samples"].shape
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        alone = invert(pack, video, "Image", {"samples": part})["samples"]
        assert_same(sliced[:, :, i : i + 1], alone)
        assert_same(separate[i : i + 1], alone)


@pytest.mark.parametrize("frames_per_batch", [1, 2, LATENT_FRAMES])
def test_a_text_for_every_slice_goes_with_it(pack, video, frames_per_batch):
    clip, texts = video.latent(), video.text(LATENT_FRAMES, 7, tiny.TEXT_WIDTH)
    sliced = invert(pack, video, "Image", clip, conditioning=texts, frames_per_batch=frames_per_batch)["samples"]
    text, extra = texts[0]
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        alone = invert(pack, video, "Image", {"samples": part}, conditioning=[[text[i : i + 1], extra]])["samples"]
        assert_same(sliced[:, :, i : i + 1], alone)
    first_for_all = invert(pack, video, "Image", clip, conditioning=[[text[:1], extra]])["samples"]
    assert relative_error(first_for_all[:, :, 1:], sliced[:, :, 1:]) > 1e-3


def test_conditioning_of_the_whole_clip_is_not_used_for_slices(pack, wan):
    """Wan appends a reference clip in time: the image branch ignores it, the video branch uses it."""
    clip, extra = wan.latent(), {"time_dim_concat": noise(1, 16, 2, 8, 8)}
    for branch in ("Image", "Video"):
        plain, extended = (
            invert(pack, wan, branch, clip, conditioning=text)["samples"] for text in (wan.text(), wan.text(**extra))
        )
        assert torch.equal(plain, extended) == (branch == "Image")


@pytest.mark.parametrize("masked", [0, 3])
def test_hunyuan_with_masked_text_takes_one_frame_a_call(pack, hunyuan, masked):
    """ComfyUI's HunyuanVideo raises on more rows. An attention_mask of ones changes nothing."""
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 7 - masked :] = 0
    text, calls, clip = hunyuan.text(attention_mask=mask), tiny.CallCounter(), hunyuan.latent()
    model = calls.on(hunyuan.model)
    out = invert(pack, hunyuan, "Image", clip, model=model, conditioning=text, frames_per_batch=0)["samples"]
    assert set(calls.rows) == {1}
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        assert_same(
            out[:, :, i : i + 1], invert(pack, hunyuan, "Image", {"samples": part}, conditioning=text)["samples"]
        )
    plain = invert(pack, hunyuan, "Image", clip)["samples"]
    assert (relative_error(out, plain) < 1e-5) == (masked == 0)
    # Core samplers and Frame-wise Image Sampler use the same chunks.
    (frames,) = pack.run(
        "BIVDiffFrameSampler", model=model, positive=text, negative=text, cfg=1.0, steps=2, scheduler="simple",
        latent_image={"samples": torch.zeros(LATENT_FRAMES, 16, 1, 8, 8)},
    )  # fmt: skip
    assert set(calls.rows) == {1} and frames["samples"].shape == (LATENT_FRAMES, 16, 1, 8, 8)


# Schedules, shift, guidance


@pytest.mark.parametrize("stage", ["Image", "Video", "smoother"])
def test_every_scheduler_reaches_full_noise_or_is_rejected(pack, video, stage):
    """LTX's highest sigma is .99999994 after rounding."""
    reached = set()
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        calls = tiny.CallCounter()
        inputs = {"model": calls.on(video.model), "scheduler": scheduler, "steps": 3}
        try:
            if stage == "smoother":
                out = smooth(pack, video, {"samples": noise(1, video.channels, LATENT_FRAMES, 8, 8)}, **inputs)
                sigma_max = calls.sigmas[0]
            else:
                inverted = invert(pack, video, stage, video.latent(), **inputs)
                out, sigma_max = inverted["samples"], inverted["bivdiff"]["sigma"]
        except ValueError as error:
            assert "reaches only sigma" in str(error) and "simple, normal or beta" in str(error)
            assert calls.rows == []
        else:
            reached.add(scheduler)
            assert torch.isfinite(out).all() and math.isclose(sigma_max, 1, abs_tol=1e-4)
    assert {"simple", "normal", "beta"} <= reached
    assert "ddim_uniform" not in reached


def test_shift_does_not_change_the_inverted_latent(pack, wan):
    """With small steps the result of the inversion does not depend on the shift, although its levels do."""
    latents = []
    for shift in (1.0, 8.0):
        (model,) = pack.run("ModelSamplingSD3", model=wan.model, shift=shift)
        latents.append(invert(pack, wan, "Video", wan.latent(), model=model, steps=20))
    without, with_shift = latents
    assert without["bivdiff"]["levels"][1] < with_shift["bivdiff"]["levels"][1] / 2
    assert_near(without["samples"], with_shift["samples"], 0.01)


class GuidanceRecorder(tiny.CallCounter):
    """Records the guidance that the network gets."""

    def __call__(self, apply_model, args):
        self.guidance = args["c"]["guidance"].tolist()
        return super().__call__(apply_model, args)


@pytest.mark.parametrize("branch", ["Image", "Video"])
def test_built_in_guidance_is_off_in_inversion(pack, hunyuan, branch):
    """ComfyUI's default for HunyuanVideo, 6, is for generation. Guidance in the conditioning is used."""
    text, extra = hunyuan.text()[0]
    extra = {key: value for key, value in extra.items() if key != "guidance"}
    recorder = GuidanceRecorder()
    model = recorder.on(hunyuan.model)
    invert(pack, hunyuan, branch, hunyuan.latent(), model=model, conditioning=[[text, extra]])
    assert set(recorder.guidance) == {1.0}
    (wired,) = pack.run("FluxGuidance", conditioning=[[text, extra]], guidance=3.0)
    invert(pack, hunyuan, branch, hunyuan.latent(), model=model, conditioning=wired)
    assert set(recorder.guidance) == {3.0}
    smooth(pack, hunyuan, {"samples": noise(1, 16, LATENT_FRAMES, 8, 8)}, model=model, positive=[[text, extra]])
    assert recorder.guidance == [6.0]


class NetworkWithoutSettings(torch.nn.Module):
    """A network inside another module, as Nunchaku wraps Flux."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network
        self.dtype = network.dtype

    def forward(self, *args, **kwargs) -> Tensor:
        return self.network(*args, **kwargs)


def test_built_in_guidance_of_a_replaced_network_is_off_too(pack):
    flux, recorder = tiny.flux_model(), GuidanceRecorder()
    flux.model.diffusion_model = NetworkWithoutSettings(flux.model.diffusion_model)
    text = tiny.text(pooled_output=noise(1, tiny.TEXT_WIDTH))
    inputs = {"conditioning": text, "latent": tiny.make_latent(2, 16, 8, 8), "steps": 2}
    pack.run("BIVDiffInvertImage", model=recorder.on(flux), **inputs)
    assert set(recorder.guidance) == {1.0}


@pytest.mark.parametrize("node_id", INVERSION_NODES)
def test_mean_flow_models_are_not_called_at_the_last_level(pack, node_id):
    """They also use the next level, for which ComfyUI would read past the end of the grid."""
    video = FlowVideo("hunyuan")
    video.model = tiny.hunyuan_model(meanflow=True)
    branch = node_id.removeprefix("BIVDiffInvert")
    for solver in ("uni_inv", "fixed_point"):
        calls = tiny.CallCounter()
        with pytest.raises(ValueError, match=f"solver {solver} .* mean-flow .* Set solver to ddim or fireflow"):
            invert(pack, video, branch, video.latent(), model=calls.on(video.model), solver=solver)
        assert calls.rows == []
    for solver in ("ddim", "fireflow"):
        assert torch.isfinite(invert(pack, video, branch, video.latent(), solver=solver)["samples"]).all()


# Masks


@pytest.mark.parametrize("shape", [(1, 8, 8), (LATENT_FRAMES, 8, 8), (1, 1, LATENT_FRAMES, 8, 8)])
def test_a_mask_affects_neither_inversion_nor_smoothing(pack, video, shape):
    """LTX and Wan 2.2 would compute a noise level per token from it."""
    mask = (noise(*shape) > 0).float()
    plain, masked = video.latent(), video.latent(noise_mask=mask)
    for branch in ("Image", "Video"):
        a, b = (invert(pack, video, branch, latent) for latent in (plain, masked))
        assert torch.equal(a["samples"], b["samples"])
        assert torch.equal(b["noise_mask"], mask)
        assert torch.equal(smooth(pack, video, a), smooth(pack, video, b))


# Windows


def core_windows(pack, model, **settings):
    """A MODEL with ComfyUI's windows of two latents that overlap by one."""
    (windowed,) = pack.run(
        "ContextWindowsManual", model=model, context_length=2, context_overlap=1, context_stride=1, closed_loop=False,
        dim=2, context_schedule="standard_static", fuse_method="pyramid", **{"freenoise": False, **settings},
    )  # fmt: skip
    return windowed


def windows(video: FlowVideo) -> dict[str, int]:
    """The same windows for the pack's nodes, which count frames."""
    return {"context_length": video.packed + 1, "context_overlap": video.packed}


@tiny.needs_packed_frames
def test_windows_count_frames(pack, every_video):
    """In inversion and smoothing, equal to ComfyUI's windows; single frames are windowed as a clip."""
    video, calls = every_video, tiny.CallCounter()
    clip, model = video.latent(4), calls.on(video.model)
    windowed = invert(pack, video, "Video", clip, model=model, **windows(video))
    steps = len(windowed["bivdiff"]["levels"]) - 1
    assert len(calls.rows) == 3 * (steps + 1)  # windows 0-1, 1-2, 2-3; fireflow has an extra call at the start
    by_core = invert(pack, video, "Video", clip, model=core_windows(pack, video.model))
    assert_same(windowed["samples"], by_core["samples"])
    assert relative_error(windowed["samples"], invert(pack, video, "Video", clip)["samples"]) > 1e-4
    z = {"samples": noise(1, video.channels, 4, 8, 8)}
    smoothed = smooth(pack, video, z, cfg=2.0, **windows(video))
    assert_same(smoothed, smooth(pack, video, z, cfg=2.0, model=core_windows(pack, video.model)))
    assert_same(smoothed, smooth(pack, video, {"samples": z["samples"].transpose(0, 2)}, cfg=2.0, **windows(video)))


@tiny.needs_packed_frames
@pytest.mark.parametrize(("context_length", "context_overlap"), [(5, 4), (6, 5), (9, 5), (13, 1)])
def test_lengths_are_rounded_as_by_core(pack, wan, context_length, context_overlap):
    """Against ComfyUI's own sampler with ComfyUI's Wan Context Windows."""
    lengths = {"context_length": context_length, "context_overlap": context_overlap}
    (windowed,) = pack.run(
        "WanContextWindowsManual", model=wan.model, context_schedule="standard_static", freenoise=False, **lengths
    )
    z, texts = {"samples": noise(1, 16, 5, 8, 8)}, {"positive": wan.text(), "negative": wan.text(seed=2), "cfg": 2.0}
    ours = smooth(pack, wan, z, **texts, **lengths)
    (sigmas,) = pack.run("BasicScheduler", model=wan.model, scheduler="simple", steps=4, denoise=1.0)
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent=z)
    (guider,) = pack.run("CFGGuider", model=windowed, **texts)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="ddim")
    empty = {"samples": torch.zeros_like(z["samples"])}
    core, _ = pack.run(
        "SamplerCustomAdvanced", noise=as_noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    assert_near(ours, core["samples"], 1e-4)


@tiny.needs_packed_frames
def test_round_trip_through_windows(pack, wan):
    clip = wan.latent(4)
    inverted = invert(pack, wan, "Video", clip, steps=20, **windows(wan))
    back = smooth(pack, wan, inverted, steps=20, sampler_name="heun", **windows(wan))
    assert_near(back, clip["samples"], 0.05)


def test_freenoise_has_no_effect(pack, wan):
    """FreeNoise shuffles the initial noise of a run. The pack's runs start from a latent without noise."""
    clip = wan.latent(4)
    plain, with_freenoise = (core_windows(pack, wan.model, freenoise=freenoise) for freenoise in (False, True))
    a, b = (invert(pack, wan, "Video", clip, model=model) for model in (plain, with_freenoise))
    assert torch.equal(a["samples"], b["samples"])
    assert torch.equal(smooth(pack, wan, a, model=plain), smooth(pack, wan, a, model=with_freenoise))


# Latents and conditioning of other models


def test_latents_of_another_latent_space_are_rejected(pack, wan, hunyuan):
    """Wan's and HunyuanVideo's latents have the same shape."""
    of_wan, of_hunyuan = (invert(pack, video, "Video", video.latent(), steps=2) for video in (wan, hunyuan))
    with pytest.raises(ValueError, match="latent space, image HunyuanVideo and video Wan21"):
        pack.run("BIVDiffMixedInversion", image_latent=of_hunyuan, video_latent=of_wan, mixing_ratio=0.5)
    with pytest.raises(ValueError, match="latent space HunyuanVideo, but this model's is Wan21"):
        smooth(pack, wan, of_hunyuan)


def conditioning_of_others(video: FlowVideo) -> list[list]:
    """Text of another width, and text of the same width without the model's extra entries."""
    others = [tiny.text(1, 7, 768)]
    if video.kind != "wan":
        others.append(tiny.text())
    return others


@pytest.mark.parametrize("frames_first", [True, False])
def test_conditioning_of_another_model_is_rejected(pack, video, frames_first):
    calls = tiny.CallCounter()
    model = calls.on(video.model)
    for other in conditioning_of_others(video):
        message = (
            r": this prompt was encoded for another model: .* Encode it with the CLIP that belongs to this model\."
        )
        for branch in ("Image", "Video"):
            with pytest.raises(ValueError, match=rf"DDIM Inverse \({branch}\){message}"):
                invert(pack, video, branch, video.latent(), model=model, conditioning=other)
        inputs = {"positive": other} if frames_first else {"negative": other}
        with pytest.raises(ValueError, match=f"Video Temporal Smoother{message}"):
            smooth(pack, video, {"samples": noise(1, video.channels, LATENT_FRAMES, 8, 8)}, model=model, **inputs)
        inputs = {"positive": video.text(), "negative": video.text(), **inputs}
        with pytest.raises(ValueError, match=f"Frame-wise Image Sampler{message}"):
            pack.run(
                "BIVDiffFrameSampler", model=model, scheduler="simple", steps=2,
                latent_image={"samples": torch.zeros(LATENT_FRAMES, video.channels, 1, 8, 8)}, **inputs,
            )  # fmt: skip
    assert calls.rows == []


def test_guide_frames_are_rejected(pack):
    """LTXVAddGuide adds clean latents to the clip, and their positions to the prompt."""
    ltx = FlowVideo("ltx")
    guided = ltx.text(keyframe_idxs=torch.zeros(1, 3, 64, 2))
    with AssertNotCalled(ltx.model), pytest.raises(ValueError, match="Wire the prompts from before LTXVAddGuide"):
        invert(pack, ltx, "Video", ltx.latent(), conditioning=guided)


# The schedule in the transformer options


class SigmasRecorder(tiny.CallCounter):
    """Records the schedule in a call's transformer_options, which step caches and attention patches read."""

    def __call__(self, apply_model, args):
        self.sample_sigmas = args["c"]["transformer_options"]["sample_sigmas"].tolist()
        return super().__call__(apply_model, args)


@pytest.mark.parametrize("sampler_name", ["uni_pc", "uni_pc_bh2"])
def test_the_schedule_in_the_options_ends_at_0(pack, wan, sampler_name):
    """uni_pc changes the last level of the schedule in place, which must not change the options."""
    recorder, z = SigmasRecorder(), {"samples": noise(1, 16, LATENT_FRAMES, 8, 8)}
    smooth(pack, wan, z, model=recorder.on(wan.model), sampler_name=sampler_name)
    assert recorder.sample_sigmas[0] == 1 and recorder.sample_sigmas[-1] == 0

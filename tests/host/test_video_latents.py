"""Flow models with 3-D latents - Wan 2.1, LTX, HunyuanVideo - in both branches and in the smoother.

Random networks: whatever a model does to its input shows. The oracle is the host's network called by hand.
"""

import math

import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error, rms, solve_ode
from fixtures.tiny_models import FlowVideo
from torch import Tensor

pytestmark = pytest.mark.floats

T = 3
INVERTING = ["BIVDiffInvertImage", "BIVDiffInvertVideo"]


@pytest.fixture(scope="module", params=FlowVideo.KINDS)
def video(request) -> FlowVideo:
    return FlowVideo(request.param)


@pytest.fixture(scope="module")
def wan() -> FlowVideo:
    return FlowVideo("wan")


@pytest.fixture(scope="module")
def hunyuan() -> FlowVideo:
    return FlowVideo("hunyuan")


def same(a: Tensor, b: Tensor) -> None:
    """Equal to float noise."""
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


# There and back


def test_inversion_follows_the_ode(pack, video):
    """From sigma 0 to 1, the first slope read at the model's sigma_min: held against Runge-Kutta in small steps."""
    (text, extra), latent = video.text()[0], video.latent()
    model = video.model.model
    given = {key: value for key, value in extra.items() if key == "attention_mask"}
    if video.kind == "hunyuan":
        given = {"y": extra["pooled_output"], "guidance": torch.tensor([1.0])}

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return model.apply_model(x.float(), sigma.float(), c_crossattn=text, transformer_options={}, **given).double()

    with torch.no_grad():
        sigma_min = float(model.model_sampling.sigma_min)
        expected = solve_ode(denoised, model.process_latent_in(latent["samples"]).double(), 1.0, sigma_min, steps=20)
    errors = [relative_error(invert(pack, video, "Video", latent, steps=n)["samples"], expected) for n in (10, 20)]
    assert errors[1] < 0.01 and errors[1] < errors[0] / 2


def test_round_trip(pack, video):
    """Up with fireflow, down with heun, comes back to the clip."""
    latent, errors = video.latent(), []
    for steps in (10, 20):
        inverted = invert(pack, video, "Video", latent, steps=steps)
        assert torch.isfinite(inverted["samples"]).all()
        assert inverted["bivdiff"]["at_sigma_max"] and math.isclose(inverted["bivdiff"]["sigma"], 1, abs_tol=1e-6)
        errors.append(
            relative_error(smooth(pack, video, inverted, sampler_name="heun", steps=steps), latent["samples"])
        )
    assert errors[1] < 0.05 and errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("ratio", [1.0, 0.25, 0.0])
def test_one_model_in_both_branches(pack, video, ratio):
    """Frames encoded one by one beside the clip, mixed slice by slice, and smoothed."""
    clip = video.latent()
    frames = {"samples": clip["samples"].transpose(0, 2)}
    assert frames["samples"].shape == (T, video.channels, 1, 8, 8)
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
    """One video model and its VAE, no image model: nine frames in, nine other ones out."""
    vae, images = tiny.wan_vae(), torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    frames, clip = (
        pack.run("BIVDiffEncodeFrames", vae=vae, images=images, stride=stride, mode=mode)[0]
        for stride, mode in ((4, "single_frames"), (1, "clip"))
    )
    image, whole = invert(pack, wan, "Image", frames), invert(pack, wan, "Video", clip)
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=whole, mixing_ratio=0.25)
    (out,) = pack.run("VAEDecode", vae=vae, samples={"samples": smooth(pack, wan, mixed, cfg=2.0)})
    assert out.shape == images.shape and torch.isfinite(out).all()
    (kept,) = pack.run("VAEDecode", vae=vae, samples=clip)
    assert rms(out - kept) > 1e-3


# The image branch


@pytest.mark.parametrize("frames_per_batch", [1, 2, T])
def test_time_slices_and_single_frames_are_inverted_alone(pack, video, frames_per_batch):
    """Each as a clip of length 1, as if it were the only one, whatever the chunks."""
    clip = video.latent()
    frames = {"samples": clip["samples"].transpose(0, 2)}
    given = {"frames_per_batch": frames_per_batch}
    sliced = invert(pack, video, "Image", clip, **given)["samples"]
    framed = invert(pack, video, "Image", frames, **given)["samples"]
    assert sliced.shape == clip["samples"].shape and framed.shape == frames["samples"].shape
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        alone = invert(pack, video, "Image", {"samples": part})["samples"]
        same(sliced[:, :, i : i + 1], alone)
        same(framed[i : i + 1], alone)


@pytest.mark.parametrize("frames_per_batch", [1, 2, T])
def test_a_text_for_every_slice_goes_with_it(pack, video, frames_per_batch):
    clip, texts = video.latent(), video.text(T, 7, tiny.TEXT_WIDTH)
    sliced = invert(pack, video, "Image", clip, conditioning=texts, frames_per_batch=frames_per_batch)["samples"]
    text, extra = texts[0]
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        alone = invert(pack, video, "Image", {"samples": part}, conditioning=[[text[i : i + 1], extra]])["samples"]
        same(sliced[:, :, i : i + 1], alone)
    first_for_all = invert(pack, video, "Image", clip, conditioning=[[text[:1], extra]])["samples"]
    assert relative_error(first_for_all[:, :, 1:], sliced[:, :, 1:]) > 1e-3


def test_conditioning_of_the_whole_clip_is_none_of_a_slices_business(pack, wan):
    """Here a reference clip that Wan appends in time: slices do without, the video branch takes it."""
    clip, extra = wan.latent(), {"time_dim_concat": noise(1, 16, 2, 8, 8)}
    for branch in ("Image", "Video"):
        plain, extended = (
            invert(pack, wan, branch, clip, conditioning=text)["samples"] for text in (wan.text(), wan.text(**extra))
        )
        assert torch.equal(plain, extended) == (branch == "Image")


@pytest.mark.parametrize("masked", [0, 3])
def test_hunyuan_with_masked_text_takes_one_frame_a_call(pack, hunyuan, masked):
    """The host's HunyuanVideo raises on more rows; an attention_mask that masks nothing changes nothing."""
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 7 - masked :] = 0
    text, calls, clip = hunyuan.text(attention_mask=mask), tiny.CallCounter(), hunyuan.latent()
    model = calls.on(hunyuan.model)
    out = invert(pack, hunyuan, "Image", clip, model=model, conditioning=text, frames_per_batch=0)["samples"]
    assert set(calls.rows) == {1}
    for i, part in enumerate(clip["samples"].split(1, dim=2)):
        same(out[:, :, i : i + 1], invert(pack, hunyuan, "Image", {"samples": part}, conditioning=text)["samples"])
    plain = invert(pack, hunyuan, "Image", clip)["samples"]
    assert (relative_error(out, plain) < 1e-5) == (masked == 0)
    # Other core samplers and Frame-wise Image Sampler run the same chunks.
    (drawn,) = pack.run(
        "BIVDiffFrameSampler", model=model, positive=text, negative=text, cfg=1.0, steps=2, scheduler="simple",
        latent_image={"samples": torch.zeros(T, 16, 1, 8, 8)},
    )  # fmt: skip
    assert set(calls.rows) == {1} and drawn["samples"].shape == (T, 16, 1, 8, 8)


# Schedules, shift, guidance


@pytest.mark.parametrize("stage", ["Image", "Video", "smoother"])
def test_every_scheduler_reaches_noise_or_is_refused(pack, video, stage):
    """LTX's highest level is .99999994, rounded."""
    reached = set()
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        calls = tiny.CallCounter()
        given = {"model": calls.on(video.model), "scheduler": scheduler, "steps": 3}
        try:
            if stage == "smoother":
                out = smooth(pack, video, {"samples": noise(1, video.channels, T, 8, 8)}, **given)
                top = calls.sigmas[0]
            else:
                inverted = invert(pack, video, stage, video.latent(), **given)
                out, top = inverted["samples"], inverted["bivdiff"]["sigma"]
        except ValueError as refusal:
            assert "tops out at sigma" in str(refusal) and "simple, normal or beta" in str(refusal)
            assert calls.rows == []
        else:
            reached.add(scheduler)
            assert torch.isfinite(out).all() and math.isclose(top, 1, abs_tol=1e-4)
    assert {"simple", "normal", "beta"} <= reached
    assert "ddim_uniform" not in reached


def test_shift_only_moves_the_levels(pack, wan):
    """Where the inversion ends does not depend on it, once the steps are small."""

    def inverted(shift: float, steps: int) -> Tensor:
        (model,) = pack.run("ModelSamplingSD3", model=wan.model, shift=shift)
        return invert(pack, wan, "Video", wan.latent(), model=model, steps=steps)["samples"]

    assert relative_error(inverted(1.0, 4), inverted(8.0, 4)) > 0.02
    assert_near(inverted(1.0, 20), inverted(8.0, 20), 0.01)


class Guidance(tiny.CallCounter):
    """Notes the guidance that the network gets."""

    def __call__(self, apply_model, args):
        self.seen = args["c"]["guidance"].tolist()
        return super().__call__(apply_model, args)


@pytest.mark.parametrize("branch", ["Image", "Video"])
def test_built_in_guidance_is_off_in_inversion(pack, hunyuan, branch):
    """The host's default for HunyuanVideo is 6, which is for generating; one that is wired counts."""
    text, extra = hunyuan.text()[0]
    extra = {key: value for key, value in extra.items() if key != "guidance"}
    spy = Guidance()
    model = spy.on(hunyuan.model)
    invert(pack, hunyuan, branch, hunyuan.latent(), model=model, conditioning=[[text, extra]])
    assert set(spy.seen) == {1.0}
    (wired,) = pack.run("FluxGuidance", conditioning=[[text, extra]], guidance=3.0)
    invert(pack, hunyuan, branch, hunyuan.latent(), model=model, conditioning=wired)
    assert set(spy.seen) == {3.0}
    smooth(pack, hunyuan, {"samples": noise(1, 16, T, 8, 8)}, model=model, positive=[[text, extra]])
    assert spy.seen == [6.0]


@pytest.mark.parametrize("node_id", INVERTING)
def test_mean_flow_weights_are_not_asked_at_the_last_level(pack, node_id):
    """They look ahead to the next one, and the host reads past the end of the grid."""
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


@pytest.mark.parametrize("shape", [(1, 8, 8), (T, 8, 8), (1, 1, T, 8, 8)])
def test_a_mask_reaches_neither_inversion_nor_smoothing(pack, video, shape):
    """LTX and Wan 2.2 would make noise levels of their own for every token out of it."""
    mask = (noise(*shape) > 0).float()
    plain, masked = video.latent(), video.latent(noise_mask=mask)
    for branch in ("Image", "Video"):
        a, b = (invert(pack, video, branch, latent) for latent in (plain, masked))
        assert torch.equal(a["samples"], b["samples"])
        assert torch.equal(b["noise_mask"], mask)
        assert torch.equal(smooth(pack, video, a), smooth(pack, video, b))


# Windows


def core_windows(pack, model, **settings):
    (windowed,) = pack.run(
        "ContextWindowsManual", model=model, context_length=2, context_overlap=1, context_stride=1, closed_loop=False,
        dim=2, context_schedule="standard_static", fuse_method="pyramid",
        **{"freenoise": False, **tiny.NO_ANCHOR_FRAME, **settings},
    )  # fmt: skip
    return windowed


WINDOWS = {"context_length": 2, "context_overlap": 1}


def test_windows_count_latent_frames(pack, video):
    """Up and down, and like the host's own; single frames are cut as the clip that they are."""
    clip, calls = video.latent(4), tiny.CallCounter()
    model = calls.on(video.model)
    windowed = invert(pack, video, "Video", clip, model=model, **WINDOWS)["samples"]
    assert len(calls.rows) == 3 * (4 + 1)  # windows 0-1, 1-2, 2-3; fireflow asks once more at the start
    same(windowed, invert(pack, video, "Video", clip, model=core_windows(pack, video.model))["samples"])
    assert relative_error(windowed, invert(pack, video, "Video", clip)["samples"]) > 1e-4
    z = {"samples": noise(1, video.channels, 4, 8, 8)}
    down = smooth(pack, video, z, cfg=2.0, **WINDOWS)
    same(down, smooth(pack, video, z, cfg=2.0, model=core_windows(pack, video.model)))
    same(down, smooth(pack, video, {"samples": z["samples"].transpose(0, 2)}, cfg=2.0, **WINDOWS))


def test_round_trip_through_windows(pack, wan):
    clip = wan.latent(4)
    inverted = invert(pack, wan, "Video", clip, steps=20, **WINDOWS)
    back = smooth(pack, wan, inverted, steps=20, sampler_name="heun", **WINDOWS)
    assert_near(back, clip["samples"], 0.05)


def test_freenoise_finds_no_noise_to_shuffle(pack, wan):
    """Windows with FreeNoise reorder the noise that a run starts from; ours start from a latent."""
    clip = wan.latent(4)
    plain, shuffling = (core_windows(pack, wan.model, freenoise=free) for free in (False, True))
    a, b = (invert(pack, wan, "Video", clip, model=model) for model in (plain, shuffling))
    assert torch.equal(a["samples"], b["samples"])
    assert torch.equal(smooth(pack, wan, a, model=plain), smooth(pack, wan, a, model=shuffling))


# What belongs to another model


def test_latents_of_another_space_are_refused(pack, wan, hunyuan):
    """Wan's and HunyuanVideo's have the same shape."""
    ours, theirs = (invert(pack, video, "Video", video.latent(), steps=2) for video in (wan, hunyuan))
    with pytest.raises(ValueError, match="latent space, image HunyuanVideo and video Wan21"):
        pack.run("BIVDiffMixedInversion", image_latent=theirs, video_latent=ours, mixing_ratio=0.5)
    with pytest.raises(ValueError, match="latent space HunyuanVideo, but this model's is Wan21"):
        smooth(pack, wan, theirs)


def conditioning_of_others(video: FlowVideo) -> list[list]:
    """Text of another length, and text of the same length without what belongs to it."""
    others = [tiny.text(1, 7, 768)]
    if video.kind != "wan":
        others.append(tiny.text())
    return others


@pytest.mark.parametrize("frames_first", [True, False])
def test_conditioning_of_another_model_is_refused(pack, video, frames_first):
    calls = tiny.CallCounter()
    model = calls.on(video.model)
    for other in conditioning_of_others(video):
        told = r": this prompt was encoded for another model .* Encode it with the CLIP that belongs to this model\."
        for branch in ("Image", "Video"):
            with pytest.raises(ValueError, match=rf"DDIM Inverse \({branch}\){told}"):
                invert(pack, video, branch, video.latent(), model=model, conditioning=other)
        given = {"positive": other} if frames_first else {"negative": other}
        with pytest.raises(ValueError, match=f"Video Temporal Smoother{told}"):
            smooth(pack, video, {"samples": noise(1, video.channels, T, 8, 8)}, model=model, **given)
        given = {"positive": video.text(), "negative": video.text(), **given}
        with pytest.raises(ValueError, match=f"Frame-wise Image Sampler{told}"):
            pack.run(
                "BIVDiffFrameSampler", model=model, scheduler="simple", steps=2,
                latent_image={"samples": torch.zeros(T, video.channels, 1, 8, 8)}, **given,
            )  # fmt: skip
    assert calls.rows == []


# What a run tells of its schedule


class ToldSigmas(tiny.CallCounter):
    """Notes the schedule that a model call is told, as step caches and attention patches read it."""

    def __call__(self, apply_model, args):
        self.told = args["c"]["transformer_options"]["sample_sigmas"].tolist()
        return super().__call__(apply_model, args)


@pytest.mark.parametrize("sampler_name", ["uni_pc", "uni_pc_bh2"])
def test_the_schedule_that_is_told_ends_at_0(pack, wan, sampler_name):
    """uni_pc writes another last level into the schedule that it gets, which all others would read."""
    spy, z = ToldSigmas(), {"samples": noise(1, 16, T, 8, 8)}
    smooth(pack, wan, z, model=spy.on(wan.model), sampler_name=sampler_name)
    assert spy.told[0] == 1 and spy.told[-1] == 0

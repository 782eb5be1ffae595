"""Wan's image-to-video models: the first frame anchors inversion and smoothing."""

import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error
from fixtures.node_calls import AssertNotCalled

pytestmark = pytest.mark.floats

LATENTS = 3


@pytest.fixture(scope="module")
def i2v():
    return tiny.wan_model(in_dim=36, model_type="i2v")


def anchored(seed: int = 1, picture: int = 5) -> list:
    """A prompt as from WanImageToVideo: the encoded picture in the first latent, and which latents are known."""
    unknown = torch.ones(1, 1, LATENTS, 8, 8)
    unknown[:, :, 0] = 0
    return tiny.text(seed=seed, concat_latent_image=noise(1, 16, LATENTS, 8, 8, seed=picture), concat_mask=unknown)


def invert(pack, model, text: list) -> dict:
    latent = {"samples": noise(1, 16, LATENTS, 8, 8)}
    return pack.run("BIVDiffInvertVideo", model=model, conditioning=text, latent=latent, steps=6, solver="ddim")[0]


def smooth(pack, model, latent: dict, positive: list, negative: list) -> dict:
    texts = {"positive": positive, "negative": negative}
    return pack.run("BIVDiffTemporalSmoother", model=model, latent=latent, steps=6, cfg=2.0, **texts)[0]


@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"])
def test_a_model_without_its_picture_is_refused(pack, i2v, node_id):
    with AssertNotCalled(i2v), pytest.raises(ValueError, match="works on an image, but got none.*WanImageToVideo"):
        if node_id == "BIVDiffInvertVideo":
            invert(pack, i2v, tiny.text())
        else:
            smooth(pack, i2v, {"samples": noise(1, 16, LATENTS, 8, 8)}, tiny.text(seed=1), tiny.text(seed=2))


def test_the_picture_anchors_inversion_and_smoothing(pack, i2v):
    inverted = invert(pack, i2v, anchored())
    other = invert(pack, i2v, anchored(picture=6))
    assert relative_error(inverted["samples"], other["samples"]) > 1e-3
    smoothed, changed = (
        smooth(pack, i2v, inverted, anchored(1, picture), anchored(2, picture))["samples"] for picture in (5, 6)
    )
    assert relative_error(smoothed, changed) > 1e-3


def test_smoothing_equals_a_core_sampler(pack, i2v):
    inverted = invert(pack, i2v, anchored())
    positive, negative = anchored(1), anchored(2)
    ours = smooth(pack, i2v, inverted, positive, negative)["samples"]
    (sigmas,) = pack.run("BasicScheduler", model=i2v, scheduler="simple", steps=6, denoise=1.0)
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent=inverted)
    (guider,) = pack.run("CFGGuider", model=i2v, positive=positive, negative=negative, cfg=2.0)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="ddim")
    empty = {"samples": torch.zeros(1, 16, LATENTS, 8, 8)}
    core, _ = pack.run(
        "SamplerCustomAdvanced", noise=as_noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    assert_near(ours, core["samples"], 1e-4)

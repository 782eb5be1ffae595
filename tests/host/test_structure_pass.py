"""The structure pass: Frame-wise Image Sampler on a latent that was inverted at low strength."""

import re

import pytest
import torch
from comfy.samplers import SAMPLER_NAMES
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import control_net, noise
from fixtures.gaussian_mixture import GaussianMixture, assert_near, rms
from fixtures.released_loops import ddim_denoise, make_released_scheduler

from bivdiff_core.grids import sd_sigma

pytestmark = pytest.mark.floats

FRAMES = 4
SCALE = 0.18215
MIXTURE = GaussianMixture(shape=(4, 8, 8), means_std=0.3, spread=0.95)


def restore_structure(pack, model, latent: dict, **changes) -> dict:
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "cfg": 1.0}
    return pack.run("BIVDiffFrameSampler", **{"model": model, "latent_image": latent, **texts, **changes})[0]


@pytest.fixture(scope="module")
def sd():
    return tiny.sd_model()


@pytest.fixture(scope="module")
def partly_inverted(pack, sd) -> dict:
    """Frames inverted to strength .3."""
    latent = tiny.make_latent(FRAMES, 4, 8, 8)
    return pack.run("BIVDiffInvertImage", model=sd, conditioning=tiny.text(), latent=latent, steps=20, strength=0.3)[0]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_it_equals_diffusers(pack, sd, cfg):
    z, positive, negative = noise(FRAMES, 4, 8, 8), tiny.text(seed=1), tiny.text(seed=2)
    inputs = {"steps": 10, "scheduler": "ddim_uniform", "cfg": cfg, "positive": positive, "negative": negative}
    out = restore_structure(pack, sd, tiny.make_inverted_latent(pack, z, branch="image", sigma=sd_sigma(901)), **inputs)
    cond, uncond = tiny.make_eps_function(sd, positive), tiny.make_eps_function(sd, negative)
    with torch.no_grad():
        expected = ddim_denoise(
            lambda z, t: uncond(z, t) + cfg * (cond(z, t) - uncond(z, t)), make_released_scheduler(10, True), z
        )
    assert_near(out["samples"] * SCALE, expected[-1], 1e-5)


def test_one_frame_gives_the_same_as_in_its_clip(pack, sd, partly_inverted):
    first = {"samples": tiny.make_latent(FRAMES, 4, 8, 8)["samples"][:1]}
    inputs = {"model": sd, "conditioning": tiny.text(), "latent": first, "steps": 20, "strength": 0.3}
    (inverted,) = pack.run("BIVDiffInvertImage", **inputs)
    alone, whole = (restore_structure(pack, sd, latent, steps=20)["samples"] for latent in (inverted, partly_inverted))
    torch.testing.assert_close(alone, whole[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", tiny.PREDICTION_TYPES)
def test_frames_are_reconstructed(pack, kind):
    """With the same prompt for both, more steps give a smaller error."""
    model, latent = (
        tiny.exact_model(tiny.PREDICTION_TYPES[kind], MIXTURE),
        {"samples": (MIXTURE.sample(FRAMES) / SCALE).float()},
    )
    errors = []
    for steps in (20, 40):
        inputs = {"steps": steps, "scheduler": "normal" if kind == "flow" else "ddim_uniform"}
        inversion = {
            "model": model,
            "conditioning": tiny.text(),
            "latent": latent,
            "solver": "uni_inv",
            "strength": 0.3,
        }
        (inverted,) = pack.run("BIVDiffInvertImage", **inversion, **inputs)
        errors.append(
            rms(restore_structure(pack, model, inverted, **inputs)["samples"] - latent["samples"])
            / rms(latent["samples"])
        )
    assert errors[0] < 0.05 and errors[1] < errors[0] / 1.5


def test_no_noise_is_added(pack, sd, partly_inverted):
    plain = restore_structure(pack, sd, partly_inverted, seed=1)
    for other in ({"seed": 2}, {"denoise": 0.5}, {"frame_noise": "shared"}):
        assert torch.equal(restore_structure(pack, sd, partly_inverted, **other)["samples"], plain["samples"])
    assert "bivdiff" not in plain


@pytest.mark.parametrize("frames_per_batch", [1, 3])
def test_hints_follow_their_frames(pack, frames_per_batch):
    model, positive, negative, _ = control_net(pack, flip=False)
    frames = len(positive[0][1]["control"].cond_hint_original)
    latent = tiny.make_inverted_latent(pack, noise(frames, 4, 8, 8), strength=0.5, sigma=1.5)
    inputs = {"positive": positive, "negative": negative, "steps": 3}
    whole = restore_structure(pack, model, latent, frames_per_batch=frames, **inputs)
    chunked = restore_structure(pack, model, latent, frames_per_batch=frames_per_batch, **inputs)
    torch.testing.assert_close(chunked["samples"], whole["samples"], rtol=1e-4, atol=1e-4)


def test_a_mask_is_passed_on_but_not_used(pack, sd, partly_inverted):
    masked = restore_structure(pack, sd, {**partly_inverted, "noise_mask": torch.zeros(1, 1, 64, 64)})
    assert torch.equal(masked["samples"], restore_structure(pack, sd, partly_inverted)["samples"])
    assert masked["noise_mask"].shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("latent", "changes", "message"),
    [
        ({}, {"sampler_name": "euler_ancestral"}, "euler_ancestral adds noise, which"),
        ({}, {"sampler_name": "dpmpp_2m_sde"}, "Set sampler_name to ddim"),
        ({"latent_format": "Wan21"}, {}, "inverted in latent space Wan21, but this model's is SD15"),
        ({"family": "flow"}, {}, "inverted in kind of noise flow, but this model's is diffusion"),
        ({}, {"scheduler": "ddim_uniform", "steps": 2}, "steps"),
    ],
)
def test_inputs_that_do_not_match_are_rejected(pack, sd, latent, changes, message):
    calls = tiny.CallCounter()
    inverted = tiny.make_inverted_latent(pack, noise(FRAMES, 4, 8, 8), branch="image", **latent)
    with pytest.raises(ValueError, match=f"^Frame-wise Image Sampler: .*{re.escape(message)}"):
        restore_structure(pack, calls.on(sd), inverted, **{"steps": 4, **changes})
    assert calls.rows == []


def test_noise_without_a_description_is_rejected(pack, sd):
    calls = tiny.CallCounter()
    with pytest.raises(ValueError, match="looks like noise .* Load Inverted Latent"):
        restore_structure(pack, calls.on(sd), {"samples": noise(FRAMES, 4, 16, 16)})
    assert calls.rows == []


def test_a_video_of_several_latent_frames_is_rejected(pack):
    wan = tiny.wan_model()
    video = tiny.make_inverted_latent(pack, noise(1, 16, 3, 8, 8), latent_format="Wan21", family="flow", sigma=1.0)
    with pytest.raises(ValueError, match="a video of 3 latent frames, which this model would generate as one clip"):
        restore_structure(pack, wan, video, steps=3, scheduler="simple")
    frames = tiny.make_inverted_latent(pack, noise(3, 16, 1, 8, 8), latent_format="Wan21", family="flow", sigma=1.0)
    assert restore_structure(pack, wan, frames, steps=3, scheduler="simple")["samples"].shape == (3, 16, 1, 8, 8)


def test_samplers_that_add_noise_are_rejected(pack, sd, partly_inverted):
    """Accepted samplers give the same video for different seeds."""
    accepted = 0
    for name in SAMPLER_NAMES:
        try:
            first = restore_structure(pack, sd, partly_inverted, sampler_name=name, steps=6, seed=1)["samples"]
        except ValueError as error:
            assert f"{name} adds noise, which" in str(error)
            continue
        accepted += 1
        assert torch.equal(
            restore_structure(pack, sd, partly_inverted, sampler_name=name, steps=6, seed=2)["samples"], first
        ), name
    assert accepted == 13

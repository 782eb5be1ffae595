"""Image models whose latents are `[F, C, 1, H, W]` (Qwen-Image and its kin), alone and beside a video model."""

import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error
from fixtures.node_calls import AssertNotCalled
from torch import Tensor

pytestmark = pytest.mark.floats

FRAMES = 5


@pytest.fixture(scope="module")
def qwen():
    return tiny.qwen_model()


@pytest.fixture(scope="module")
def wan():
    return tiny.wan_model()


def make_frames(count: int = FRAMES) -> dict:
    """Frames encoded one by one with Wan's VAE."""
    return {"samples": noise(count, 16, 1, 8, 8, seed=3)}


def invert_image(pack, model, latent: dict, **inputs) -> dict:
    given = {"conditioning": tiny.text(), "steps": 6, **inputs}
    return pack.run("BIVDiffInvertImage", model=model, latent=latent, **given)[0]


def pick(latent: dict, index: int) -> dict:
    return {"samples": latent["samples"][index : index + 1]}


@pytest.mark.parametrize("frames_per_batch", [0, 2])
def test_frames_are_inverted_independently(pack, qwen, frames_per_batch):
    frames = make_frames()
    whole = invert_image(pack, qwen, frames, frames_per_batch=frames_per_batch)
    assert whole["samples"].shape == (FRAMES, 16, 1, 8, 8)
    alone = torch.cat([invert_image(pack, qwen, pick(frames, i))["samples"] for i in range(FRAMES)])
    assert_near(whole["samples"], alone, 1e-5)


def test_frames_are_generated_independently(pack, qwen):
    empty = {"samples": torch.zeros(FRAMES, 16, 1, 8, 8)}
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "steps": 4, "cfg": 2.0}
    (ours,) = pack.run("BIVDiffFrameSampler", model=qwen, latent_image=empty, **texts, frames_per_batch=2)
    core_inputs = {"seed": 0, "sampler_name": "ddim", "scheduler": "simple", "denoise": 1.0}
    (core,) = pack.run("KSampler", model=qwen, latent_image=empty, **texts, **core_inputs)
    assert_near(ours["samples"], core["samples"], 1e-5)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_round_trip(pack, qwen, sampler):
    frames, text, errors = make_frames(), tiny.text(), []
    for steps in (10, 20):
        inverted = invert_image(pack, qwen, frames, steps=steps, strength=0.6)
        texts = {"positive": text, "negative": text, "cfg": 1.0, "steps": steps, "sampler_name": sampler}
        (back,) = pack.run("BIVDiffFrameSampler", model=qwen, latent_image=inverted, **texts)
        errors.append(relative_error(back["samples"], frames["samples"]))
    assert errors[1] < 0.05 and errors[1] < errors[0] / 1.5


@pytest.mark.parametrize("node_id", ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"])
@pytest.mark.parametrize("shape", [(FRAMES, 16, 1, 8, 8), (1, 16, FRAMES, 8, 8)], ids=["frames", "clip"])
def test_an_image_model_is_no_video_model(pack, qwen, node_id, shape):
    text, latent = tiny.text(), {"samples": noise(*shape)}
    texts = {"conditioning": text} if node_id == "BIVDiffInvertVideo" else {"positive": text, "negative": text}
    with (
        AssertNotCalled(qwen),
        pytest.raises(ValueError, match="got an image model, expected a video model"),
    ):
        pack.run(node_id, model=qwen, latent=latent, **texts)


def test_bridge_guider_refuses_models_with_a_time_axis(pack, qwen, wan):
    text = tiny.text()
    texts = {f"{side}_{sign}": text for side in ("image", "video") for sign in ("positive", "negative")}
    with pytest.raises(ValueError, match="^Bridge Guider: both models predict the same latents in every step"):
        pack.run("BIVDiffBridgeGuider", image_model=qwen, video_model=wan, **texts)


@tiny.needs_packed_frames
def test_single_frames_are_no_clip_for_a_model_that_packs_frames(pack, wan):
    with AssertNotCalled(wan), pytest.raises(ValueError, match="got 8 frames encoded one by one.* clip of 29 frames"):
        pack.run("BIVDiffInvertVideo", model=wan, conditioning=tiny.text(), latent=make_frames(8))


def invert_clip(pack, wan, latents: int) -> dict:
    latent = {"samples": noise(1, 16, latents, 8, 8, seed=4)}
    return pack.run("BIVDiffInvertVideo", model=wan, conditioning=tiny.text(), latent=latent, steps=6)[0]


def test_qwens_frames_and_wans_clip_are_blended_and_smoothed(pack, qwen, wan):
    """One frame for each latent of the clip, as Encode Frames makes them with single_frames."""
    image, video = invert_image(pack, qwen, make_frames(3)), invert_clip(pack, wan, 3)
    assert image["bivdiff"]["latent_format"] == video["bivdiff"]["latent_format"] == "Wan21"
    mixed, _ = pack.run("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=0.5)
    assert_near(mixed["samples"], (image["samples"].transpose(0, 2) + video["samples"]) / 2, 1e-5)
    text = tiny.text()
    (smoothed,) = pack.run(
        "BIVDiffTemporalSmoother", model=wan, positive=text, negative=text, latent=mixed, steps=6, cfg=1.0
    )
    assert smoothed["samples"].shape == (1, 16, 3, 8, 8)


def test_qwen_inverts_the_latents_of_a_clip_one_by_one(pack, qwen):
    clip = {"samples": noise(1, 16, 3, 8, 8, seed=4)}
    inverted = invert_image(pack, qwen, clip)["samples"]
    assert inverted.shape == (1, 16, 3, 8, 8)
    frames = {"samples": clip["samples"].transpose(0, 2)}
    assert_near(inverted, invert_image(pack, qwen, frames)["samples"].transpose(0, 2), 1e-5)


def test_a_wrong_number_of_frames_is_named(pack, qwen, wan):
    branches = {"image_latent": invert_image(pack, qwen, make_frames(8)), "video_latent": invert_clip(pack, wan, 3)}
    with pytest.raises(ValueError, match="the image branch has 8 frames but the video branch 3 latents.*Encode Frames"):
        pack.run("BIVDiffMixedInversion", **branches, mixing_ratio=0.5)


# Conditioning of a clip in the image branch


def clip_conditioning() -> dict[str, Tensor | list]:
    return {
        "concat_latent_image": noise(1, 16, 3, 8, 8, seed=5),
        "concat_mask": torch.ones(1, 4, 3, 8, 8),
        "vace_frames": [noise(1, 32, 3, 8, 8, seed=6)],
        "vace_mask": [torch.ones(1, 64, 3, 8, 8)],
        "vace_strength": [1.0],
        "reference_latents": [noise(1, 16, 1, 8, 8, seed=7)],
    }


@pytest.mark.parametrize("shape", [(3, 16, 1, 8, 8), (1, 16, 3, 8, 8)], ids=["frames", "clip"])
def test_a_video_model_inverts_frames_without_the_clips_conditioning(pack, wan, shape):
    latent = {"samples": noise(*shape, seed=3)}
    plain, conditioned = (
        invert_image(pack, wan, latent, conditioning=tiny.text(**extra)) for extra in ({}, clip_conditioning())
    )
    assert torch.equal(conditioned["samples"], plain["samples"])


def test_qwen_keeps_the_reference_of_each_frame(pack, qwen):
    """Instruction editing: a reference latent for each frame."""
    frames, references = make_frames(3), noise(3, 16, 1, 8, 8, seed=8)
    with_references = tiny.text(reference_latents=[references])
    whole = invert_image(pack, qwen, frames, conditioning=with_references, frames_per_batch=1)["samples"]
    alone = [
        invert_image(pack, qwen, pick(frames, i), conditioning=tiny.text(reference_latents=[references[i : i + 1]]))
        for i in range(3)
    ]
    assert_near(whole, torch.cat([latent["samples"] for latent in alone]), 1e-5)
    assert relative_error(whole, invert_image(pack, qwen, frames)["samples"]) > 1e-3

"""Bridge Guider against ComfyUI's guiders of each single model."""

import comfy.model_management
import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.gaussian_mixture import assert_near
from torch import Tensor

pytestmark = pytest.mark.floats

FRAMES = 4
STEPS = 3
CFGS = (3.0, 2.0)


@pytest.fixture(scope="module")
def models(pack) -> tuple:
    return tiny.sd_model(), tiny.video_model(pack)


def conditioning(pack) -> tuple[list, list]:
    """Positive and negative of the image model, with a different control hint for every frame."""
    hint = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(9))
    return pack.run(
        "ControlNetApplyAdvanced", positive=tiny.text(seed=1), negative=tiny.text(seed=2),
        control_net=tiny.control_net(), image=hint, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip


def bridge_guider(pack, models, strategy: str, share: float, frames_per_batch: int = 0):
    positive, negative = conditioning(pack)
    (guider,) = pack.run(
        "BIVDiffBridgeGuider", image_model=models[0], image_positive=positive, image_negative=negative,
        image_cfg=CFGS[0], video_model=models[1], video_positive=tiny.text(seed=3), video_negative=tiny.text(seed=4),
        video_cfg=CFGS[1], strategy=strategy, image_share=share, frames_per_batch=frames_per_batch,
    )  # fmt: skip
    return guider


def single_model_guider(pack, models, which: int):
    guider = comfy.samplers.CFGGuider(models[which])
    guider.set_conds(*(conditioning(pack) if which == 0 else (tiny.text(seed=3), tiny.text(seed=4))))
    guider.set_cfg(CFGS[which])
    return guider


def sample(pack, guider, model, steps: int = STEPS) -> Tensor:
    (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")
    (sigmas,) = pack.run("BasicScheduler", model=model, scheduler="normal", steps=steps, denoise=1.0)
    out, _ = pack.run(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
        latent_image={"samples": torch.zeros(FRAMES, 4, 8, 8)},
    )  # fmt: skip
    return out["samples"]


def assert_same(a: Tensor, b: Tensor) -> None:
    assert_near(a, b, 1e-6)


@pytest.mark.parametrize("strategy", ["parallel", "alternating", "interleaved"])
def test_share_1_is_the_image_model_with_its_control(pack, models, strategy):
    expected = sample(pack, single_model_guider(pack, models, 0), models[0])
    assert_same(sample(pack, bridge_guider(pack, models, strategy, 1.0), models[0]), expected)


@pytest.mark.parametrize("strategy", ["parallel", "alternating"])
def test_share_0_is_the_video_model(pack, models, strategy):
    expected = sample(pack, single_model_guider(pack, models, 1), models[0])
    assert_same(sample(pack, bridge_guider(pack, models, strategy, 0.0), models[0]), expected)


def test_parallel_averages_the_predictions(pack, models):
    """A single step to sigma 0 gives the prediction."""
    image, video = (sample(pack, single_model_guider(pack, models, which), models[0], steps=1) for which in (0, 1))
    both = sample(pack, bridge_guider(pack, models, "parallel", 0.3), models[0], steps=1)
    assert_same(both, 0.3 * image + 0.7 * video)


@pytest.mark.parametrize("frames_per_batch", [1, 3])
def test_chunks_of_the_image_model_change_nothing(pack, models, frames_per_batch):
    whole = sample(pack, bridge_guider(pack, models, "interleaved", 0.5, FRAMES), models[0])
    assert_same(sample(pack, bridge_guider(pack, models, "interleaved", 0.5, frames_per_batch), models[0]), whole)


def test_a_cancelled_run_leaves_both_models_usable(pack, models):
    guider = bridge_guider(pack, models, "parallel", 0.5)
    expected = sample(pack, guider, models[0])
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(pack, guider, models[0])
    assert torch.equal(sample(pack, guider, models[0]), expected)


def test_models_of_two_latent_spaces_are_rejected(pack, models):
    with pytest.raises(ValueError, match=r"Bridge Guider: the image model's latent space is SDXL.* SD15.*share a VAE"):
        bridge_guider(pack, (tiny.sd_model(tiny.TinySDXL), models[1]), "parallel", 0.5)

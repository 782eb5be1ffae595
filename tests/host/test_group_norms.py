"""Group norms over the whole clip, as in the released code's image branch; the MODEL stays unchanged."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from fixtures import tiny_models as tiny
from fixtures.gaussian_mixture import assert_near, rms
from fixtures.released_loops import invert_as_released, make_released_scheduler
from torch import Tensor

pytestmark = pytest.mark.floats

STEPS, SCALE = 10, 0.18215


@pytest.fixture(scope="module")
def model():
    return tiny.sd_model()


class InflatedNorm(torch.nn.Module):
    """A group norm of frames `[f, c, h, w]` that normalizes them as one clip `[1, c, f, h, w]`."""

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(0, 1).unsqueeze(0))[0].transpose(0, 1)


def inflated_unet(model) -> UNet2DConditionModel:
    """diffusers' UNet with the MODEL's weights, inflated as in the released code."""
    unet = tiny.diffusers_unet(model)
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            block.norm1, block.norm2 = InflatedNorm(block.norm1), InflatedNorm(block.norm2)
    unet.conv_norm_out = InflatedNorm(unet.conv_norm_out)
    return unet


def invert(pack, model, latent: dict, text: list | None = None, **settings) -> Tensor:
    inputs = {"grid": "reference", "solver": "ddim", "steps": STEPS, "conditioning": text or tiny.text(), **settings}
    return pack.run("BIVDiffInvertImage", model=model, latent=latent, **inputs)[0]["samples"]


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_reference_inversion_equals_the_released_loop(pack, model, frames):
    latent, text, unet = tiny.make_latent(frames, 4, 8, 8), tiny.text(), inflated_unet(model)

    def eps(z: Tensor, t: int) -> Tensor:
        return unet(z.double(), t, text[0][0].double().expand(len(z), -1, -1)).sample.to(z.dtype)

    with torch.no_grad():
        expected = invert_as_released(eps, make_released_scheduler(STEPS), latent["samples"] * SCALE)[-1]
    out = invert(pack, model, latent, text)
    assert_near(out, expected, 1e-5)


def test_one_frame_is_the_same_in_both_modes(pack, model):
    latent = tiny.make_latent(1, 4, 8, 8)
    pooled, alone = (invert(pack, model, latent, group_norms=norms) for norms in ("whole_clip", "per_frame"))
    assert_near(pooled, alone, 1e-6)


def test_auto_follows_the_grid_and_the_model_stays_unchanged(pack, model):
    latent = tiny.make_latent(4, 4, 8, 8)
    matched = {"grid": "matched", "scheduler": "normal"}
    before = invert(pack, model, latent, **matched)
    pooled = invert(pack, model, latent, group_norms="whole_clip")
    assert torch.equal(invert(pack, model, latent), pooled)
    assert rms(pooled - invert(pack, model, latent, group_norms="per_frame")) > 1e-3 * rms(pooled)
    assert torch.equal(invert(pack, model, latent, **matched), before)
    assert torch.equal(invert(pack, model, latent, group_norms="per_frame", **matched), before)
    assert rms(invert(pack, model, latent, group_norms="whole_clip", **matched) - before) > 1e-3 * rms(before)


def test_several_prompts_are_pooled_separately(pack, model):
    """ComfyUI puts two prompts into one call. The result is the mean of the single prompts' results."""
    latent = tiny.make_latent(3, 4, 8, 8)
    settings = {"group_norms": "whole_clip", "grid": "matched", "steps": 1, "strength": 0.01}
    first, second = (tiny.text(seed=seed) for seed in (1, 3))
    together = invert(pack, model, latent, first + second, **settings)
    mean = (invert(pack, model, latent, first, **settings) + invert(pack, model, latent, second, **settings)) / 2
    assert_near(together, mean, 1e-6)


def test_cast_weights_are_supported(pack):
    """Weights in half precision equal the same values in float64."""
    stored, full = tiny.sd_model(stored=torch.float16), tiny.sd_model()
    weights = {key: tensor.double() for key, tensor in stored.model.diffusion_model.state_dict().items()}
    full.model.diffusion_model.load_state_dict(weights)
    latent = tiny.make_latent(3, 4, 8, 8)
    out, expected = (invert(pack, model, latent) for model in (stored, full))
    assert_near(out, expected, 1e-6)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda pack: tiny.sd_model(), {"frames_per_batch": 2}, "needs all 3 frames in one call, not 2"),
        (lambda pack: tiny.flux_model(), {"grid": "matched"}, "is for Stable Diffusion's UNet, not Flux"),
        (
            lambda pack: pack.run("BIVDiffFrameChunks", model=tiny.sd_model(), frames_per_batch=2)[0],
            {},
            "the model has windows or chunks",
        ),
    ],
)
def test_unsupported_pooling_is_rejected(pack, make, settings, message):
    channels = 16 if settings.get("grid") else 4
    latent = {"samples": tiny.make_latent(3, channels, 8, 8)["samples"]}
    with pytest.raises(ValueError, match=f"^DDIM Inverse .Image.: group_norms whole_clip .*|{message}") as error:
        invert(pack, make(pack), latent, group_norms="whole_clip", **{"scheduler": "simple", **settings})
    assert message in str(error.value)


def test_running_out_of_memory_is_explained(pack, model):
    calls = tiny.CallCounter(2, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError, match="group_norms whole_clip processes all 3 frames .* per_frame"):
        invert(pack, calls.on(model), tiny.make_latent(3, 4, 8, 8))
    assert calls.rows == [3, 3]

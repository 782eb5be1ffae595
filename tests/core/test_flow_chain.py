"""The ways to smooth latents over time that the study of flow models compares."""

import pytest
import torch

from research.flow_chain import FORMS

FRAMES = 9


@pytest.fixture
def latents():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def still_clip():
    frame = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    return frame.expand(FRAMES, -1, -1, -1)


def spread_over_time(latents: torch.Tensor) -> float:
    return latents.std(dim=1).mean().item()


@pytest.mark.parametrize("form", FORMS)
def test_steadiness_0_changes_nothing(form, latents, still_clip):
    torch.testing.assert_close(FORMS[form](latents, still_clip, 0.0), latents)


@pytest.mark.parametrize("form", FORMS)
def test_a_still_clip_is_smoothed(form, latents, still_clip):
    smoothed = FORMS[form](latents, still_clip, 0.75)
    bound = 0.97 if form == "low band" else 0.95  # a ninth of white noise is in the low band
    assert spread_over_time(smoothed) < bound * spread_over_time(latents)
    torch.testing.assert_close(smoothed.std(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))


def test_the_bands_add_up(latents, still_clip):
    """Before the std is restored, the changes of the bands are those of all frequencies."""
    repeated = latents[:, :1].expand(-1, 3, -1, -1) + 1e-3 * latents  # the std hardly changes
    plain, high, low = (FORMS[form](repeated, still_clip, 0.5) for form in ("plain", "high band", "low band"))
    torch.testing.assert_close(high + low - repeated, plain, atol=1e-5, rtol=0)


def test_moving_parts_stay_as_they_are(latents):
    clip = torch.zeros(FRAMES, 64, 64, 3)
    clip[1::2, :, :32] = 1  # the left half changes all the time
    smoothed = FORMS["still parts"](latents, clip, 1.0)
    change = (smoothed - latents).abs().mean(dim=(0, 1, 2))
    assert change[:4].max() < 0.5 * change[4:].min()


def test_latents_that_move_with_the_clip_stay_sharp():
    texture = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(2))
    texture = torch.nn.functional.avg_pool2d(texture.permute(2, 0, 1), 9, stride=1, padding=4).permute(1, 2, 0)
    clip = torch.stack([texture[:, t : t + 64] for t in range(FRAMES)])  # one pixel a frame
    wide = torch.nn.functional.interpolate(texture.permute(2, 0, 1)[None], scale_factor=0.5, mode="area")
    middles = (0, 3, 7)
    latents = torch.stack([wide[0, :, :, t // 2 : t // 2 + 32] for t in middles], dim=1)
    along, plain = (FORMS[form](latents, clip, 1.0) for form in ("along motion", "plain"))
    inside = (..., slice(4, -4))
    assert (along - latents)[inside].abs().mean() < 0.5 * (plain - latents)[inside].abs().mean()

"""Average Along Motion: its inputs, errors and results."""

import pytest
import torch
from torch import Tensor

from bivdiff_core.measure import optical_flow
from research import toy_world


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames[:4]


def test_it_returns_the_average_and_the_share_of_frames(pack, clip):
    noisy = (clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    image, mask = pack.run("BIVDiffAverageAlongMotion", images=noisy, motion_from=clip, reach=16)
    expected, share = optical_flow.average_along_flow(noisy, clip, 3)
    assert torch.equal(image, expected) and torch.equal(mask, share)
    assert image.shape == clip.shape and mask.shape == clip.shape[:3]
    assert (image - clip).square().mean() < 0.6 * (noisy - clip).square().mean()


def test_motion_from_a_clip_of_another_size(pack, clip):
    small = torch.nn.functional.interpolate(clip.movedim(-1, 1), size=(32, 32), mode="area").movedim(1, -1)
    image, _ = pack.run("BIVDiffAverageAlongMotion", images=clip, motion_from=small, reach=1)
    assert image.shape == clip.shape and (image - clip).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("images", "motion_from", "message"),
    [
        (slice(0, 1), slice(0, 1), "expected a video of at least 2 frames, got 1"),
        (slice(0, 4), slice(0, 3), "motion_from has 3 frames but the video 4"),
        (slice(0, 4), (slice(0, 4), slice(0, 32)), "motion_from is 4 frames of 64x32 but the video 4 frames of 64x64"),
    ],
)
def test_inputs_that_do_not_match_are_rejected(pack, clip, images, motion_from, message):
    with pytest.raises(ValueError, match=f"^Average Along Motion: {message}"):
        pack.run("BIVDiffAverageAlongMotion", images=clip[images], motion_from=clip[motion_from], reach=1)

"""TV-L1 compared with scikit-image's, which computes one pair at a time with NumPy."""

import numpy as np
import pytest
import torch
from fixtures.sample_videos import flickering, moving
from skimage.registration import optical_flow_tvl1
from torch import Tensor

from bivdiff_core.measure.optical_flow import to_luma
from bivdiff_core.measure.tv_l1 import estimate_tv_l1
from research import toy_world


def expected_flow(reference: Tensor, moving: Tensor) -> Tensor:
    """scikit-image's flow, `[P, H, W, 2]` in (x, y)."""
    flows = [optical_flow_tvl1(*pair) for pair in zip(reference.numpy(), moving.numpy(), strict=True)]
    return torch.from_numpy(np.stack(flows)).flip(1).movedim(1, -1)


def toy_clip(seed: int) -> Tensor:
    return to_luma(toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[seed]).frames)


VIDEOS = {
    "toy": toy_clip(0),
    "toy, odd size": toy_clip(1)[:, :57, 3:54],
    "below the pyramid's smallest image": toy_clip(2)[:, 20:40, 20:37],
    "moving": to_luma(moving(3)),
    "flickering": to_luma(flickering(moving(2))),
    "larger than a level": torch.nn.functional.interpolate(toy_clip(3)[None], size=(91, 150), mode="bicubic")[0],
}


@pytest.mark.parametrize("name", VIDEOS)
def test_it_equals_scikit_images(name):
    video = VIDEOS[name]
    expected, found = (function(video[1:], video[:-1]) for function in (expected_flow, estimate_tv_l1))
    # Rounding decides at a few pixels between two flows that match equally well.
    error = (found - expected).norm(dim=-1)
    assert expected.norm(dim=-1).mean() > 0.3
    assert error.mean() < 2e-3 * expected.norm(dim=-1).mean() and error.flatten().quantile(0.99) < 0.01


def test_pairs_of_a_batch_do_not_affect_each_other():
    """They need different numbers of warps."""
    images = torch.cat((toy_clip(0)[:2], to_luma(moving(1))[:2], toy_clip(0)[:1].expand(2, -1, -1)))
    previous, current = images[::2], images[1::2]
    together = estimate_tv_l1(current, previous)
    alone = torch.cat([estimate_tv_l1(*pair) for pair in zip(current.split(1), previous.split(1), strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert together[2].abs().max() < 1e-3 and together[:2].abs().mean(dim=(1, 2, 3)).min() > 0.1


def test_the_number_of_threads_stays_as_it_was():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    estimate_tv_l1(toy_clip(0)[:1], toy_clip(0)[1:2])
    found = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert found == 3


def test_gradients_whose_square_underflows():
    """As in a dark, compressed background."""
    video = toy_clip(0).clone()
    video[:, :, :20] = 1e-20 * video[0, :, :20]
    assert estimate_tv_l1(video[1:], video[:-1]).isfinite().all()

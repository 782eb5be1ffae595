"""Noise that is correlated between frames, and the measure that tells noise from images."""

import pytest
import torch
from torch import Tensor

from bivdiff_core.noise import FRAME_NOISE_MODES, MAX_NOISE_CORRELATION, correlate_frames, spatial_correlation


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


frames_and_clip = pytest.mark.parametrize(("shape", "dim"), [((6, 4, 8, 8), 0), ((1, 4, 6, 8, 8), 2)])


@frames_and_clip
def test_independent_is_unchanged(shape, dim):
    noise = white(*shape)
    assert torch.equal(correlate_frames(noise, "independent", dim), noise)


@frames_and_clip
def test_shared_gives_every_frame_the_first_ones_noise(shape, dim):
    noise = white(*shape)
    frames = correlate_frames(noise, "shared", dim).unbind(dim)
    assert all(torch.equal(frame, noise.select(dim, 0)) for frame in frames)


@pytest.mark.parametrize(("shape", "dim"), [((6, 16, 64, 64), 0), ((1, 16, 6, 64, 64), 2)])
def test_progressive_is_unit_noise_that_changes_gradually(shape, dim):
    """PYoCo: adjacent frames correlate at alpha / sqrt(1 + alpha^2), frames k apart at its k-th power; alpha = 2."""
    noise = white(*shape)
    frames = correlate_frames(noise, "progressive", dim).unbind(dim)
    adjacent = 2 / 5**0.5
    for i, frame in enumerate(frames):
        assert frame.mean().item() == pytest.approx(0, abs=0.015)
        assert frame.std().item() == pytest.approx(1, abs=0.01)
        assert spatial_correlation(frame.reshape(1, 16, 64, 64)) == pytest.approx(0, abs=0.01)
        rho = torch.corrcoef(torch.stack([frames[0].flatten(), frame.flatten()]))[0, 1].item()
        assert rho == pytest.approx(adjacent**i, abs=0.01)
    assert torch.equal(frames[0], noise.select(dim, 0))


@pytest.mark.parametrize("mode", FRAME_NOISE_MODES)
def test_the_input_noise_is_not_modified(mode):
    noise = white(5, 4, 8, 8)
    before = noise.clone()
    out = correlate_frames(noise, mode)
    assert torch.equal(noise, before) and out.shape == noise.shape


@pytest.mark.parametrize("mode", FRAME_NOISE_MODES)
def test_more_frames_do_not_change_the_first_frames(mode):
    noise = white(6, 4, 8, 8)
    assert torch.equal(correlate_frames(noise, mode)[:4], correlate_frames(noise[:4], mode))


def blurred(noise: Tensor, radius: int) -> Tensor:
    """Noise averaged over a square; adjacent values share 2r of the 2r + 1 columns."""
    kernel = torch.ones(1, 1, 2 * radius + 1, 2 * radius + 1)
    flat = noise.flatten(0, -3).unsqueeze(1)
    out = torch.nn.functional.conv2d(flat, kernel)
    return out.reshape(*noise.shape[:-2], *out.shape[-2:])


@pytest.mark.parametrize("shape", [(4, 4, 64, 64), (1, 16, 4, 64, 64)])
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_correlation_of_a_known_field(shape, radius):
    """A box blur has lag-1 correlation 2r / (2r + 1)."""
    measured = spatial_correlation(blurred(white(*shape), radius))
    assert measured == pytest.approx(2 * radius / (2 * radius + 1), abs=0.03)
    assert measured > MAX_NOISE_CORRELATION


@pytest.mark.parametrize("shape", [(8, 4, 8, 8), (1, 16, 3, 8, 8), (4, 4, 64, 64)])
def test_white_noise_is_uncorrelated(shape):
    assert abs(spatial_correlation(white(*shape))) < 0.1 < MAX_NOISE_CORRELATION


def test_channel_offsets_are_no_correlation():
    """A latent format's per-channel mean and scale must not make noise look like an image."""
    offsets = torch.tensor([3.0, -2.0, 5.0, 0.0]).view(1, 4, 1, 1)
    assert abs(spatial_correlation(7 * white(8, 4, 32, 32) + offsets)) < 0.05


def test_correlation_in_one_direction_counts_half():
    stripes = white(4, 4, 64, 1).expand(4, 4, 64, 64)
    assert spatial_correlation(stripes) == pytest.approx(0.5, abs=0.05)


def test_a_flat_latent_is_not_divided_by_zero():
    assert spatial_correlation(torch.zeros(2, 4, 8, 8)) == 0

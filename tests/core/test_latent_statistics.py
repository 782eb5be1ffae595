"""The statistics of a latent compared with independent definitions, and their bounds with samples of white noise."""

import math

import numpy as np
import pytest
import torch
from fixtures.sample_latents import white
from torch import Tensor

from bivdiff_core.measure import latent_statistics


def patterned(seed: int) -> Tensor:
    """A 64x64 clip with patches, downscaled to latent size and scaled to unit std."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angles, phases = (2 * math.pi * torch.rand(2, 4, 8, 1, 1, generator=generator)).unbind()
    waves = torch.sin(2 * math.pi / 22 * (angles.cos() * x + angles.sin() * y) + phases).sum(dim=1)
    level = torch.nn.functional.avg_pool2d(torch.tanh(1.5 * waves), 8)
    return (level / level.std(dim=(-2, -1), keepdim=True)).expand(8, -1, -1, -1)


def test_very_fine_patterns_are_not_white_noise():
    assert all(latent_statistics.is_white_noise(white(8, 4, 8, 8, seed=seed)) for seed in range(20))
    assert not any(latent_statistics.is_white_noise(patterned(seed)) for seed in range(20))
    uncorrelated = [abs(latent_statistics.noise_statistics(patterned(seed))[1]) < 0.1 for seed in range(20)]
    assert any(uncorrelated), "the correlation of adjacent values rejects them all"


def test_bounds_of_a_large_latent_are_the_healthy_ranges():
    found = latent_statistics.sampling_limits((16, 4, 64, 64))
    for name in ("std", "spatial", "bands"):
        assert found[name] == latent_statistics.HEALTHY_RANGES[name]


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (8, 4, 8, 8), (3, 16, 4, 12), (1, 4, 16, 16)])
def test_bounds_have_the_width_of_the_sampling_distribution(monkeypatch, shape):
    """Against 1000 samples: hardly any lies outside, and many lie outside of bounds of one standard deviation."""
    monkeypatch.setattr(latent_statistics, "HEALTHY_RANGES", dict.fromkeys(latent_statistics.HEALTHY_RANGES, (1, 0)))
    samples = [latent_statistics.measure_latent(white(*shape, seed=seed)) for seed in range(1000)]
    limits = latent_statistics.sampling_limits(shape)
    monkeypatch.setattr(latent_statistics, "SAMPLING_Z", 1.0)
    narrow = latent_statistics.sampling_limits(shape)
    for name in latent_statistics.HEALTHY_RANGES:
        values = torch.cat([sample[name].flatten() for sample in samples])
        if name.startswith("relative") and shape[0] == 1:
            assert values.eq(1).all()
            continue
        outside = [((values < low) | (values > high)).float().mean() for low, high in (limits[name], narrow[name])]
        assert outside[0] < 0.003 and outside[1] > 0.04, name


def test_a_video_latent_is_flattened_to_frames():
    latent = white(6, 4, 16, 16)
    for other in (latent.transpose(0, 1)[None], latent.unsqueeze(2)):
        assert torch.equal(latent_statistics.flatten_to_frames(other), latent)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (32, 20)])
def test_band_power_equals_a_sum_over_single_frequencies(size):
    noise = white(2, 3, *size)
    power = (np.abs(np.fft.fft2(noise.numpy())) ** 2 / (size[0] * size[1])).mean(axis=1)
    bands = [[], [], [], []]
    for i, y in enumerate(np.fft.fftfreq(size[0])):
        for j, x in enumerate(np.fft.fftfreq(size[1])):
            radius = 2 * (x * x + y * y) ** 0.5
            bands[sum(radius > edge + 1e-6 for edge in (0.25, 0.5, 0.75))].append(power[:, i, j])
    expected = torch.tensor(np.array([np.mean(band, axis=0) for band in bands]).T, dtype=torch.float32)
    torch.testing.assert_close(latent_statistics.band_power(noise), expected)


def test_each_pattern_lies_in_its_band():
    x = torch.arange(32)
    coarse = torch.cos(2 * torch.pi * x / 16).expand(32, 32)
    checkerboard = (-1.0) ** (x[:, None] + x)
    found = latent_statistics.band_power(torch.stack([coarse, checkerboard])[:, None])
    assert (found > 0.01).tolist() == [[True, False, False, False], [False, False, False, True]]


def test_the_table_contains_the_figures():
    assert "noise std: 0.6" in latent_statistics.format_latent_statistics(
        latent_statistics.measure_latent(0.6 * white())
    )

"""Mixed Inversion on noise of known correlation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bivdiff_core import blend

pytestmark = pytest.mark.floats

RATIOS = [0.1, 0.25, 0.5, 0.8]
RHOS = [-0.5, 0.0, 0.5, 0.81, 0.99]
SHAPE = (8, 4, 64, 64)  # 131072 values: the std of a sample varies by .002


def correlated_pair(rho: float, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """Two unit-variance noise tensors with correlation rho."""
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return a, rho * a + (1 - rho**2) ** 0.5 * b


@pytest.mark.parametrize("mode", blend.MODES)
@pytest.mark.parametrize("rho", RHOS)
def test_ratios_0_and_1_give_the_branches(mode, rho):
    image, video = correlated_pair(rho)
    mix = blend.MODES[mode]
    torch.testing.assert_close(mix(image, video, 1.0), image, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mix(image, video, 0.0), video, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", blend.MODES)
def test_ratio_is_the_weight_of_the_image_branch(mode):
    image, video = correlated_pair(0.0)
    mixed = blend.MODES[mode](image, video, 0.9)
    # The bands of mode frequency overlap: at ratio .9 the correlation with the video branch is .34.
    bound = 0.4 if mode == "frequency" else 0.3
    assert blend.correlation(mixed, image) > 0.9 > bound > blend.correlation(mixed, video)


@pytest.mark.parametrize("ratio", RATIOS)
def test_linear_is_the_papers_mix(ratio):
    image, video = correlated_pair(0.5)
    assert torch.equal(blend.linear(image, video, ratio), ratio * image + (1 - ratio) * video)


@pytest.mark.parametrize(("rho", "variance"), [(0.0, 0.625), (0.5, 0.8125)])
def test_linear_loses_variance(rho, variance):
    """The published values at ratio .25."""
    assert blend.linear(*correlated_pair(rho), 0.25).var().item() == pytest.approx(variance, abs=0.01)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("rho", RHOS)
def test_variance_preserving_keeps_unit_variance(ratio, rho):
    image, video = correlated_pair(rho)
    mixed = blend.variance_preserving(image, video, ratio)
    assert mixed.std().item() == pytest.approx(1, abs=0.006)
    linear = blend.linear(image, video, ratio)
    factor = mixed / linear  # one factor for all values
    torch.testing.assert_close(factor, torch.full_like(factor, factor.median()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rho", RHOS)
def test_correlation_measures_rho(rho):
    assert blend.correlation(*correlated_pair(rho)).item() == pytest.approx(rho, abs=0.01)


def test_correlation_ignores_offset_and_scale():
    image, video = correlated_pair(0.5)
    torch.testing.assert_close(blend.correlation(3 * image + 2, 0.1 * video - 1), blend.correlation(image, video))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("rho", RHOS)
def test_slerp_of_equal_norms_keeps_the_norm(ratio, rho):
    image, video = correlated_pair(rho)
    video = video * image.norm() / video.norm()
    assert blend.slerp(image, video, ratio).norm().item() == pytest.approx(image.norm().item(), rel=1e-4)


@pytest.mark.parametrize("ratio", RATIOS)
def test_slerp_divides_the_angle(ratio):
    image, video = correlated_pair(0.3)
    video = video * image.norm() / video.norm()

    def angle(a: Tensor, b: Tensor) -> float:
        return torch.arccos(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)).item()

    mixed = blend.slerp(image, video, ratio)
    assert angle(mixed, video) == pytest.approx(ratio * angle(image, video), abs=2e-3)


def test_slerp_is_symmetric():
    image, video = correlated_pair(0.3)
    torch.testing.assert_close(blend.slerp(image, video, 0.2), blend.slerp(video, image, 0.8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4, 1e-3])
def test_slerp_of_parallel_latents_is_linear(noise):
    """Parallel latents have no arc between them. The limit is the straight line, without a division by zero."""
    image, other = correlated_pair(0.0)
    video = image + noise * other
    mixed = blend.slerp(image, video, 0.3)
    torch.testing.assert_close(mixed, blend.linear(image, video, 0.3), rtol=0, atol=2e-5 + noise**2)


def branch_coherence(mixed: Tensor, image: Tensor, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coherence with each branch, and radius, for every spatio-temporal frequency; uses numpy's FFT."""
    spectra = [torch.from_numpy(np.fft.fftn(x.numpy(), axes=(0, 2, 3))) for x in (mixed, image, video)]
    power = [s.abs().square().mean(dim=1) for s in spectra]
    coherence = [
        (spectra[0] * s.conj()).mean(dim=1).abs() / (power[0] * p).sqrt()
        for s, p in zip(spectra[1:], power[1:], strict=True)
    ]
    axes = [torch.from_numpy(np.abs(np.fft.fftfreq(mixed.shape[d]) * 2)) for d in (0, 2, 3)]
    return *coherence, sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("rho", RHOS)
def test_frequency_keeps_white_noise_white(ratio, rho):
    """Unit variance in total and in each part of the spectrum, also where the bands overlap."""
    mixed = blend.frequency(*correlated_pair(rho), ratio)
    assert mixed.std().item() == pytest.approx(1, abs=0.006)
    power = np.abs(np.fft.fftn(mixed.numpy(), axes=(0, 2, 3), norm="ortho")) ** 2
    _, _, radius = branch_coherence(mixed, mixed, mixed)
    order = radius.flatten().argsort()
    for part in torch.from_numpy(power).mean(dim=1).flatten()[order].chunk(16):
        assert part.mean().item() == pytest.approx(1, abs=0.06)  # 8192 values: varies by .011


@pytest.mark.parametrize("ratio", RATIOS)
def test_frequency_takes_the_low_band_from_the_image_branch(ratio):
    image, video = correlated_pair(0.0, (8, 64, 16, 16))
    from_image, from_video, radius = branch_coherence(blend.frequency(image, video, ratio), image, video)
    cut = radius.quantile(ratio)
    coarse, fine, coarsest = radius < cut, radius > cut, radius < cut / 2
    assert from_image[coarse].mean() > 0.8 > 0.6 > from_video[coarse].mean()
    assert from_video[fine].mean() > 0.8 > 0.6 > from_image[fine].mean()
    assert from_image[coarsest].mean() > 0.98 > 0.2 > from_video[coarsest].mean()


@pytest.mark.parametrize("ratio", RATIOS)
def test_frequency_restores_the_power_of_each_band(ratio):
    """The scale of a branch does not matter: half or twice the amplitude gives the same mix."""
    image, video = correlated_pair(0.3)
    torch.testing.assert_close(blend.frequency(0.5 * image, 2 * video, ratio), blend.frequency(image, video, ratio))


def test_frequency_treats_a_video_latent_like_frames():
    image, video = correlated_pair(0.5, (8, 4, 16, 16))
    clip = blend.frequency(image.transpose(0, 1)[None], video.transpose(0, 1)[None], 0.4)
    torch.testing.assert_close(clip, blend.frequency(image, video, 0.4).transpose(0, 1)[None])


@pytest.mark.parametrize("mode", blend.MODES)
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 16, 3, 8, 8)])
def test_shape_and_dtype_are_kept(mode, shape):
    image, video = (latent.half() for latent in correlated_pair(0.4, shape))
    mixed = blend.MODES[mode](image, video, 0.5)
    assert mixed.shape == shape and mixed.dtype == torch.float16


# Smoothing over time


def test_steadiness_0_changes_nothing():
    noise, _ = correlated_pair(0.0)
    torch.testing.assert_close(blend.smooth_over_time(noise, 0.0), noise)


@pytest.mark.parametrize("steadiness", [0.3, 1.0])
def test_frames_keep_their_std_and_become_more_similar(steadiness):
    noise, _ = correlated_pair(0.0)
    smoothed = blend.smooth_over_time(noise, steadiness)
    torch.testing.assert_close(smoothed.flatten(1).std(dim=1), noise.flatten(1).std(dim=1), rtol=1e-4, atol=0)
    before, after = (blend.correlation(frames[3], frames[4]) for frames in (noise, smoothed))
    assert after > before + 0.9 * steadiness**2 * 0.8


def test_the_mean_equals_scipys_away_from_the_ends_of_the_clip():
    from scipy.ndimage import gaussian_filter1d

    noise = torch.randn(24, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    smoothed = blend.smooth_over_time(noise, 1.0)[12]
    mean = torch.from_numpy(gaussian_filter1d(noise.numpy(), blend.SMOOTHING_STD_FRAMES, axis=0, truncate=8.0))[12]
    torch.testing.assert_close(smoothed, mean * noise[12].std() / mean.std(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 8])
def test_identical_frames_stay_unchanged(frames):
    noise = correlated_pair(0.0)[0][:1].expand(frames, -1, -1, -1)
    torch.testing.assert_close(blend.smooth_over_time(noise, 0.7), noise)

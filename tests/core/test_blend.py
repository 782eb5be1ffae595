"""Mixed Inversion on noise whose correlation is known."""

import pytest
import torch
from torch import Tensor

from bivdiff_core import blend

RATIOS = [0.1, 0.25, 0.5, 0.8]
RHOS = [-0.5, 0.0, 0.5, 0.81, 0.99]
SHAPE = (8, 4, 64, 64)  # 131072 values: the std of a draw is known to .002


def pair(rho: float, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """Two unit-variance noises with correlation rho."""
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return a, rho * a + (1 - rho**2) ** 0.5 * b


@pytest.mark.parametrize("mode", blend.MODES)
@pytest.mark.parametrize("rho", RHOS)
def test_ends_are_the_branches(mode, rho):
    image, video = pair(rho)
    mix = blend.MODES[mode]
    torch.testing.assert_close(mix(image, video, 1.0), image, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mix(image, video, 0.0), video, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", blend.MODES)
def test_ratio_is_the_weight_of_the_image_branch(mode):
    image, video = pair(0.0)
    mixed = blend.MODES[mode](image, video, 0.9)
    assert blend.correlation(mixed, image) > 0.9 > 0.3 > blend.correlation(mixed, video)


@pytest.mark.parametrize("ratio", RATIOS)
def test_linear_is_the_papers_mix(ratio):
    image, video = pair(0.5)
    assert torch.equal(blend.linear(image, video, ratio), ratio * image + (1 - ratio) * video)


@pytest.mark.parametrize(("rho", "variance"), [(0.0, 0.625), (0.5, 0.8125)])
def test_linear_loses_variance(rho, variance):
    """The published figures at ratio .25."""
    assert blend.linear(*pair(rho), 0.25).var().item() == pytest.approx(variance, abs=0.01)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("rho", RHOS)
def test_variance_preserving_keeps_unit_variance(ratio, rho):
    image, video = pair(rho)
    mixed = blend.variance_preserving(image, video, ratio)
    assert mixed.std().item() == pytest.approx(1, abs=0.006)
    linear = blend.linear(image, video, ratio)
    factor = mixed / linear
    torch.testing.assert_close(factor, torch.full_like(factor, factor.median()), rtol=1e-4, atol=0)  # one for all


@pytest.mark.parametrize("rho", RHOS)
def test_correlation_measures_rho(rho):
    assert blend.correlation(*pair(rho)).item() == pytest.approx(rho, abs=0.01)


def test_correlation_ignores_offset_and_scale():
    image, video = pair(0.5)
    torch.testing.assert_close(blend.correlation(3 * image + 2, 0.1 * video - 1), blend.correlation(image, video))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("rho", RHOS)
def test_slerp_keeps_the_norm_of_equals(ratio, rho):
    """Two latents of one norm stay on their sphere."""
    image, video = pair(rho)
    video = video * image.norm() / video.norm()
    assert blend.slerp(image, video, ratio).norm().item() == pytest.approx(image.norm().item(), rel=1e-4)


@pytest.mark.parametrize("ratio", RATIOS)
def test_slerp_divides_the_angle(ratio):
    image, video = pair(0.3)
    video = video * image.norm() / video.norm()

    def angle(a: Tensor, b: Tensor) -> float:
        return torch.arccos(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)).item()

    mixed = blend.slerp(image, video, ratio)
    assert angle(mixed, video) == pytest.approx(ratio * angle(image, video), abs=2e-3)


def test_slerp_is_symmetric():
    image, video = pair(0.3)
    torch.testing.assert_close(blend.slerp(image, video, 0.2), blend.slerp(video, image, 0.8), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4, 1e-3])
def test_slerp_of_parallel_latents_is_linear(noise):
    """No arc between them: the limit is the straight line, and nothing is divided by zero."""
    image, other = pair(0.0)
    video = image + noise * other
    mixed = blend.slerp(image, video, 0.3)
    torch.testing.assert_close(mixed, blend.linear(image, video, 0.3), rtol=0, atol=2e-5 + noise**2)


@pytest.mark.parametrize("mode", blend.MODES)
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 16, 3, 8, 8)])
def test_shape_and_dtype_are_kept(mode, shape):
    image, video = (latent.half() for latent in pair(0.4, shape))
    mixed = blend.MODES[mode](image, video, 0.5)
    assert mixed.shape == shape and mixed.dtype == torch.float16

"""Bridging strategies on denoisers with known formulas."""

import math

import pytest
import torch
from fixtures.gaussian_mixture import CallRecorder, GaussianMixture

from bivdiff_core.bridging import STRATEGIES, bridge

pytestmark = pytest.mark.floats


def decreasing_levels(steps: int) -> torch.Tensor:
    """Decreasing noise levels that end at 0."""
    return torch.cat((torch.logspace(1, -1.5, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))


SIGMAS = decreasing_levels(21)
IMAGE = GaussianMixture(spread=0.5)
VIDEO = GaussianMixture(components=3, spread=0.3)


def noise() -> torch.Tensor:
    return SIGMAS[0] * torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def euler(denoise, x, sigmas=SIGMAS):
    """An independent Euler sampler for one model."""
    for sigma, next_sigma in zip(sigmas, sigmas[1:], strict=False):
        x = x + (x - denoise(x, sigma.expand(len(x)))) / sigma * (next_sigma - sigma)
    return x


def bridged(image, video, strategy, image_share, sigmas=SIGMAS):
    return euler(lambda x, sigma: bridge(image, video, x, sigma, sigmas, strategy, image_share), noise(), sigmas)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_image_share_1_is_the_image_model(strategy):
    assert torch.equal(bridged(IMAGE.eps, None, strategy, 1.0), euler(IMAGE.eps, noise()))


@pytest.mark.parametrize("strategy", ["parallel", "alternating"])
def test_image_share_0_is_the_video_model(strategy):
    assert torch.equal(bridged(None, VIDEO.eps, strategy, 0.0), euler(VIDEO.eps, noise()))


@pytest.mark.parametrize("strategy", ["parallel", "alternating"])
def test_a_model_bridged_with_itself_equals_the_model(strategy):
    torch.testing.assert_close(bridged(IMAGE.eps, IMAGE.eps, strategy, 0.5), euler(IMAGE.eps, noise()))


def test_interleaving_a_model_with_itself_has_a_first_order_error():
    """An Euler step down and one up do not cancel exactly; with smaller steps the error shrinks."""

    def error(steps):
        sigmas = decreasing_levels(steps)
        difference = bridged(IMAGE.eps, IMAGE.eps, "interleaved", 0.5, sigmas) - euler(IMAGE.eps, noise(), sigmas)
        return difference.square().mean().sqrt()

    assert error(160) < 0.6 * error(80)


def test_interleaved_equals_an_explicit_sampler_loop():
    """At an image share of .5 every second step includes the video model."""
    x = noise()

    def step(model, x, sigma, next_sigma):
        return x + (x - model(x, sigma.expand(len(x)))) / sigma * (next_sigma - sigma)

    for i, (sigma, next_sigma) in enumerate(zip(SIGMAS, SIGMAS[1:], strict=False)):
        if i % 2 == 1 and next_sigma > 0:
            x = step(VIDEO.eps, x, sigma, next_sigma)
            x = step(IMAGE.eps, x, next_sigma, sigma)
        x = step(IMAGE.eps, x, sigma, next_sigma)
    torch.testing.assert_close(bridged(IMAGE.eps, VIDEO.eps, "interleaved", 0.5), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("image_share", [0.0, 0.25, 0.4, 0.5, 0.75, 1.0])
def test_a_model_is_called_according_to_its_share(strategy, image_share):
    image, video = CallRecorder(IMAGE.eps), CallRecorder(VIDEO.eps)
    bridged(image, video, strategy, image_share)
    steps = len(SIGMAS) - 1
    image_steps = math.floor(steps * image_share)
    video_steps = math.floor((steps - 1) * (1 - image_share))
    expected = {
        "parallel": (steps * (image_share > 0), steps * (image_share < 1)),
        "alternating": (image_steps, steps - image_steps),
        "interleaved": (steps + video_steps, video_steps),
    }
    assert (len(image.sigmas), len(video.sigmas)) == expected[strategy]

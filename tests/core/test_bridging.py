"""Bridging strategies on denoisers that are known exactly."""

import math

import pytest
import torch
from fixtures.gaussian_mixture import GaussianMixture

from bivdiff_core.bridging import STRATEGIES, bridge

pytestmark = pytest.mark.floats


def levels(steps: int) -> torch.Tensor:
    """Falling noise levels, 0 at the end."""
    return torch.cat((torch.logspace(1, -1.5, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))


SIGMAS = levels(21)
IMAGE = GaussianMixture(spread=0.5)
VIDEO = GaussianMixture(components=3, spread=0.3)


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoise):
        self.denoise = denoise
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoise(x, sigma)


def noise() -> torch.Tensor:
    return SIGMAS[0] * torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def euler(denoise, x, sigmas=SIGMAS):
    """A sampler of its own, that knows nothing of bridges."""
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = x + (x - denoise(x, sigma.expand(len(x)))) / sigma * (following - sigma)
    return x


def bridged(image, video, strategy, share, sigmas=SIGMAS):
    return euler(lambda x, sigma: bridge(image, video, x, sigma, sigmas, strategy, share), noise(), sigmas)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_of_the_image_models_share_is_the_image_model(strategy):
    assert torch.equal(bridged(IMAGE.eps, None, strategy, 1.0), euler(IMAGE.eps, noise()))


@pytest.mark.parametrize("strategy", ["parallel", "alternating"])
def test_none_of_it_is_the_video_model(strategy):
    assert torch.equal(bridged(None, VIDEO.eps, strategy, 0.0), euler(VIDEO.eps, noise()))


@pytest.mark.parametrize("strategy", ["parallel", "alternating"])
def test_a_model_bridged_with_itself_stays_what_it_is(strategy):
    torch.testing.assert_close(bridged(IMAGE.eps, IMAGE.eps, strategy, 0.5), euler(IMAGE.eps, noise()))


def test_a_visit_to_the_same_model_costs_an_error_of_first_order():
    """An Euler step down and one up do not quite cancel; finer steps bring the end nearer to where it belongs."""

    def error(steps):
        sigmas = levels(steps)
        away = bridged(IMAGE.eps, IMAGE.eps, "interleaved", 0.5, sigmas) - euler(IMAGE.eps, noise(), sigmas)
        return away.square().mean().sqrt()

    assert error(160) < 0.6 * error(80)


def test_interleaved_is_image_steps_with_visits():
    """Against the same thing written as a sampler's loop; a share of .5 visits at every second level."""
    x = noise()

    def step(model, x, sigma, following):
        return x + (x - model(x, sigma.expand(len(x)))) / sigma * (following - sigma)

    for i, (sigma, following) in enumerate(zip(SIGMAS, SIGMAS[1:], strict=False)):
        if i % 2 == 1 and following > 0:
            x = step(VIDEO.eps, x, sigma, following)
            x = step(IMAGE.eps, x, following, sigma)
        x = step(IMAGE.eps, x, sigma, following)
    torch.testing.assert_close(bridged(IMAGE.eps, VIDEO.eps, "interleaved", 0.5), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 0.5, 0.75, 1.0])
def test_a_model_is_called_by_its_share(strategy, share):
    image, video = Counted(IMAGE.eps), Counted(VIDEO.eps)
    bridged(image, video, strategy, share)
    steps = len(SIGMAS) - 1
    drawn = math.floor(steps * share)
    visits = math.floor((steps - 1) * (1 - share))
    expected = {
        "parallel": (steps * (share > 0), steps * (share < 1)),
        "alternating": (drawn, steps - drawn),
        "interleaved": (steps + visits, visits),
    }
    assert (image.calls, video.calls) == expected[strategy]

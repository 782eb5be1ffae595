"""A data distribution whose denoiser is known exactly: the oracle for everything that follows the ODE."""

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]


class GaussianMixture:
    """Isotropic Gaussians of std `spread` around `components` random means: `x0`, `[F, C, H, W]`, all in float64."""

    def __init__(self, shape=(4, 4, 4), components: int = 8, means_std: float = 0.7, spread: float = 0.7):
        generator = torch.Generator().manual_seed(0)
        self.means = torch.randn(components, *shape, generator=generator, dtype=torch.float64) * means_std
        self.spread = spread

    def sample(self, frames: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        which = torch.randint(len(self.means), (frames,), generator=generator)
        noise = torch.randn(frames, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means[which] + self.spread * noise

    def posterior_mean(self, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """E[x0 | x] for `x = signal * x0 + noise * n`, one (signal, noise) per frame, in x's dtype."""
        signal, noise = (level.double().view(-1, 1, 1, 1, 1) for level in (signal, noise))
        variance = (signal * self.spread) ** 2 + noise**2
        away = x.double().unsqueeze(1) - signal * self.means  # [F, components, C, H, W]
        weights = torch.softmax(-(away**2 / (2 * variance)).sum(dim=(2, 3, 4)), dim=1)[:, :, None, None, None]
        return (weights * (self.means + signal * self.spread**2 / variance * away)).sum(dim=1).to(x.dtype)

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoised through an eps network: `x = x0 + sigma * n`."""
        at = sigma.view(-1, 1, 1, 1)
        predicted_noise = (x - self.posterior_mean(x, torch.ones_like(sigma), sigma)) / at
        return x - at * predicted_noise

    def v(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoised through a v network (arXiv 2202.00512), which sees and predicts in VP-space."""
        at = sigma.view(-1, 1, 1, 1)
        alpha, beta = 1 / (1 + at**2).sqrt(), at / (1 + at**2).sqrt()
        x0 = self.posterior_mean(x, torch.ones_like(sigma), sigma)
        velocity = alpha * (x - x0) / at - beta * x0
        return alpha * (alpha * x) - beta * velocity

    def flow(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoised through a rectified-flow network: `x = (1 - sigma) * x0 + sigma * n`."""
        at = sigma.view(-1, 1, 1, 1)
        velocity = (x - self.posterior_mean(x, 1 - sigma, sigma)) / at
        return x - at * velocity


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def relative(found: Tensor, expected: Tensor) -> float:
    """How far off, as a share of what is expected."""
    return rms(found - expected) / rms(expected)


def assert_near(found: Tensor, expected: Tensor, within: float) -> None:
    """Fail where `found` differs from `expected` by more than a share of its size, both as root mean squares."""
    off = relative(found, expected)
    assert off < within, f"{off:.2g} of the expected size, more than {within:g}"


def slope(model: Denoiser, x: Tensor, sigma: Tensor, sigma_min: float) -> Tensor:
    sigma = sigma.clamp(min=sigma_min)
    return (x - model(x, sigma.expand(len(x)))) / sigma


def ode_solution(model: Denoiser, x: Tensor, sigma_max: float, sigma_min: float, steps: int = 2000) -> Tensor:
    """The probability-flow ODE from 0 to sigma_max by the classic Runge-Kutta rule; slope frozen below sigma_min."""
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 3 * sigma_max
    for s, t in zip(grid, grid[1:], strict=False):
        d = t - s
        k1 = slope(model, x, s, sigma_min)
        k2 = slope(model, x + d / 2 * k1, s + d / 2, sigma_min)
        k3 = slope(model, x + d / 2 * k2, s + d / 2, sigma_min)
        k4 = slope(model, x + d * k3, t, sigma_min)
        x = x + d / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def euler_down(model: Denoiser, x: Tensor, rising: Tensor, sigma_min: float) -> Tensor:
    """DDIM denoising: the levels of an inversion backwards, down to 0."""
    falling = rising.flip(0)
    for s, t in zip(falling, falling[1:], strict=False):
        x = x + (t - s) * slope(model, x, s, sigma_min)
    return x

"""Inversion solvers: follow the probability-flow ODE from a clean latent through increasing noise levels.

All have k-diffusion's signature and call `model(x, sigma)`, which predicts the denoised latent. One function therefore
serves eps, v and flow models: in k-space `(x - denoised) / sigma` is the noise eps; for rectified flow,
`x = (1 - sigma) * x0 + sigma * noise`, it is the velocity `noise - x0`. Both are dx/dsigma.

`x` is `[F, C, H, W]` or `[B, C, T, H, W]` in float32; `sigmas` increases. A grid may begin at 0, where dx/dsigma is
undefined: below `sigma_min`, the lowest level that the model was trained at, the model is called at `sigma_min`.
`callback` is called once per step with k-diffusion's dict, however many model calls the step needs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import trange

FIXED_POINT_ITERATIONS = 3

Denoiser = Callable[..., Tensor]
Callback = Callable[[dict], None]


class _Slope:
    """dx/dsigma of the probability-flow ODE; keeps the last denoised prediction for the callback."""

    def __init__(self, model: Denoiser, extra_args: dict | None, sigma_min: float):
        self.model = model
        self.extra_args = extra_args or {}
        self.sigma_min = sigma_min
        self.denoised: Tensor

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.clamp(min=self.sigma_min)
        self.denoised = self.model(x, sigma.expand(x.shape[0]), **self.extra_args)
        return (x - self.denoised) / sigma


def euler_step(x: Tensor, denoised: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One Euler step of the ODE from `sigma` to `next_sigma`."""
    return x + (x - denoised) / sigma * (next_sigma - sigma)


def _report(callback: Callback | None, i: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
    if callback is not None:
        callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})


@torch.no_grad()
def ddim(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    sigma_min: float,
) -> Tensor:
    """DDIM inversion (arXiv 2010.02502, eta = 0): Euler steps with the slope at the current level."""
    slope = _Slope(model, extra_args, sigma_min)
    for i in trange(len(sigmas) - 1, disable=disable):
        d = sigmas[i + 1] - sigmas[i]
        x = x + d * slope(x, sigmas[i])
        _report(callback, i, x, sigmas[i + 1], slope.denoised)
    return x


@torch.no_grad()
def fixed_point(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    sigma_min: float,
) -> Tensor:
    """Backward Euler by fixed-point iteration (AIDI, arXiv 2309.04907): the exact inverse of a DDIM step."""
    slope = _Slope(model, extra_args, sigma_min)
    for i in trange(len(sigmas) - 1, disable=disable):
        d = sigmas[i + 1] - sigmas[i]
        y = x
        for _ in range(FIXED_POINT_ITERATIONS):
            y = x + d * slope(y, sigmas[i + 1])
        x = y
        _report(callback, i, x, sigmas[i + 1], slope.denoised)
    return x


@torch.no_grad()
def uni_inv(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    sigma_min: float,
) -> Tensor:
    """Uni-Inv (arXiv 2504.13109): uses the slope at the next level, at a point predicted with the previous slope."""
    slope = _Slope(model, extra_args, sigma_min)
    v = slope(x, sigmas[0])
    for i in trange(len(sigmas) - 1, disable=disable):
        d = sigmas[i + 1] - sigmas[i]
        v = slope(x + d * v, sigmas[i + 1])
        x = x + d * v
        _report(callback, i, x, sigmas[i + 1], slope.denoised)
    return x


@torch.no_grad()
def fireflow(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    sigma_min: float,
) -> Tensor:
    """FireFlow (arXiv 2412.07517): midpoint rule that predicts the midpoint with the previous midpoint's slope."""
    slope = _Slope(model, extra_args, sigma_min)
    v = slope(x, sigmas[0])
    for i in trange(len(sigmas) - 1, disable=disable):
        d = sigmas[i + 1] - sigmas[i]
        v = slope(x + d / 2 * v, sigmas[i] + d / 2)
        x = x + d * v
        _report(callback, i, x, sigmas[i + 1], slope.denoised)
    return x


SOLVERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "uni_inv": uni_inv,
    "fireflow": fireflow,
    "fixed_point": fixed_point,
}

"""Image and video model bridged while they denoise, instead of one after the other as BIVDiff does.

The paper's first ablation (arXiv 2312.02813, section 4.3) calls these strategies parallel and alternating;
interleaved follows IV-Mixed Sampler (arXiv 2410.04171), whose finding is that the way back must be deterministic.
A denoiser takes k-space latents ``x`` and their noise level and predicts the clean ones.
"""

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]

STRATEGIES = ("parallel", "alternating", "interleaved")


def bridge(
    image: Denoiser, video: Denoiser, x: Tensor, sigma: Tensor, sigmas: Tensor, strategy: str, share: float
) -> Tensor:
    """The denoised prediction that a sampler at ``sigma`` is to follow.

    - parallel: ``share * image + (1 - share) * video``.
    - alternating: one model a step, the image model in ``share`` of the steps, evenly spread.
    - interleaved: the image model throughout, and in ``1 - share`` of the steps a visit to the video model first: its
      step down to the next level, and back up along the image model's ODE. Exact for samplers that take Euler steps
      (ddim, euler), whose next state is all that the prediction decides.

    Args:
        x: ``[F, C, H, W]`` or ``[B, C, T, H, W]``, k-space.
        sigma: noise level of all of ``x``, shape ``[B]``.
        sigmas: the run's levels, falling.
        strategy: one of ``STRATEGIES``.
        share: the image model's, 0..1.
    """
    level = int((sigmas - sigma[0]).abs().argmin())
    if strategy == "parallel":
        both = [(share, image), (1 - share, video)]
        first, *rest = [weight * model(x, sigma) for weight, model in both if weight > 0]
        return sum(rest, first)
    if strategy == "alternating":
        return (image if _is_active_step(level, share) else video)(x, sigma)
    following = sigmas[level + 1]
    if not _is_active_step(level, 1 - share) or following == 0:
        return image(x, sigma)
    visited = _euler_step(video, x, sigma, following)
    returned = _euler_step(image, visited, following.expand_as(sigma), sigma[0])
    reached = _euler_step(image, returned, sigma, following)
    return x - (reached - x) * sigma[0] / (following - sigma[0])


def _is_active_step(step: int, share: float) -> bool:
    """Whether a thing that happens in ``share`` of all steps, evenly spread, happens in this one."""
    return int((step + 1) * share + 1e-6) > int(step * share + 1e-6)


def _euler_step(model: Denoiser, x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """One Euler step of the ODE from ``sigma`` to the level ``following``."""
    return x + (x - model(x, sigma)) / sigma[0] * (following - sigma[0])

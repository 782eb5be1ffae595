"""Combine an image model and a video model in every denoising step. BIVDiff itself runs them one after the other.

`parallel` and `alternating` come from the paper's first ablation (arXiv 2312.02813, section 4.3). `interleaved` follows
IV-Mixed Sampler (arXiv 2410.04171), which found that renoising must be deterministic. A denoiser takes k-space latents
`x` and their sigma and predicts the clean latents.
"""

from torch import Tensor

from .solvers import Denoiser, euler_step

STRATEGIES = ("parallel", "alternating", "interleaved")


def bridge(
    image: Denoiser, video: Denoiser, x: Tensor, sigma: Tensor, sigmas: Tensor, strategy: str, image_share: float
) -> Tensor:
    """The denoised prediction for a sampler at `sigma`.

    - parallel: `image_share * image + (1 - image_share) * video`.
    - alternating: one model per step; the image model in `image_share` of the steps, evenly spaced.
    - interleaved: the image model predicts every step. In `1 - image_share` of the steps, evenly spaced, the video
      model first takes an Euler step down and the image model an Euler step back up. Exact for samplers with Euler
      steps (ddim, euler) only, because they use the prediction for nothing but the next state.

    Args:
        x: `[F, C, H, W]` or `[B, C, T, H, W]`, k-space.
        sigma: noise level of all of `x`, shape `[B]`.
        sigmas: all noise levels of the run, decreasing.
        strategy: one of `STRATEGIES`.
        image_share: weight of the image model or its share of the steps, 0..1.
    """
    step = int((sigmas - sigma[0]).abs().argmin())
    if strategy == "parallel":
        weighted = [(image_share, image), (1 - image_share, video)]
        first, *rest = [weight * model(x, sigma) for weight, model in weighted if weight > 0]
        return sum(rest, first)
    if strategy == "alternating":
        return (image if _is_active_step(step, image_share) else video)(x, sigma)
    next_sigma = sigmas[step + 1]
    if not _is_active_step(step, 1 - image_share) or next_sigma == 0:
        return image(x, sigma)
    x_after_video = euler_step(x, video(x, sigma), sigma[0], next_sigma)
    denoised = image(x_after_video, next_sigma.expand_as(sigma))
    x_renoised = euler_step(x_after_video, denoised, next_sigma, sigma[0])
    x_next = euler_step(x_renoised, image(x_renoised, sigma), sigma[0], next_sigma)
    return x - (x_next - x) * sigma[0] / (next_sigma - sigma[0])  # its Euler step leads to x_next


def _is_active_step(step: int, share: float) -> bool:
    """Whether this step is one of the evenly spaced `share` of all steps."""
    return int((step + 1) * share + 1e-6) > int(step * share + 1e-6)

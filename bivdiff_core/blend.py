"""Mixed Inversion: one latent out of the image branch's and the video branch's (BIVDiff, arXiv 2312.02813, eq. 5).

Both latents are unit-variance noise of the same shape; `ratio` is the weight of the image branch.
"""

import torch
from torch import Tensor

TASK_RATIOS = {
    "controlnet": 1.0,
    "t2i_adapter": 1.0,
    "instruct_pix2pix": 1.0,
    "prompt2prompt": 0.25,
    "inpainting": 0.1,
    "outpainting": 0.1,
}
"""The mixing ratios of the released configurations (MCG-NJU/BIVDiff)."""


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two latents of one shape over all their elements, a scalar in -1..1."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).float())[0, 1]


def linear(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """`ratio * image + (1 - ratio) * video`, the paper's mix; loses variance where the branches disagree."""
    return ratio * image + (1 - ratio) * video


def variance_preserving(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """The linear mix divided by its expected standard deviation (LOL, arXiv 2408.08558).

    `sqrt(a^2 + (1 - a)^2 + 2 a (1 - a) rho)` with the correlation rho measured over the whole clip: one factor for
    all frames, so that it adds no flicker.
    """
    rho = correlation(image, video)
    variance = ratio**2 + (1 - ratio) ** 2 + 2 * ratio * (1 - ratio) * rho
    return linear(image, video, ratio) / variance.sqrt()


def slerp(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """Spherical interpolation along the angle between the two whole clips (Shoemake, SIGGRAPH 1985)."""
    cosine = torch.nn.functional.cosine_similarity(image.flatten().float(), video.flatten().float(), dim=0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle) < 1e-4:  # parallel latents have no arc between them
        return linear(image, video, ratio)
    return (torch.sin(ratio * angle) * image + torch.sin((1 - ratio) * angle) * video) / torch.sin(angle)


MODES = {"linear": linear, "variance_preserving": variance_preserving, "slerp": slerp}

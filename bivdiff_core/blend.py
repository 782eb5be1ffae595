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


FILTER_ORDER = 4
"""Steepness of the filter between the bands, FreeInit's (arXiv 2312.07537)."""


def frequency(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """The low band of the image branch and the high band of the video branch; `ratio` is the low band's share.

    The low band of the noise settles layout and slow change, so it comes from the branch that knows the frames one by
    one, as FreeInit (arXiv 2312.07537) keeps that of the clip; the high band comes from the noise that the video model
    would have made itself. A spatio-temporal Butterworth low-pass and its complement `sqrt(1 - low^2)` (FreqPrior,
    arXiv 2502.03496) divide them at the radius below which `ratio` of all frequencies lies, each axis counted up to its
    own highest. Each band is brought to white noise's power, and where they overlap correlated branches do not add up.
    """
    if ratio in (0, 1):  # no cut lies inside the spectrum
        return linear(image, video, ratio)
    if image.ndim == 4:  # [F, C, H, W]
        return frequency(image.transpose(0, 1)[None], video.transpose(0, 1)[None], ratio)[0].transpose(0, 1)

    dims = (-3, -2, -1)
    axes = [torch.fft.fftfreq(image.shape[dim], d=0.5, device=image.device) for dim in dims]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)  # [T, H, W]
    share = 1 / (1 + (radius / radius.quantile(ratio)) ** (2 * FILTER_ORDER))  # the image branch's, of the power

    low = share.sqrt() * torch.fft.fftn(image.float(), dim=dims, norm="ortho")
    high = (1 - share).sqrt() * torch.fft.fftn(video.float(), dim=dims, norm="ortho")
    low = low * (share.mean() / low.abs().square().mean()).sqrt()
    high = high * ((1 - share).mean() / high.abs().square().mean()).sqrt()

    overlap = (share * (1 - share)).sqrt()
    rho = (low * high.conj()).real.mean() / overlap.mean()
    mixed = (low + high) / (1 + 2 * rho * overlap).sqrt()
    return torch.fft.ifftn(mixed, dim=dims, norm="ortho").real.to(video.dtype)


SMOOTHING_STD_FRAMES = 1.5
"""Standard deviation, in frames, of the Gaussian over which `smooth_over_time` takes its mean."""


def smooth_over_time(noise: Tensor, steadiness: float) -> Tensor:
    """Noise of frames `[F, ...]` drawn towards its mean over neighbouring frames, every frame's std kept.

    `S + (1 - steadiness)(z - S)` with S a Gaussian mean over time. What frames drawn apart remember of each other's
    texture is evened out before the video model sees it; things that move far leave a shadow.

    Args:
        steadiness: 0 changes nothing, 1 leaves the mean alone.
    """
    frames = noise.flatten(1).float()
    distance = torch.arange(len(frames), device=noise.device).float()
    weights = torch.exp(-0.5 * ((distance[:, None] - distance) / SMOOTHING_STD_FRAMES) ** 2)
    mean = weights / weights.sum(dim=1, keepdim=True) @ frames
    drawn = torch.lerp(frames, mean, steadiness)
    drawn = drawn * (frames.std(dim=1, keepdim=True) / drawn.std(dim=1, keepdim=True))
    return drawn.reshape(noise.shape).to(noise.dtype)


MODES = {"linear": linear, "variance_preserving": variance_preserving, "slerp": slerp, "frequency": frequency}

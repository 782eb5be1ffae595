"""Mixed Inversion: blend the inverted latents of the image branch and the video branch (arXiv 2312.02813, eq. 5).

Both latents are unit-variance noise of the same shape. `ratio` is the weight of the image branch.
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
    """Pearson correlation of two latents of one shape over all elements, a scalar in -1..1."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).float())[0, 1]


def linear(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """`ratio * image + (1 - ratio) * video`, as in the paper. Loses variance if the branches differ."""
    return ratio * image + (1 - ratio) * video


def variance_preserving(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """The linear mix divided by its expected standard deviation (LOL, arXiv 2408.08558).

    The divisor is `sqrt(a^2 + (1 - a)^2 + 2 a (1 - a) rho)`, where `a` is the ratio and `rho` the correlation over the
    whole clip. All frames share one divisor, so it adds no flicker.
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
"""Order of the Butterworth filter between the bands, as in FreeInit (arXiv 2312.07537)."""


def frequency(image: Tensor, video: Tensor, ratio: float) -> Tensor:
    """Low band of the image branch plus high band of the video branch; `ratio` is the low band's share of frequencies.

    The low band determines layout and slow change, so it comes from the image branch, which inverts each frame
    separately. FreeInit (arXiv 2312.07537) keeps the low band of the clip in the same way. The high band comes from the
    video branch.

    The bands are split by a spatio-temporal Butterworth low-pass and its complement `sqrt(1 - low^2)` (FreqPrior,
    arXiv 2502.03496). The cutoff radius is the `ratio` quantile of all frequencies, each axis normalised to its Nyquist
    frequency. Each band is scaled to white-noise power. Where the bands overlap, the sum is divided by its expected
    std, so correlated branches gain no power.
    """
    if ratio in (0, 1):  # one band is empty
        return linear(image, video, ratio)
    if image.ndim == 4:  # [F, C, H, W]
        return frequency(image.transpose(0, 1)[None], video.transpose(0, 1)[None], ratio)[0].transpose(0, 1)

    dims = (-3, -2, -1)
    axes = [torch.fft.fftfreq(image.shape[dim], d=0.5, device=image.device) for dim in dims]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)  # [T, H, W]
    low_power = 1 / (1 + (radius / radius.quantile(ratio)) ** (2 * FILTER_ORDER))  # power response of the low-pass

    low = low_power.sqrt() * torch.fft.fftn(image.float(), dim=dims, norm="ortho")
    high = (1 - low_power).sqrt() * torch.fft.fftn(video.float(), dim=dims, norm="ortho")
    low = low * (low_power.mean() / low.abs().square().mean()).sqrt()
    high = high * ((1 - low_power).mean() / high.abs().square().mean()).sqrt()

    overlap = (low_power * (1 - low_power)).sqrt()
    rho = (low * high.conj()).real.mean() / overlap.mean()
    mixed = (low + high) / (1 + 2 * rho * overlap).sqrt()
    return torch.fft.ifftn(mixed, dim=dims, norm="ortho").real.to(video.dtype)


SMOOTHING_STD_FRAMES = 1.5
"""Standard deviation, in frames or latents, of the Gaussian in `smooth_over_time`."""


def smooth_over_time(noise: Tensor, steadiness: float, frame_dim: int = 0) -> Tensor:
    """Smooth noise over time with a Gaussian and keep every frame's std.

    `S + (1 - steadiness)(z - S)`, where S is the Gaussian mean over time. It removes texture differences between
    independently generated frames before the video model processes them. Objects that move far leave ghosts.

    Args:
        noise: inverted frames, or latents that pack several frames.
        steadiness: 0 changes nothing, 1 returns the mean.
        frame_dim: axis of the frames or latents.
    """
    by_frame = noise.movedim(frame_dim, 0)
    frames = by_frame.flatten(1).float()
    distance = torch.arange(len(frames), device=noise.device).float()
    weights = torch.exp(-0.5 * ((distance[:, None] - distance) / SMOOTHING_STD_FRAMES) ** 2)
    mean = weights / weights.sum(dim=1, keepdim=True) @ frames
    smoothed = torch.lerp(frames, mean, steadiness)
    smoothed = smoothed * (frames.std(dim=1, keepdim=True) / smoothed.std(dim=1, keepdim=True))
    return smoothed.reshape(by_frame.shape).movedim(0, frame_dim).to(noise.dtype)


MODES = {"linear": linear, "variance_preserving": variance_preserving, "slerp": slerp, "frequency": frequency}

"""Initial noise for independently generated frames, and a measure that tells noise from images."""

import torch
from torch import Tensor

FRAME_NOISE_MODES = ("independent", "shared", "progressive")
PROGRESSIVE_ALPHA = 2.0
"""Weight of the previous frame's noise relative to the new noise, from PYoCo (arXiv 2305.10474, section 4)."""

MAX_NOISE_CORRELATION = 0.5
"""Latents with a higher lag-1 spatial correlation are rejected as images.

Measured on ten held-out demo clips: encoded frames .36 to .73 (mean .56), frames inverted in 5 to 25 steps below .15.
The bound is lenient because a poor inversion is still worth denoising.
"""


def correlate_frames(noise: Tensor, mode: str, dim: int = 0) -> Tensor:
    """Correlate white noise between frames. Each frame stays N(0, 1).

    Args:
        noise: white noise, frames along `dim`.
        mode: `independent` returns it unchanged; `shared` gives all frames the noise of the first; `progressive`
            changes it gradually: `n_i = (alpha n_{i-1} + e_i) / sqrt(1 + alpha^2)` (PYoCo, arXiv 2305.10474).
    """
    if mode == "independent":
        return noise
    frames = list(noise.unbind(dim))
    for i in range(1, len(frames)):
        if mode == "shared":
            frames[i] = frames[0]
        else:
            frames[i] = (PROGRESSIVE_ALPHA * frames[i - 1] + frames[i]) / (1 + PROGRESSIVE_ALPHA**2) ** 0.5
    return torch.stack(frames, dim)


def spatial_correlation(latent: Tensor) -> float:
    """Mean correlation of horizontally and of vertically adjacent values; 0 for white noise.

    Each channel's mean over the clip is subtracted first. `latent` is `[F, C, H, W]` or `[B, C, T, H, W]`.
    """
    latent = latent.float()
    channel_dims = [d for d in range(latent.ndim) if d != 1]
    latent = latent - latent.mean(dim=channel_dims, keepdim=True)
    variance = latent.square().mean().clamp(min=1e-12)
    across = (latent[..., 1:] * latent[..., :-1]).mean()
    down = (latent[..., 1:, :] * latent[..., :-1, :]).mean()
    return ((across + down) / (2 * variance)).item()

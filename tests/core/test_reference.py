"""Our solvers compared with the released loops, written with diffusers, on the same network."""

import pytest
import torch
from diffusers import UNet2DModel
from fixtures.gaussian_mixture import assert_near
from fixtures.released_loops import ddim_denoise, invert_as_released, make_released_scheduler, to_sigmas
from torch import Tensor

from bivdiff_core.grids import reference_denoising_grid, reference_inversion_grid, unit_scale
from bivdiff_core.solvers import ddim

pytestmark = pytest.mark.floats

STEPS = 50


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def z0() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def in_k_space(unet: UNet2DModel, alphas_cumprod: Tensor):
    """diffusers' network as a denoiser of `x = x0 + sigma * eps`, called at the timestep of sigma."""
    levels = to_sigmas(alphas_cumprod)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        t = (levels - sigma[0].double()).abs().argmin()
        assert torch.isclose(levels[t], sigma[0].double(), rtol=1e-5)
        scale = sigma.view(-1, 1, 1, 1)
        return x - scale * unet((x / (1 + scale**2).sqrt()).float(), t).sample

    return denoised


@torch.no_grad()
@pytest.mark.parametrize("reference_dtype", [torch.float32, torch.float64])
def test_inversion_equals_the_released_loop_at_every_step(unet, z0, reference_dtype):
    """The solver runs in fp32. Its k-space state divided by sqrt(1 + sigma^2) is diffusers' z."""
    scheduler = make_released_scheduler(STEPS)
    expected = invert_as_released(lambda z, t: unet(z.float(), t).sample.to(z.dtype), scheduler, z0.to(reference_dtype))
    sigmas = reference_inversion_grid(to_sigmas(scheduler.alphas_cumprod), STEPS).float()
    got = []
    model = in_k_space(unet, scheduler.alphas_cumprod)
    start = z0 * unit_scale(sigmas[0])  # the clean latent is treated as z at t = 1
    ddim(model, start, sigmas, callback=got.append, disable=True, sigma_min=0.0292)
    assert len(got) == len(expected) == STEPS
    for report, z in zip(got, expected, strict=True):
        assert report["x"].dtype == torch.float32
        assert_near(report["x"] / unit_scale(report["sigma"]), z, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_denoising_grids_equal_diffusers(unet, z0, set_alpha_to_one):
    """Euler steps along the reference grid are DDIM that ends at alphas_cumprod[0]; ending at 0 is set_alpha_to_one."""
    scheduler = make_released_scheduler(STEPS, set_alpha_to_one)
    sigmas = reference_denoising_grid(to_sigmas(scheduler.alphas_cumprod), STEPS).float()
    if set_alpha_to_one:
        sigmas[-1] = 0

    expected, got = ddim_denoise(lambda z, t: unet(z, t).sample, scheduler, z0), []
    model = in_k_space(unet, scheduler.alphas_cumprod)
    ddim(model, z0 * unit_scale(sigmas[0]), sigmas, callback=got.append, disable=True, sigma_min=0.0292)
    for report, z in zip(got, expected, strict=True):
        assert_near(report["x"] / unit_scale(report["sigma"]), z, 1e-5)

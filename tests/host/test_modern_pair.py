"""The modern pair's training uses the same mathematics as ComfyUI's classes."""

import comfy.latent_formats
import pytest
import torch

from research import modern_pair

pytestmark = pytest.mark.floats


@pytest.fixture
def vae():
    """A VAE with random residual branches and convolutions over time."""
    net = modern_pair.make_vae()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
                layer.weight += 0.02 * torch.randn(layer.weight.shape, generator=generator)
    return net


@pytest.fixture
def clip():
    return 2 * torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1)) - 1


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 5, 9])
def test_whole_clips_equal_comfyuis_loop_over_parts(vae, clip, frames):
    whole, part = modern_pair.WholeClips(vae), clip[:, :, :frames]
    latent = vae.encode(part)
    torch.testing.assert_close(whole.encode(part)[0], latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.decode(latent), vae.decode(latent), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_rescaled_latents_are_normalised_by_wans_format(vae, clip):
    latent, decoded = vae.encode(clip), vae.decode(vae.encode(clip))
    mean, std = torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16)
    modern_pair.rescale_latents(vae, mean, std)
    rescaled = vae.encode(clip)
    expected = (latent - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(comfy.latent_formats.Wan21().process_in(rescaled), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vae.decode(rescaled), decoded, atol=1e-4, rtol=1e-4)

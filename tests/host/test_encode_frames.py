"""Encode Frames: it equals ComfyUI's VAE Encode and rejects inputs of which the VAE would drop a part."""

import pytest
import torch
from fixtures import tiny_models as tiny
from torch import Tensor

from bivdiff_core.host.encoding import reconstruct_frames


@pytest.fixture(scope="module")
def wan_vae():
    return tiny.wan_vae()


@pytest.fixture(scope="module")
def image_vae():
    return tiny.image_vae()


def random_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def encode(pack, vae, images: Tensor, **inputs) -> Tensor:
    return pack.run("BIVDiffEncodeFrames", vae=vae, images=images, **inputs)[0]["samples"]


def core_encode(pack, vae, images: Tensor) -> Tensor:
    return pack.run("VAEEncode", vae=vae, pixels=images)[0]["samples"]


def test_a_clip_is_encoded_together(pack, wan_vae):
    images = random_images(17)
    for stride, latents in ((1, 5), (2, 3), (4, 2)):
        clip = encode(pack, wan_vae, images, stride=stride)
        assert clip.shape == (1, 16, latents, 4, 4)
        assert torch.equal(clip, core_encode(pack, wan_vae, images[::stride]))


@pytest.mark.floats
def test_single_frames_are_encoded_independently(pack, wan_vae):
    """They are as many as the clip's latent frames, and the first is equal: Wan encodes 1, 4, 4, ... frames."""
    images = random_images(9)
    frames = encode(pack, wan_vae, images, stride=4, mode="single_frames")
    assert frames.shape == (3, 16, 1, 4, 4)
    for latent, i in zip(frames.split(1), (0, 4, 8), strict=True):
        torch.testing.assert_close(latent, core_encode(pack, wan_vae, images[i : i + 1]))
    clip = encode(pack, wan_vae, images)
    assert clip.shape[2] == len(frames)
    torch.testing.assert_close(clip[:, :, :1], frames[:1])
    assert not torch.allclose(clip[:, :, 1:2], frames[1:2], rtol=0.1)


@pytest.mark.floats
@pytest.mark.parametrize("mode", ["clip", "single_frames"])
def test_an_image_vae_encodes_frames_independently(pack, image_vae, mode):
    images = random_images(7)
    frames = encode(pack, image_vae, images, stride=2, mode=mode)
    assert frames.shape == (4, 4, 4, 4)
    torch.testing.assert_close(frames, core_encode(pack, image_vae, images[::2]))


@pytest.mark.parametrize(("vae", "count"), [("wan_vae", 5), ("image_vae", 8)])
def test_a_reconstruction_equals_vae_encode_and_vae_decode(pack, request, vae, count):
    """Without the last frames, which would not fill a latent frame."""
    vae, images = request.getfixturevalue(vae), random_images(8)
    with torch.inference_mode():
        reconstructed = reconstruct_frames(vae, images)
    (expected,) = pack.run("VAEDecode", vae=vae, samples={"samples": core_encode(pack, vae, images[:count])})
    assert reconstructed.shape == images[:count].shape and torch.equal(reconstructed, expected)


def assert_rejected(pack, vae, images: Tensor, *parts: str, **inputs) -> None:
    """Assert that encoding raises an error that contains `parts`, before the VAE is called."""
    calls = []
    hook = vae.first_stage_model.encoder.register_forward_hook(lambda *args: calls.append(args))
    with pytest.raises(ValueError, match="^Encode Frames: ") as error:
        encode(pack, vae, images, **inputs)
    hook.remove()
    for part in parts:
        assert part in str(error.value)
    assert calls == []


@pytest.mark.parametrize(
    ("count", "stride", "fit"), [(7, 1, "5 or 9"), (27, 4, "5 or 9"), (10, 1, "9 or 13"), (2, 1, "1 or 5")]
)
def test_frames_that_would_be_dropped(pack, wan_vae, count, stride, fit):
    parts = f"keep only the first {fit.split()[0]} of", f"Select Frames to {fit}"
    assert_rejected(pack, wan_vae, random_images(count), *parts, stride=stride)
    frames = encode(pack, wan_vae, random_images(count), stride=stride, mode="single_frames")
    assert len(frames) == len(range(0, count, stride))


@pytest.mark.parametrize("mode", ["clip", "single_frames"])
def test_edges_that_would_be_cropped(pack, wan_vae, image_vae, mode):
    for vae in (wan_vae, image_vae):
        assert_rejected(pack, vae, random_images(1, 36, 40), "40x36", "multiples of 8", "40x32", mode=mode)
        assert_rejected(pack, vae, random_images(1, 32, 33), "33x32", mode=mode)

"""Encode Frames: what the host's VAE Encode makes of the same frames, and nothing lost on the way."""

import pytest
import torch
from fixtures import tiny_models as tiny
from torch import Tensor


@pytest.fixture(scope="module")
def wan_vae():
    return tiny.wan_vae()


@pytest.fixture(scope="module")
def picture_vae():
    return tiny.image_vae()


def pictures(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(count))


def encode(pack, vae, images: Tensor, **inputs) -> Tensor:
    return pack.run("BIVDiffEncodeFrames", vae=vae, images=images, **inputs)[0]["samples"]


def core_encode(pack, vae, images: Tensor) -> Tensor:
    return pack.run("VAEEncode", vae=vae, pixels=images)[0]["samples"]


def test_a_clip_is_encoded_together(pack, wan_vae):
    images = pictures(17)
    for stride, latents in ((1, 5), (2, 3), (4, 2)):
        clip = encode(pack, wan_vae, images, stride=stride)
        assert clip.shape == (1, 16, latents, 4, 4)
        assert torch.equal(clip, core_encode(pack, wan_vae, images[::stride]))


@pytest.mark.floats
def test_single_frames_are_encoded_one_by_one(pack, wan_vae):
    """As many as the clip has latents, and the first one is the clip's: Wan packs 1, 4, 4, ... frames."""
    images = pictures(9)
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
def test_a_vae_of_pictures_knows_no_clips(pack, picture_vae, mode):
    images = pictures(7)
    frames = encode(pack, picture_vae, images, stride=2, mode=mode)
    assert frames.shape == (4, 4, 4, 4)
    torch.testing.assert_close(frames, core_encode(pack, picture_vae, images[::2]))


def refused(pack, vae, images: Tensor, *parts: str, **inputs) -> None:
    """With a message that holds `parts`, before the VAE has seen a frame."""
    seen = []
    hook = vae.first_stage_model.encoder.register_forward_hook(lambda *args: seen.append(args))
    with pytest.raises(ValueError, match="^Encode Frames: ") as refusal:
        encode(pack, vae, images, **inputs)
    hook.remove()
    for part in parts:
        assert part in str(refusal.value)
    assert seen == []


@pytest.mark.parametrize(
    ("count", "stride", "fit"), [(7, 1, "5 or 9"), (27, 4, "5 or 9"), (10, 1, "9 or 13"), (2, 1, "1 or 5")]
)
def test_frames_that_would_be_lost(pack, wan_vae, count, stride, fit):
    refused(pack, wan_vae, pictures(count), f"holds {fit} frames but not", "Select Frames", stride=stride)
    frames = encode(pack, wan_vae, pictures(count), stride=stride, mode="single_frames")
    assert len(frames) == len(range(0, count, stride))


@pytest.mark.parametrize("mode", ["clip", "single_frames"])
def test_edges_that_would_be_cut_off(pack, wan_vae, picture_vae, mode):
    for vae in (wan_vae, picture_vae):
        refused(pack, vae, pictures(1, 36, 40), "40x36", "multiples of 8", "40x32", mode=mode)
        refused(pack, vae, pictures(1, 32, 33), "33x32", mode=mode)

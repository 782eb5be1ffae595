"""Compare Videos: the data for its widget in the browser."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor


def compare(pack, before, after, fps=8.0) -> dict:
    return pack.classes["BIVDiffCompareVideos"].execute(before=before, after=after, fps=fps).ui


def test_frames_changes_and_frame_rate_are_passed_on(pack):
    import folder_paths

    still = torch.full((4, 16, 24, 3), 0.4)
    jumping = still + torch.tensor([0.0, 0.2, 0.2, 0.0]).view(4, 1, 1, 1)
    shown = compare(pack, jumping, torch.zeros(4, 8, 8, 3), fps=12.5)
    assert shown["fps"] == [12.5]
    ((before, after),) = shown["changes"]
    assert before == pytest.approx([51, 0, 51], abs=1e-3)
    assert after == [0, 0, 0]
    for clip, frames in (("before", jumping), ("after", torch.zeros(4, 8, 8, 3))):
        assert [file["type"] for file in shown[clip]] == ["temp"] * 4
        files = [f"{folder_paths.get_temp_directory()}/{file['filename']}" for file in shown[clip]]
        saved = torch.stack([to_tensor(Image.open(file)).movedim(0, -1) for file in files])
        assert (saved - frames).abs().max() <= 1 / 255


def test_changes_of_half_precision_frames_are_measured_in_full_precision(pack):
    """Images are in half precision with --fp16-intermediates."""
    frames = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0)).half()
    shown = compare(pack, frames, frames)
    assert shown["changes"][0][0] == pytest.approx((frames.double().diff(dim=0).abs().mean((1, 2, 3)) * 255).tolist())


def test_single_images_have_no_changes(pack):
    assert compare(pack, torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 3))["changes"] == [[[], []]]


def test_different_frame_counts_are_rejected(pack):
    with pytest.raises(ValueError, match="before has 5 frames and after has 4.*Select Frames"):
        compare(pack, torch.zeros(5, 8, 8, 3), torch.zeros(4, 8, 8, 3))

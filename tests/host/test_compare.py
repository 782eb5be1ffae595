"""Compare Videos: the file and the data for its widget in the browser."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

RATE = 44100


def compare(pack, before, after, fps=8.0, audio=None) -> dict:
    return pack.classes["BIVDiffCompareVideos"].execute(before=before, after=after, fps=fps, audio=audio).ui


def find_file(shown: dict) -> Path:
    """The one file of a result, which must be a temporary one."""
    import folder_paths

    (file,) = shown["compared"]
    assert file["type"] == "temp"
    return Path(folder_paths.get_temp_directory(), file["filename"])


def read_clips(file: Path) -> tuple[Tensor, Tensor]:
    """The frames of both clips of a video, in 0..1."""
    with av.open(str(file)) as container:
        pictures = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
    stacked = torch.from_numpy(np.stack(pictures)).float() / 255
    return stacked.chunk(2, dim=1)


def test_both_clips_are_in_one_video_of_the_frame_rate(pack):
    levels = torch.tensor([0.4, 0.6, 0.6, 0.4]).view(4, 1, 1, 1)
    jumping = levels * torch.tensor([1.0, 0.5, 0.2]).expand(4, 16, 24, 3)
    dark = torch.zeros(4, 32, 48, 3)
    shown = compare(pack, jumping, dark, fps=12.5)
    assert shown["fps"] == [12.5] and shown["sound"] == [False]
    ((before, after),) = shown["changes"]
    assert before == pytest.approx([(1 + 0.5 + 0.2) / 3 * 0.2, 0, (1 + 0.5 + 0.2) / 3 * 0.2], abs=1e-5)
    assert after == [0, 0, 0]
    file = find_file(shown)
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 12.5 and not container.streams.audio
        assert container.streams.video[0].codec_context.name == "vp9"
    top, bottom = read_clips(file)
    assert top.shape == bottom.shape == dark.shape  # the size of the clip on the right
    assert (top - levels * torch.tensor([1.0, 0.5, 0.2])).abs().max() < 0.02 and bottom.max() < 0.02


@pytest.mark.parametrize(
    ("size", "written"), [((2160, 3840), (1080, 1920)), ((1920, 1080), (1920, 1080)), ((11, 7), (12, 8))]
)
def test_large_clips_are_reduced_to_1080p(pack, size, written):
    clip = torch.full((1, *size, 3), 0.5).expand(2, -1, -1, -1)
    top, _ = read_clips(find_file(compare(pack, clip, clip)))
    assert top.shape[1:3] == written


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_sound_lasts_as_long_as_the_frames(pack, channels):
    wave = torch.sin(torch.arange(3 * RATE) / 20).expand(1, channels, -1)
    audio = {"waveform": wave, "sample_rate": RATE}
    shown = compare(pack, torch.zeros(8, 16, 16, 3), torch.ones(8, 16, 16, 3), fps=4.0, audio=audio)
    assert shown["sound"] == [True]
    with av.open(str(find_file(shown))) as container:
        assert container.streams.audio[0].codec_context.channels == min(channels, 2)
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].codec_context.sample_rate
    wave = np.concatenate(sound, axis=1)
    assert wave.shape[1] / rate == pytest.approx(2, abs=0.05)
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.5**0.5, rel=0.05)


def test_sound_and_pictures_are_interleaved(pack):
    """A browser plays from the beginning of the file on. Sound of 30 seconds would otherwise precede all pictures."""
    audio = {"waveform": torch.zeros(1, 1, 30 * RATE), "sample_rate": RATE}
    with av.open(str(find_file(compare(pack, *torch.zeros(2, 30, 16, 16, 3), fps=1.0, audio=audio)))) as container:
        times = [packet.pts * packet.time_base for packet in container.demux() if packet.pts is not None]
    assert max(earlier - later for earlier, later in pairwise(times)) < 2


def test_changes_of_half_precision_frames_are_measured_in_full_precision(pack):
    """Images are in half precision with --fp16-intermediates."""
    frames = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0)).half()
    shown = compare(pack, frames, frames)
    assert shown["changes"][0][0] == pytest.approx(frames.double().diff(dim=0).abs().mean((1, 2, 3)).tolist())


def test_single_images_are_kept_without_loss(pack):
    before, after = torch.rand(2, 1, 9, 7, 3, generator=torch.Generator().manual_seed(0))
    shown = compare(pack, before, after)
    assert shown["changes"] == [[[], []]]
    file = find_file(shown)
    assert file.suffix == ".png"
    saved = to_tensor(Image.open(file)).movedim(0, -1)
    assert (saved - torch.cat([before[0], after[0]])).abs().max() <= 1 / 255


def test_different_frame_counts_are_rejected(pack):
    with pytest.raises(ValueError, match="before has 5 frames and after has 4.*Select Frames"):
        compare(pack, torch.zeros(5, 8, 8, 3), torch.zeros(4, 8, 8, 3))

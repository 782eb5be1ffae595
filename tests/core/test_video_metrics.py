"""Video metrics compared with independent definitions."""

import numpy as np
import pytest
import torch
from fixtures.sample_videos import averaged, blurred, flickering, moving, textured
from skimage.metrics import structural_similarity
from torch import Tensor

from bivdiff_core.measure import video_metrics
from research import toy_world


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[0]).frames


def test_frame_difference_is_one_minus_vbenchs_temporal_flickering():
    """VBench's loop over 8-bit frames: mean absolute difference of adjacent frames, (255 - mean) / 255."""
    frames = (flickering(moving(2)) * 255).byte().numpy()
    errors = [np.mean(np.abs(a.astype(np.float32) - b)) for a, b in zip(frames[:-1], frames[1:], strict=True)]
    score = 1 - video_metrics.frame_difference(torch.from_numpy(frames).float() / 255).mean().item()
    assert score == pytest.approx((255.0 - np.mean(errors)) / 255.0, abs=1e-6)


def test_similarity_is_ssim():
    a, b = moving(0), flickering(moving(0))
    expected = [
        structural_similarity(
            x, y, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert video_metrics.similarity(a, b).tolist() == pytest.approx(expected, abs=2e-3)
    assert video_metrics.similarity(a, a).tolist() == pytest.approx([1] * len(a))


def test_sharpness_falls_with_blur():
    video = moving(1)
    assert (video_metrics.sharpness(blurred(video)) < 0.8 * video_metrics.sharpness(video)).all()


@pytest.mark.parametrize("speed", [1, 3])
def test_flow_and_motion_of_a_known_shift(speed):
    video = moving(speed)
    flow, reliable = video_metrics.estimate_flow(*video_metrics.select_frame_pairs(video))
    inner = flow[:, 8:-8, 8:-8]
    torch.testing.assert_close(inner, torch.tensor([-float(speed), 0.0]).expand_as(inner), rtol=0, atol=0.3)
    assert (inner - torch.tensor([-float(speed), 0.0])).norm(dim=-1).mean() < 0.06
    assert reliable[:, 8:-8, 8:-8].float().mean() > 0.99
    assert video_metrics.motion(flow, reliable).mean().item() == pytest.approx(speed / 64, rel=0.1)


def test_pixels_that_were_covered_before_are_not_reliable():
    """A square moves right over a still background. The previous frame does not show the pixels that it uncovers."""
    background, square = textured(), textured().flip(0, 1)[:20, :20]
    frames = background.repeat(2, 1, 1, 1)
    for frame, left in zip(frames, (20, 25), strict=True):
        frame[22:42, left : left + 20] = square
    _, (reliable,) = video_metrics.estimate_flow(*video_metrics.select_frame_pairs(frames))
    assert reliable[22:42, 20:25].float().mean() < 0.5
    assert reliable[8:-8, 48:].float().mean() > 0.95


def test_flicker_excludes_motion():
    steady, worse = (video_metrics.measure_video(video) for video in (moving(3), flickering(moving(3))))
    assert steady["change"].min() > 0.05  # it moves
    assert steady["flicker"].max() < 1e-4 < 1e-2 / 2 < worse["flicker"].min()


def test_if_no_pixel_is_reliable_all_pixels_count():
    frames = torch.stack([torch.zeros(8, 8, 3), torch.full((8, 8, 3), 0.5)])
    error = video_metrics.flicker(
        frames[:1], frames[1:], torch.zeros(1, 8, 8, 2), torch.zeros(1, 8, 8, dtype=torch.bool)
    )
    assert error.item() == pytest.approx(0.25)


def test_large_frames_are_downscaled_for_flow():
    small = video_metrics.shrink_for_flow(torch.rand(2, 300, 520, 3))
    assert small.shape == (2, 147, 256, 3) or small.shape == (2, 148, 256, 3)
    assert video_metrics.shrink_for_flow(small) is small


def test_consistency_compares_adjacent_frames():
    embeddings = torch.eye(3)[[0, 0, 1]]
    assert video_metrics.consistency(embeddings).tolist() == [1, 0]


def test_the_table_names_every_metric(clip):
    before = video_metrics.measure_video(flickering(clip))
    after = video_metrics.measure_video(
        clip, flickering(clip), torch.eye(8), source=video_metrics.SourceMotion.from_frames(clip)
    )
    lines = video_metrics.format_metrics(after, before).splitlines()
    assert [line.split(":")[0] for line in lines] == list(video_metrics.METRIC_FORMATS)
    assert " -> " in lines[0] and " -> " not in lines[-1]


@pytest.fixture(scope="module")
def source() -> Tensor:
    return moving(2, 6)


def test_doubling_is_the_share_of_detail_from_the_previous_frame():
    """1 for the mean of two different frames, 1/2 for the mean of three, 0 for a new frame and for the same frame."""
    textures = torch.rand(40, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    previous, current = video_metrics.select_frame_pairs(textures)
    still = torch.zeros(len(current), 64, 64, 2)
    two, three, new = (previous + current) / 2, averaged(textures)[1:], current.flip(1)
    shares = [
        video_metrics.doubling(video, previous, current, still).mean().item() for video in (two, three, new, current)
    ]
    assert shares == pytest.approx([1, 0.5, 0, 0], abs=0.03)


def test_following_is_1_for_the_source_one_half_for_noise_and_0_for_a_still_video(source):
    clip = video_metrics.SourceMotion.from_frames(source)
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(4))
    videos = source, noise, source[:1].expand_as(source)
    follows, unrelated, still = (
        video_metrics.motion_following(*video_metrics.select_frame_pairs(video), clip).mean().item() for video in videos
    )
    assert follows > 0.8 and unrelated == pytest.approx(0.5, abs=0.15) and still == 0


def test_flow_of_a_long_clip_is_estimated_for_some_pairs_only():
    video = textured(16).expand(100, -1, -1, -1)
    found = video_metrics.measure_video(video)
    assert len(found["change"]) == 99 and len(found["flicker"]) == video_metrics.MAX_FLOW_PAIRS == len(found["motion"])
    first, last = video_metrics.select_frame_pairs(torch.arange(100.0)[:, None, None, None].expand(-1, 4, 4, 3))
    assert first[0, 0, 0, 0] == 0 and last[-1, 0, 0, 0] == 99 and torch.equal(last, first + 1)

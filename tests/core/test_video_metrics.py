"""Video metrics compared with independent definitions, and verdicts that still or blurred videos do not pass."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bivdiff_core.measure import video_metrics
from research import toy_world


def textured(size: int = 64, seed: int = 0) -> Tensor:
    """A periodic image `[H, W, 3]` with detail everywhere."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))
    keep = torch.fft.fftfreq(size).abs() < 0.08
    soft = torch.fft.ifft2(torch.fft.fft2(noise) * keep[:, None] * keep).real
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    return soft.movedim(0, -1)


def moving(speed: int, frames: int = 4) -> Tensor:
    """A texture that moves right by `speed` pixels per frame."""
    return torch.stack([textured().roll(speed * t, 1) for t in range(frames)])


def flickering(video: Tensor) -> Tensor:
    """The video with a random tint that varies over frames and positions."""
    tint = torch.randn(len(video), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    tint = torch.nn.functional.interpolate(tint, size=video.shape[1:3], mode="bicubic").movedim(1, -1)
    return (video + 0.1 * tint).clamp(0, 1)


def blurred(video: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(video.movedim(-1, 1), 5, 1, 2, count_include_pad=False).movedim(1, -1)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[0]).frames


@pytest.fixture(scope="module")
def before(clip) -> dict[str, Tensor]:
    return video_metrics.measure_video(flickering(clip))


def verdict_on(after: Tensor, before: dict[str, Tensor]) -> video_metrics.Verdict:
    return video_metrics.judge_video(video_metrics.measure_video(after), before)


def test_change_is_one_minus_vbenchs_temporal_flickering():
    """VBench's loop over 8-bit frames: mean absolute difference of adjacent frames, (255 - mean) / 255."""
    frames = (flickering(moving(2)) * 255).byte().numpy()
    errors = [np.mean(np.abs(a.astype(np.float32) - b)) for a, b in zip(frames[:-1], frames[1:], strict=True)]
    score = 1 - video_metrics.change(torch.from_numpy(frames).float() / 255).mean().item()
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


def test_less_flicker_with_motion_and_sharpness_kept_is_a_gain(clip, before):
    verdict = verdict_on(clip, before)
    assert verdict.good and not verdict.cautions and verdict.headline.startswith("Steadier")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda clip: clip[:1].expand_as(clip), "stands still"),
        (blurred, "is blurred"),
        (lambda clip: clip.mean(dim=0, keepdim=True).expand_as(clip), "stands still and is blurred"),
    ],
    ids=["frozen", "blurred", "averaged"],
)
def test_a_still_or_blurred_video_is_no_gain(clip, before, damage, message):
    damaged = damage(clip)
    assert video_metrics.change(damaged).mean() < before["change"].mean()
    verdict = verdict_on(damaged, before)
    assert verdict.good is False and verdict.headline.startswith("No clear gain") and verdict.headline.endswith(message)
    assert len(verdict.cautions) == message.count("s ")


def test_the_same_video_is_no_gain(clip, before):
    verdict = verdict_on(flickering(clip), before)
    assert verdict.good is False and verdict.headline == "Not steadier"


def test_one_video_alone_gets_no_verdict(clip):
    assert video_metrics.judge_video(video_metrics.measure_video(clip), None).good is None
    still = video_metrics.judge_video(video_metrics.measure_video(clip[:1].expand(3, -1, -1, -1)), None)
    assert still.good is None and still.headline == "Almost nothing moves"


def test_the_table_names_every_metric(clip, before):
    after = video_metrics.measure_video(
        clip, flickering(clip), torch.eye(8), source=video_metrics.SourceMotion.of(clip)
    )
    lines = video_metrics.format_metrics(after, before).splitlines()
    assert [line.split(":")[0] for line in lines] == list(video_metrics.METRIC_FORMATS)
    assert " -> " in lines[0] and " -> " not in lines[-1]


def independent_frames(video: Tensor) -> Tensor:
    """Another random texture in every frame, blended with a fifth of the video."""
    textures = torch.rand(video.shape, generator=torch.Generator().manual_seed(2))
    textures = torch.nn.functional.avg_pool2d(textures.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    return 0.8 * textures + 0.2 * video


@pytest.fixture(scope="module")
def source() -> Tensor:
    return moving(2, 6)


@pytest.fixture(scope="module")
def unsmoothed(source) -> Tensor:
    return independent_frames(source)


def verdict_with(source: Tensor, unsmoothed: Tensor, video: Tensor) -> video_metrics.Verdict:
    clip = video_metrics.SourceMotion.of(source)
    return video_metrics.judge_video(
        video_metrics.measure_video(video, unsmoothed, source=clip),
        video_metrics.measure_video(unsmoothed, source=clip),
        clip,
    )


def averaged(video: Tensor) -> Tensor:
    """The mean of each frame and its two adjacent frames."""
    padded = torch.cat((video[:1], video, video[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def new_texture(video: Tensor) -> Tensor:
    """Another texture that moves like the source."""
    return torch.stack([textured().flip(0).roll(2 * t, 1) for t in range(len(video))])


@pytest.fixture(scope="module")
def unrelated_frames() -> dict[str, Tensor]:
    """Metrics of a video whose frames have nothing in common."""
    return video_metrics.measure_video(
        torch.stack([toy_world.generate_clip(seed).frames[0] for seed in toy_world.HELD_OUT_SEEDS[:8]])
    )


def test_unrelated_frames_before_give_no_verdict(clip, unrelated_frames):
    """Their flow is noise. A video that moves like its source would seem to have lost most of the motion."""
    motion = video_metrics.measure_video(clip)["motion"].mean()
    assert motion < video_metrics.MIN_MOTION_RATIO * unrelated_frames["motion"].mean()
    verdict = verdict_on(clip, unrelated_frames)
    assert verdict.good is None and verdict.headline.startswith("No verdict") and not verdict.cautions


def test_a_still_video_is_detected_without_its_source(clip, unrelated_frames):
    verdict = verdict_on(clip[:1].expand_as(clip), unrelated_frames)
    assert verdict.good is False and "stands still" in verdict.headline


def test_a_new_texture_that_follows_the_source_is_a_gain(source, unsmoothed):
    verdict = verdict_with(source, unsmoothed, new_texture(source))
    assert verdict.good and not verdict.cautions and verdict.headline.startswith("Steadier")
    assert verdict.notes[0].startswith("Sharpness is ") and "of the source" in verdict.notes[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda unsmoothed: new_texture(unsmoothed)[:1].expand_as(unsmoothed), "stands still"),
        (averaged, "double exposure"),
        (lambda unsmoothed: blurred(blurred(new_texture(unsmoothed))), "is blurred"),
    ],
    ids=["frozen", "averaged", "blurred"],
)
def test_with_the_source_the_verdict_names_the_loss(source, unsmoothed, damage, message):
    verdict = verdict_with(source, unsmoothed, damage(unsmoothed))
    assert verdict.good is False and message in verdict.headline


def test_the_unsmoothed_frames_are_not_steadier_than_themselves(source, unsmoothed):
    verdict = verdict_with(source, unsmoothed, unsmoothed)
    assert verdict.headline == "Not steadier"


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
    clip = video_metrics.SourceMotion.of(source)
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(4))
    videos = source, noise, source[:1].expand_as(source)
    follows, unrelated, still = (
        video_metrics.motion_following(*video_metrics.select_frame_pairs(video), clip).mean().item() for video in videos
    )
    assert follows > 0.8 and unrelated == pytest.approx(0.5, abs=0.15) and still == 0


def test_consistent_frames_without_their_flicker_are_no_double_exposure(clip):
    """The true clip is the ideal result for its tinted frames, and it is no average."""
    verdict = verdict_with(clip, flickering(clip), clip)
    assert verdict.good and not verdict.cautions


def test_with_a_still_source_a_still_video_is_no_loss():
    shot = moving(0, 5)
    verdict = verdict_with(shot, flickering(shot), shot)
    assert verdict.good and verdict.notes[0].startswith("The source stands still")


def test_flow_of_a_long_clip_is_estimated_for_some_pairs_only():
    video = textured(16).expand(100, -1, -1, -1)
    found = video_metrics.measure_video(video)
    assert len(found["change"]) == 99 and len(found["flicker"]) == video_metrics.MAX_FLOW_PAIRS == len(found["motion"])
    assert "at 64 of 99 pairs" in video_metrics.judge_video(found, found).notes[0]
    first, last = video_metrics.select_frame_pairs(torch.arange(100.0)[:, None, None, None].expand(-1, 4, 4, 3))
    assert first[0, 0, 0, 0] == 0 and last[-1, 0, 0, 0] == 99 and torch.equal(last, first + 1)


def test_a_source_of_another_size_is_resized():
    like = torch.rand(3, 48, 64, 3)
    source = video_metrics.validate_source(torch.rand(3, 97, 128, 3), like)
    assert source.shape == like.shape


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.rand(4, 48, 64, 3), "source_images has 4 frames but the video 3"),
        (torch.rand(3, 64, 64, 3), "another shape"),
        (torch.rand(1, 48, 64, 3), "expected a video of at least 2 frames, got 1"),
    ],
)
def test_sources_that_do_not_match_the_video_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        video_metrics.validate_source(source, torch.rand(3, 48, 64, 3))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(1, 8, 8, 3), "expected a video of at least 2 frames, got 1"),
        (torch.rand(2, 1, 8, 3), "frames of 8x1 are too small to show motion"),
        (torch.rand(3, 8, 8, 3), "2 frames of 8x8 but another 3 frames of 8x8"),
        (torch.rand(2, 8, 16, 3), "2 frames of 8x8 but another 2 frames of 16x8"),
    ],
)
def test_videos_that_cannot_be_compared_are_refused(video, message):
    with pytest.raises(ValueError, match=message):
        video_metrics.validate_video(video, like=torch.rand(2, 8, 8, 3))


def test_alpha_is_left_out():
    assert video_metrics.validate_video(torch.rand(2, 8, 8, 4)).shape == (2, 8, 8, 3)

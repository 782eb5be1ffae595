"""A video's figures against independent definitions, and verdicts that neither stillness nor blur can win."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from bivdiff_core.measure import video_metrics
from research import toy_world


def textured(size: int = 64, seed: int = 0) -> Tensor:
    """A picture `[H, W, 3]` with detail everywhere, that repeats at its borders."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))
    keep = torch.fft.fftfreq(size).abs() < 0.08
    soft = torch.fft.ifft2(torch.fft.fft2(noise) * keep[:, None] * keep).real
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    return soft.movedim(0, -1)


def moving(speed: int, frames: int = 4) -> Tensor:
    """A texture that moves right by whole pixels a frame."""
    return torch.stack([textured().roll(speed * t, 1) for t in range(frames)])


def flickering(video: Tensor) -> Tensor:
    """The same with another tint in every frame and place."""
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


def test_change_is_the_rest_of_vbenchs_temporal_flickering():
    """Its loop over 8-bit frames: mean absolute difference of neighbours, (255 - mean) / 255."""
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
    """A square moves right over a still background: nothing in the frame before shows what it uncovers."""
    background, square = textured(), textured().flip(0, 1)[:20, :20]
    frames = background.repeat(2, 1, 1, 1)
    for frame, left in zip(frames, (20, 25), strict=True):
        frame[22:42, left : left + 20] = square
    _, (reliable,) = video_metrics.estimate_flow(*video_metrics.select_frame_pairs(frames))
    assert reliable[22:42, 20:25].float().mean() < 0.5
    assert reliable[8:-8, 48:].float().mean() > 0.95


def test_flicker_sees_flicker_and_not_motion():
    steady, worse = (video_metrics.measure_video(video) for video in (moving(3), flickering(moving(3))))
    assert steady["change"].min() > 0.05  # it moves
    assert steady["flicker"].max() < 1e-4 < 1e-2 / 2 < worse["flicker"].min()


def test_where_no_motion_is_reliable_all_pixels_count():
    frames = torch.stack([torch.zeros(8, 8, 3), torch.full((8, 8, 3), 0.5)])
    error = video_metrics.flicker(
        frames[:1], frames[1:], torch.zeros(1, 8, 8, 2), torch.zeros(1, 8, 8, dtype=torch.bool)
    )
    assert error.item() == pytest.approx(0.25)


def test_large_frames_are_reduced_for_motion_alone():
    small = video_metrics.shrink_for_flow(torch.rand(2, 300, 520, 3))
    assert small.shape == (2, 147, 256, 3) or small.shape == (2, 148, 256, 3)
    assert video_metrics.shrink_for_flow(small) is small


def test_consistency_is_of_consecutive_frames():
    embeddings = torch.eye(3)[[0, 0, 1]]
    assert video_metrics.consistency(embeddings).tolist() == [1, 0]


def test_less_flicker_with_motion_and_sharpness_kept_is_a_gain(clip, before):
    verdict = verdict_on(clip, before)
    assert verdict.good and not verdict.cautions and verdict.headline.startswith("Steadier")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda clip: clip[:1].expand_as(clip), "stands still"),
        (blurred, "is blurred"),
        (lambda clip: clip.mean(dim=0, keepdim=True).expand_as(clip), "stands still and is blurred"),
    ],
    ids=["frozen", "blurred", "averaged"],
)
def test_a_still_or_blurred_video_does_not_win(clip, before, spoil, said):
    spoiled = spoil(clip)
    assert video_metrics.change(spoiled).mean() < before["change"].mean()
    verdict = verdict_on(spoiled, before)
    assert verdict.good is False and verdict.headline.startswith("No clear gain") and verdict.headline.endswith(said)
    assert len(verdict.cautions) == said.count("s ")


def test_the_same_video_is_no_gain(clip, before):
    verdict = verdict_on(flickering(clip), before)
    assert verdict.good is False and verdict.headline == "Not steadier"


def test_one_video_alone_gets_no_verdict(clip):
    assert video_metrics.judge_video(video_metrics.measure_video(clip), None).good is None
    still = video_metrics.judge_video(video_metrics.measure_video(clip[:1].expand(3, -1, -1, -1)), None)
    assert still.good is None and still.headline == "Almost nothing moves"


def test_the_table_names_every_figure(clip, before):
    after = video_metrics.measure_video(
        clip, flickering(clip), torch.eye(8), source=video_metrics.SourceMotion.of(clip)
    )
    lines = video_metrics.format_metrics(after, before).splitlines()
    assert [line.split(":")[0] for line in lines] == list(video_metrics.METRIC_FORMATS)
    assert " -> " in lines[0] and " -> " not in lines[-1]


def drawn_apart(video: Tensor) -> Tensor:
    """Another drawing in every frame, with a trace of a video in it."""
    drawings = torch.rand(video.shape, generator=torch.Generator().manual_seed(2))
    drawings = torch.nn.functional.avg_pool2d(drawings.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    return 0.8 * drawings + 0.2 * video


@pytest.fixture(scope="module")
def source() -> Tensor:
    return moving(2, 6)


@pytest.fixture(scope="module")
def drawn(source) -> Tensor:
    return drawn_apart(source)


def verdict_with(source: Tensor, drawn: Tensor, video: Tensor) -> video_metrics.Verdict:
    clip = video_metrics.SourceMotion.of(source)
    return video_metrics.judge_video(
        video_metrics.measure_video(video, drawn, source=clip), video_metrics.measure_video(drawn, source=clip), clip
    )


def averaged(video: Tensor) -> Tensor:
    """Every frame with its neighbours."""
    padded = torch.cat((video[:1], video, video[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def another(video: Tensor) -> Tensor:
    """A new drawing that moves as the video does."""
    return torch.stack([textured().flip(0).roll(2 * t, 1) for t in range(len(video))])


@pytest.fixture(scope="module")
def apart() -> dict[str, Tensor]:
    """Figures of a video whose frames show nothing in common."""
    return video_metrics.measure_video(
        torch.stack([toy_world.generate_clip(seed).frames[0] for seed in toy_world.HELD_OUT_SEEDS[:8]])
    )


def test_frames_drawn_apart_have_no_motion_to_be_held_against(clip, apart):
    """Flow between them is noise, and a video that moves as its source did would seem to have lost most of it."""
    assert video_metrics.measure_video(clip)["motion"].mean() < video_metrics.MIN_MOTION_RATIO * apart["motion"].mean()
    verdict = verdict_on(clip, apart)
    assert verdict.good is None and verdict.headline.startswith("No verdict") and not verdict.cautions


def test_a_video_that_stands_still_is_known_to_without_its_source(clip, apart):
    verdict = verdict_on(clip[:1].expand_as(clip), apart)
    assert verdict.good is False and "stands still" in verdict.headline


def test_along_the_sources_motion_a_steady_drawing_is_a_gain(source, drawn):
    verdict = verdict_with(source, drawn, another(source))
    assert verdict.good and not verdict.cautions and verdict.headline.startswith("Steadier")
    assert verdict.notes[0].startswith("Sharpness is ") and "of the source" in verdict.notes[0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda drawn: another(drawn)[:1].expand_as(drawn), "stands still"),
        (averaged, "double exposure"),
        (lambda drawn: blurred(blurred(another(drawn))), "is blurred"),
    ],
    ids=["frozen", "averaged", "blurred"],
)
def test_the_source_shows_what_steadiness_was_bought_with(source, drawn, spoil, said):
    verdict = verdict_with(source, drawn, spoil(drawn))
    assert verdict.good is False and said in verdict.headline


def test_the_frames_before_are_not_steadier_than_themselves(source, drawn):
    verdict = verdict_with(source, drawn, drawn)
    assert verdict.headline == "Not steadier"


def test_doubling_is_what_the_frame_before_alone_accounts_for():
    """All that is left of the mean of two unlike drawings, half of what is left of three, nothing of a new one."""
    drawings = torch.rand(40, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    before, now = video_metrics.select_frame_pairs(drawings)
    still = torch.zeros(len(now), 64, 64, 2)
    two, three, new = (before + now) / 2, averaged(drawings)[1:], now.flip(1)
    shares = [video_metrics.doubling(video, before, now, still).mean().item() for video in (two, three, new, now)]
    assert shares == pytest.approx([1, 0.5, 0, 0], abs=0.03)


def test_following_is_one_for_the_source_a_half_for_noise_and_none_for_a_still(source):
    clip = video_metrics.SourceMotion.of(source)
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(4))
    videos = source, noise, source[:1].expand_as(source)
    goes, other, still = (
        video_metrics.motion_following(*video_metrics.select_frame_pairs(video), clip).mean().item() for video in videos
    )
    assert goes > 0.8 and other == pytest.approx(0.5, abs=0.15) and still == 0


def test_frames_that_agree_are_no_double_exposure_when_they_lose_their_flicker(clip):
    """The true clip out of tinted frames is what an average would like to be, and none."""
    verdict = verdict_with(clip, flickering(clip), clip)
    assert verdict.good and not verdict.cautions


def test_a_still_source_is_no_ground_to_call_a_video_still():
    shot = moving(0, 5)
    verdict = verdict_with(shot, flickering(shot), shot)
    assert verdict.good and verdict.notes[0].startswith("The source stands still")


def test_a_long_clip_is_measured_at_some_of_its_pairs():
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
    ("source", "said"),
    [
        (torch.rand(4, 48, 64, 3), "source_images has 4 frames but the video 3"),
        (torch.rand(3, 64, 64, 3), "another shape"),
        (torch.rand(1, 48, 64, 3), "expected a video of at least 2 frames, got 1"),
    ],
)
def test_sources_that_drove_another_video_are_refused(source, said):
    with pytest.raises(ValueError, match=said):
        video_metrics.validate_source(source, torch.rand(3, 48, 64, 3))


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (torch.rand(1, 8, 8, 3), "expected a video of at least 2 frames, got 1"),
        (torch.rand(2, 1, 8, 3), "frames of 8x1 are too small to show motion"),
        (torch.rand(3, 8, 8, 3), "2 frames of 8x8 but another 3 frames of 8x8"),
        (torch.rand(2, 8, 16, 3), "2 frames of 8x8 but another 2 frames of 16x8"),
    ],
)
def test_videos_that_cannot_be_compared_are_refused(video, said):
    with pytest.raises(ValueError, match=said):
        video_metrics.validate_video(video, like=torch.rand(2, 8, 8, 3))


def test_alpha_is_left_out():
    assert video_metrics.validate_video(torch.rand(2, 8, 8, 4)).shape == (2, 8, 8, 3)

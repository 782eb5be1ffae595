"""Video metrics compared with independent definitions."""

import numpy as np
import pytest
import torch
from fixtures.sample_videos import averaged, blurred, flickering, moving, textured
from skimage.metrics import structural_similarity
from torch import Tensor

from bivdiff_core.measure import video_metrics
from bivdiff_core.measure.optical_flow import Computation, shrink_for_flow
from bivdiff_core.measure.video_metrics import MeasuredClip, measure_video
from research import toy_world


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[0]).frames


def measure(video: Tensor) -> dict[str, Tensor]:
    """The metrics of a video without a reference."""
    return measure_video(MeasuredClip.from_frames(video))


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
    found = MeasuredClip.from_frames(video)
    flow, reliable = found.flow, found.reliable
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
    (reliable,) = MeasuredClip.from_frames(frames).reliable
    assert reliable[22:42, 20:25].float().mean() < 0.5
    assert reliable[8:-8, 48:].float().mean() > 0.95


def test_flicker_excludes_motion():
    steady, worse = (measure(video) for video in (moving(3), flickering(moving(3))))
    assert steady["change"].min() > 0.05  # it moves
    assert steady["flicker"].max() < 1e-4 < 1e-2 / 2 < worse["flicker"].min()


def test_if_no_pixel_is_reliable_all_pixels_count():
    frames = torch.stack([torch.zeros(8, 8, 3), torch.full((8, 8, 3), 0.5)])
    error = video_metrics.flicker(
        frames[:1], frames[1:], torch.zeros(1, 8, 8, 2), torch.zeros(1, 8, 8, dtype=torch.bool)
    )
    assert error.item() == pytest.approx(0.25)


def test_large_frames_are_downscaled_for_flow():
    small = shrink_for_flow(torch.rand(2, 300, 520, 3))
    assert small.shape == (2, 147, 256, 3) or small.shape == (2, 148, 256, 3)
    assert shrink_for_flow(small) is small


def test_consistency_compares_adjacent_frames():
    embeddings = torch.eye(3)[[0, 0, 1]]
    assert video_metrics.consistency(embeddings).tolist() == [1, 0]


def test_the_table_names_every_metric(clip):
    before, source = MeasuredClip.from_frames(flickering(clip)), MeasuredClip.from_frames(clip)
    after, before = measure_video(source, before, torch.eye(8), source), measure_video(before)
    lines = video_metrics.format_metrics(after, before).splitlines()
    assert [line.split(":")[0] for line in lines] == list(video_metrics.METRIC_FORMATS)
    assert " -> " in lines[0] and " -> " not in lines[-1]


@pytest.fixture(scope="module")
def source() -> Tensor:
    return moving(2, 6)


def test_doubling_is_the_share_of_detail_from_the_previous_frame():
    """1 for the mean of two different frames, 1/2 for the mean of three, 0 for a new frame and for the same frame."""
    textures = torch.rand(40, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    previous, current = textures[:-1], textures[1:]
    still = torch.zeros(len(current), 64, 64, 2)
    two, three, new = (previous + current) / 2, averaged(textures)[1:], current.flip(1)
    shares = [
        video_metrics.doubling(video, previous, current, still).mean().item() for video in (two, three, new, current)
    ]
    assert shares == pytest.approx([1, 0.5, 0, 0], abs=0.03)


def test_following_is_1_for_the_source_one_half_for_noise_and_0_for_a_still_video(source):
    clip = MeasuredClip.from_frames(source)
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(4))
    videos = source, noise, source[:1].expand_as(source)
    follows, unrelated, still = (
        video_metrics.motion_following(video[:-1], video[1:], clip).mean().item() for video in videos
    )
    assert follows > 0.8 and unrelated == pytest.approx(0.5, abs=0.15) and still == 0


def test_flow_of_a_long_clip_is_estimated_for_some_pairs_only():
    clip = MeasuredClip.from_frames(torch.linspace(0, 1, 100)[:, None, None, None].expand(-1, 16, 16, 3))
    assert len(clip.change) == 99 and len(clip.flow) == video_metrics.MAX_FLOW_PAIRS == len(clip.pairs)
    assert clip.pairs[0] == 0 and clip.pairs[-1] == 98
    for frames, first in ((clip.previous, clip.pairs), (clip.current, clip.pairs + 1)):
        assert torch.equal(frames, clip.frames[first])


def test_batches_do_not_change_the_measurements(clip, monkeypatch):
    """Also of a source of another size, which is measured at the video's."""
    source = shrink(clip, 32)
    together = measure_with_source(clip, source)
    monkeypatch.setattr(video_metrics, "PIXELS_PER_BATCH", 3 * 64 * 64)
    in_batches = measure_with_source(clip, source)
    assert together.keys() == in_batches.keys() == video_metrics.METRIC_FORMATS.keys() - {"consistency"}
    for name, values in together.items():
        torch.testing.assert_close(in_batches[name], values, rtol=1e-5, atol=1e-6)


def shrink(video: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(video.movedim(-1, 1), size=size, mode="area").movedim(1, -1)


def measure_with_source(video: Tensor, source: Tensor, computation: Computation = video_metrics.ON_CPU) -> dict:
    size = video.shape[1:3]
    clips = [MeasuredClip.from_frames(each, computation, size) for each in (video, flickering(video), source)]
    assert clips[2].flow.shape == clips[0].flow.shape
    return measure_video(clips[0], clips[1], source=clips[2], computation=computation)


def test_each_clip_is_measured_once_and_every_step_is_reported(clip):
    pairs, steps = [], []

    def estimate(reference: Tensor, moving: Tensor) -> Tensor:
        pairs.extend(reference)
        return torch.zeros(*reference.shape[:3], 2)

    measure_with_source(clip, clip, Computation(estimate_flow=estimate, on_step=steps.append))
    assert len(pairs) == 3 * 2 * (len(clip) - 1)  # three clips, both ways
    assert sum(steps) == 3 * video_metrics.count_steps(len(clip)) + len(clip)


def test_other_formats_are_measured_in_float32(clip):
    exact, half = (measure(video)["flicker"] for video in (clip, clip.half()))
    torch.testing.assert_close(half, exact, rtol=0.05, atol=1e-5)


def colour_shift_to_clip(clip: Tensor, offsets: Tensor) -> Tensor:
    """The shift of the clip's colours if each frame's red is raised by an offset."""
    changed = clip.clone()
    changed[..., 0] += offsets[:, None, None]
    return video_metrics.colour_shift(*map(video_metrics.colour_statistics, (changed, clip)))


def test_another_colour_is_no_shift_and_a_drift_grows(clip):
    drift = torch.linspace(0.2, 0.3, len(clip))
    assert colour_shift_to_clip(clip, torch.full((len(clip),), 0.2)).abs().max() < 1e-5
    shift = colour_shift_to_clip(clip, drift)
    torch.testing.assert_close(shift, (drift[1:] - drift[0]) / 3**0.5)
    drifted = (drift[-1] - drift[1]).item() / 3**0.5
    assert video_metrics.colour_drift(shift) == pytest.approx(drifted, rel=1e-5)  # single precision


def test_colours_are_compared_with_the_source_or_else_with_the_reference(clip):
    video, reference, source = map(MeasuredClip.from_frames, (clip, flickering(clip), clip.flip(2)))
    assert measure_video(video, reference, source=source)["colour"].abs().max() < 1e-5
    shift = video_metrics.colour_shift(video.colour, reference.colour)
    assert torch.equal(measure_video(video, reference)["colour"], shift) and shift.min() > 1e-3
    assert "colour" not in measure_video(video)


def test_the_spread_of_colours_counts(clip):
    washed_out = clip.clone()
    washed_out[4:] = (clip[4:] + clip[4:].mean(dim=(1, 2), keepdim=True)) / 2
    shift = video_metrics.colour_shift(*map(video_metrics.colour_statistics, (washed_out, clip)))
    expected = clip[4:].std(dim=(1, 2), correction=0).square().mean(dim=1).sqrt() / 2
    assert shift[:3].abs().max() < 1e-6
    torch.testing.assert_close(shift[3:], expected)


def test_flickering_colours_do_not_drift():
    """A rise by chance happens in few of many videos."""
    generator = torch.Generator().manual_seed(6)
    shifts = (0.05 * torch.randn(200, 16, generator=generator)).abs()
    assert sum(video_metrics.colour_drift(shift) > 0 for shift in shifts) <= 4
    assert video_metrics.colour_drift(torch.tensor([0.1, 0.2, 0.3])) == 0  # too short to tell


def test_a_reconstruction_without_error_costs_nothing_and_noise_flickers():
    """The difference of two frames of independent noise has twice its variance."""
    video = moving(0)
    clip = MeasuredClip.from_frames(video)
    exact = video_metrics.measure_reconstruction(clip, video[:3])
    assert (exact.similarity, exact.sharpness, exact.flicker) == pytest.approx((1, 1, 0), abs=1e-5)
    noise = 0.01 * torch.randn(video[:3].shape, generator=torch.Generator().manual_seed(7))
    noisy = video_metrics.measure_reconstruction(clip, video[:3] + noise)
    assert noisy.flicker == pytest.approx(2e-4, rel=0.1) and noisy.sharpness > 1 and noisy.similarity < 0.99

"""Averages along motion, on a texture that moves at a known speed."""

import gc

import pytest
import torch
from torch import Tensor

from bivdiff_core.measure import optical_flow, video_metrics
from bivdiff_core.measure.optical_flow import Computation

FRAMES, SPEED = 6, 2


def textured(size: int = 96) -> Tensor:
    """A soft random texture `[size, size, 3]` with a fixed seed."""
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    soft = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)[0].movedim(0, -1)
    return (0.5 + 0.5 * soft / soft.abs().max()).clamp(0, 1)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """A texture that moves left."""
    whole = textured()
    return torch.stack([whole[:64, SPEED * i : SPEED * i + 64] for i in range(FRAMES)])


@pytest.fixture(scope="module")
def noisy(clip) -> Tensor:
    return clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(4))


def error(frames: Tensor, clip: Tensor) -> float:
    """Root mean square error, without the border, whose pixels come from outside."""
    return (frames - clip)[:, 16:-16, 16:-16].square().mean().sqrt().item()


@pytest.mark.parametrize(("reach", "count"), [(1, 3), (2, 5)])
def test_independent_noise_falls_with_the_square_root_of_the_frame_count(clip, noisy, reach, count):
    averaged, share = optical_flow.average_along_flow(noisy, clip, reach)
    middle = slice(reach, FRAMES - reach)
    assert share[middle, 16:-16, 16:-16].mean() > 0.95
    # Warping by fractions of a pixel interpolates, which also averages noise.
    assert 0.6 < error(averaged[middle], clip[middle]) / (0.1 * count**-0.5) < 1.1


def test_warped_frames_match_the_frame(clip):
    averaged, _ = optical_flow.average_along_flow(clip, clip, FRAMES - 1)
    assert error(averaged, clip) < 0.01 < error((clip[2:] + clip[:-2]) / 2, clip[1:-1])
    assert (video_metrics.sharpness(averaged) > 0.95 * video_metrics.sharpness(clip)).all()


def test_reach_is_limited_to_the_clip(clip, noisy):
    for whole, clamped in zip(
        optical_flow.average_along_flow(noisy, clip, FRAMES - 1),
        optical_flow.average_along_flow(noisy, clip, 16),
        strict=True,
    ):
        assert torch.equal(whole, clamped)


def test_pixels_without_a_match_stay_unchanged():
    """A square jumps over a still background. The pixels that it covers and uncovers have no match."""
    frames = textured(64).repeat(2, 1, 1, 1)
    square = torch.rand(14, 14, 3, generator=torch.Generator().manual_seed(5))
    frames[0, 20:34, 10:24] = square
    frames[1, 20:34, 40:54] = square
    averaged, share = optical_flow.average_along_flow(frames, frames, 1)
    unmatched = share == 0
    assert unmatched.any() and torch.equal(averaged[unmatched], frames[unmatched])
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert share[:, 44:].mean() > 0.95


def test_flow_is_estimated_at_a_bounded_size_and_once_per_pair(clip, noisy, monkeypatch):
    monkeypatch.setattr(optical_flow, "MAX_FLOW_SIDE", 64)
    large = torch.nn.functional.interpolate(clip.movedim(-1, 1), scale_factor=2, mode="bilinear").movedim(1, -1)
    pairs, steps = [], []

    def estimate(reference: Tensor, moving: Tensor) -> Tensor:
        pairs.extend(reference)
        assert max(reference.shape[1:3]) == 64
        return optical_flow.estimate_tv_l1_of_luma(reference, moving)

    computation = Computation(estimate_flow=estimate, on_step=steps.append)
    averaged, share = optical_flow.average_along_flow(large, large, 2, computation)
    assert averaged.shape == large.shape and share.shape == large.shape[:3]
    assert len(pairs) == 2 * (FRAMES - 1)  # both ways
    assert sum(steps) == FRAMES - 1 + FRAMES
    assert (averaged - large)[:, 32:-32, 32:-32].square().mean().sqrt() < 0.02


def test_a_longer_clip_keeps_no_more_flows_in_memory():
    assert max_flows_in_memory(24) == max_flows_in_memory(8) > 0


def max_flows_in_memory(frames: int) -> int:
    """The largest number of additional live tensors with the shape of a flow."""
    clip = textured(32).expand(frames, -1, -1, -1)
    counts = []

    def count(_: int) -> None:
        counts.append(sum(type(each) is Tensor and each.shape == (1, 32, 32, 3) for each in gc.get_objects()))

    count(0)
    optical_flow.average_along_flow(clip, clip, 2, Computation(on_step=count))
    return max(counts) - counts[0]

"""Averages along motion, on a texture that moves by a known step."""

import gc

import pytest
import torch
from torch import Tensor

from bivdiff_core.measure import optical_flow, video_metrics

FRAMES, SPEED = 6, 2


def textured(size: int = 96) -> Tensor:
    """A soft texture `[size, size, 3]`, drawn once."""
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
    """Root mean square error where nothing comes from beyond the border."""
    return (frames - clip)[:, 16:-16, 16:-16].square().mean().sqrt().item()


@pytest.mark.parametrize(("reach", "count"), [(1, 3), (2, 5)])
def test_independent_noise_falls_as_the_square_root_of_the_count(clip, noisy, reach, count):
    averaged, share = optical_flow.average_along_flow(noisy, clip, reach)
    middle = slice(reach, FRAMES - reach)
    assert share[middle, 16:-16, 16:-16].mean() > 0.95
    # Frames carried to half pixels are interpolated, which averages noise as well.
    assert 0.6 < error(averaged[middle], clip[middle]) / (0.1 * count**-0.5) < 1.1


def test_a_frame_is_where_its_neighbours_are_carried_to(clip):
    averaged, _ = optical_flow.average_along_flow(clip, clip, FRAMES - 1)
    assert error(averaged, clip) < 0.01 < error((clip[2:] + clip[:-2]) / 2, clip[1:-1])
    assert (video_metrics.sharpness(averaged) > 0.95 * video_metrics.sharpness(clip)).all()


def test_reach_ends_with_the_clip(clip, noisy):
    for whole, clamped in zip(
        optical_flow.average_along_flow(noisy, clip, FRAMES - 1),
        optical_flow.average_along_flow(noisy, clip, 16),
        strict=True,
    ):
        assert torch.equal(whole, clamped)


def test_what_no_neighbour_shows_stays_as_it_is():
    """A square jumps over a still background: what it covers and uncovers has no match."""
    frames = textured(64).repeat(2, 1, 1, 1)
    square = torch.rand(14, 14, 3, generator=torch.Generator().manual_seed(5))
    frames[0, 20:34, 10:24] = square
    frames[1, 20:34, 40:54] = square
    averaged, share = optical_flow.average_along_flow(frames, frames, 1)
    alone = share == 0
    assert alone.any() and torch.equal(averaged[alone], frames[alone])
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert share[:, 44:].mean() > 0.95


def test_motion_is_measured_at_a_bounded_size_and_once_a_pair(clip, noisy, monkeypatch):
    monkeypatch.setattr(optical_flow, "MAX_FLOW_SIDE", 64)
    large = torch.nn.functional.interpolate(clip.movedim(-1, 1), scale_factor=2, mode="bilinear").movedim(1, -1)
    pairs = []
    averaged, share = optical_flow.average_along_flow(large, large, 2, lambda: pairs.append(1))
    assert averaged.shape == large.shape and share.shape == large.shape[:3]
    assert len(pairs) == FRAMES - 1
    assert (averaged - large)[:, 32:-32, 32:-32].square().mean().sqrt() < 0.02


def test_no_more_flows_are_held_for_a_longer_clip():
    assert most_flows_held(24) == most_flows_held(8) > 0


def most_flows_held(frames: int) -> int:
    """How many tensors of a flow's shape are alive at most, beside those that were before."""
    clip = textured(32).expand(frames, -1, -1, -1)
    counts = []

    def count() -> None:
        counts.append(sum(type(each) is Tensor and each.shape == (1, 32, 32, 3) for each in gc.get_objects()))

    count()
    optical_flow.average_along_flow(clip, clip, 2, count)
    return max(counts) - counts[0]

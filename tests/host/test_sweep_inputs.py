"""Sweeps without a server: parsing of ratios and choices, and the comparison of videos."""

import pytest
import torch

from bivdiff_core.measure.video_metrics import MeasuredClip


@pytest.fixture(scope="module")
def sweep_nodes(pack):
    return pack.import_module("nodes.sweep")


@pytest.mark.parametrize("text", ["0, .25 1", "0,0.25,1", " 0\n0.25;1".replace(";", " "), "0 25e-2 1,"])
def test_parse_ratios(sweep_nodes, text):
    assert sweep_nodes.parse_ratios(text) == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0, half", "got 'half'"),
        ("1.5", "1.5 must lie"),
        (" , ", "no ratios"),
        ("nan", "nan must lie"),
    ],
)
def test_an_invalid_ratio_is_refused(sweep_nodes, text, message):
    with pytest.raises(ValueError, match=message):
        sweep_nodes.parse_ratios(text)


def test_choices_keep_their_order(sweep_nodes):
    assert sweep_nodes.parse_choices(" b,a\n c,", {"a": 1, "b": 2, "c": 3}) == ["b", "a", "c"]


@pytest.mark.parametrize(("text", "message"), [("a, d", "'d' is not one of a, b"), (" , ", "no choices.* a, b")])
def test_an_invalid_choice_is_refused(sweep_nodes, text, message):
    with pytest.raises(ValueError, match=message):
        sweep_nodes.parse_choices(text, ("a", "b"))


def random_images(count: int, seed: int) -> torch.Tensor:
    """Soft random images `[count, 64, 64, 3]`."""
    pattern = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(pattern, size=(64, 64), mode="bicubic").movedim(1, -1).clamp(0, 1)


def test_a_still_video_is_not_on_the_pareto_front(sweep_nodes):
    image = random_images(1, seed=0)[0]
    moving = torch.stack([image.roll(2 * t, 1) for t in range(4)])
    still = moving[:1].expand_as(moving)
    similarity, flicker, pareto_indices, is_degraded = sweep_nodes.compare_videos([moving, still], moving)
    assert flicker[1] < flicker[0] and is_degraded == [False, True] and pareto_indices == [0]
    assert similarity[0] > similarity[1]


def test_with_the_source_a_video_with_another_motion_is_degraded(sweep_nodes):
    """Without it nothing is, because the frames of the reference share no motion."""
    image = random_images(1, seed=0)[0]
    moving, other_motion = (torch.stack([image.roll(speed * t, 1) for t in range(4)]) for speed in (2, -1))
    independent = random_images(4, seed=1)
    assert sweep_nodes.compare_videos([independent, moving, other_motion], independent)[3] == [False, False, False]
    _, flicker, pareto_indices, is_degraded = sweep_nodes.compare_videos(
        [independent, moving, other_motion], independent, source=MeasuredClip.from_frames(moving)
    )
    assert is_degraded[2] and 2 not in pareto_indices and flicker[1] < 0.2 * flicker[0]

"""The things of the toy world keep what the clips rely on: exact outlines, colours that can be told, and their size."""

import pytest
import torch

from research import toy_things, toy_world

STEP = 0.02
AXIS = torch.arange(-1.3, 1.3, STEP)
POINTS = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="xy"), dim=-1)


@pytest.mark.parametrize("kind", toy_things.THINGS)
def test_the_outline_is_a_distance(kind):
    """Edges are anti-aliased by the distance, so it must grow by 1 for each unit near the outline."""
    distance = toy_things.look_up(kind, POINTS).distance
    slope = torch.stack(torch.gradient(distance, spacing=STEP)).norm(dim=0)
    near = distance.abs() < 0.04
    assert near.sum() > 200
    assert (slope[near] - 1).abs().mean() < 0.05


@pytest.mark.parametrize("kind", toy_things.THINGS)
def test_a_thing_is_inside_its_radius_and_fills_enough_of_it(kind):
    inside = toy_things.look_up(kind, POINTS).distance < 0
    assert POINTS.norm(dim=-1)[inside].max() < 1.15
    assert 1.0 < inside.sum() * STEP**2 < 2.4


@pytest.mark.parametrize("kind", toy_things.THINGS)
def test_parts_and_light_keep_the_colour(kind):
    surface = toy_things.look_up(kind, POINTS)
    inside = surface.distance < 0
    palette = torch.tensor(list(toy_world.PALETTE.values()))
    for index, colour in enumerate(palette):
        shaded = toy_things.shade(colour.expand(*POINTS.shape[:-1], 3), surface)[inside]
        assert shaded.min() >= 0 and shaded.max() <= 1
        assert (palette - shaded.mean(dim=0)).norm(dim=-1).argmin() == index


def test_all_things_differ():
    """As outlines alone: no two overlap by more than four fifths."""
    masks = [toy_things.look_up(kind, POINTS).distance < 0 for kind in toy_things.THINGS]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert (mask & other).sum() < 0.8 * (mask | other).sum()

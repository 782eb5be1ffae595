"""The things of the toy world: eight pictures that are recognisable at 64 pixels.

A thing is an outline, parts that are lighter or darker than the rest, and a soft light from above left. Everything is a
function of the point on the thing, so it moves rigidly with it. Points are in units of the thing's radius, x to the
right and y down; things with a front face right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

EXTENT, SAMPLES = 1.35, 257
"""A thing is looked up in a map from -EXTENT to EXTENT in both directions, with this many samples."""
BEVEL, LIGHT_BLUR = 0.5, 13
"""Width of the slope at the outline, in radii, and samples over which the light is blurred."""
LIGHT_DIRECTION = (-0.45, -0.65, 0.62)
DARKEST_PART, LIGHTEST_PART = 0.66, 0.45
"""A part of tone -1 has this share of the colour; one of tone 1 goes this share of the way to white."""
SHADOW, HIGHLIGHT = 0.26, 0.3
"""How much the light changes a colour. With more of either, Canny loses parts of the outline."""

Part: TypeAlias = tuple[Tensor, float]
"""Signed distance ``[...]`` of a part, and its tone from -1 (dark) to 1 (light)."""


class Drawing(NamedTuple):
    """A thing at points ``[..., 2]``: signed distance ``[...]`` of its outline, and its parts from back to front."""

    outline: Tensor
    parts: list[Part]


class Surface(NamedTuple):
    """What a thing is like at points: signed distance of the outline, tone of the parts, and light, all ``[...]``."""

    distance: Tensor
    tone: Tensor
    light: Tensor


def look_up(kind: str, points: Tensor) -> Surface:
    """A thing at points ``[H, W, 2]`` or any other ``[..., ..., 2]``; points outside its map are background."""
    values = F.grid_sample(_map(kind)[None], points[None] / EXTENT, align_corners=True, padding_mode="border")
    return Surface(*values[0])


def shade(colour: Tensor, surface: Surface) -> Tensor:
    """The colour ``[..., 3]``, 0..1, of a thing's parts in the light."""
    tone, light = surface.tone[..., None], surface.light[..., None]
    lighter = LIGHTEST_PART * (1 - colour) * tone.clamp(min=0)
    darker = (1 - DARKEST_PART) * colour * tone.clamp(max=0)
    colour = colour + lighter + darker
    return (colour + SHADOW * colour * light.clamp(max=0) + HIGHLIGHT * (1 - colour) * light.clamp(min=0)).clamp(0, 1)


@cache
def _map(kind: str) -> Tensor:
    """Distance, tone and light of a thing, ``[3, SAMPLES, SAMPLES]``."""
    step = 2 * EXTENT / (SAMPLES - 1)
    axis = torch.linspace(-EXTENT, EXTENT, SAMPLES)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    outline, parts = THINGS[kind](torch.stack((x, y), dim=-1))
    tone = torch.zeros_like(outline)
    for distance, value in parts:
        cover = (0.5 - distance / (2.5 * step)).clamp(0, 1)
        tone = torch.lerp(tone, torch.full_like(tone, value), cover)

    depth = (-outline / BEVEL).clamp(0, 1)
    height = 0.5 * (1 - (1 - depth) ** 2).clamp(min=1e-4).sqrt()
    height = F.avg_pool2d(height[None], LIGHT_BLUR, stride=1, padding=LIGHT_BLUR // 2)[0]
    slope_y, slope_x = torch.gradient(height, spacing=step)
    normal = F.normalize(torch.stack((-slope_x, -slope_y, torch.ones_like(height)), dim=-1), dim=-1)
    direction = F.normalize(torch.tensor(LIGHT_DIRECTION), dim=0)
    return torch.stack((outline, tone, normal @ direction - direction[2]))


def _balloon(p: Tensor) -> Drawing:
    envelope = _join(_circle(p, 0, -0.3, 0.68), _polygon(p, (-0.5, 0.05), (0.5, 0.05), (0.2, 0.5), (-0.2, 0.5)), 0.25)
    ropes = _polygon(p, (-0.2, 0.5), (0.2, 0.5), (0.15, 0.7), (-0.15, 0.7))
    basket = _box(p, 0, 0.8, 0.2, 0.17, 0.05)
    middle, sides = _ellipse(p, 0, -0.2, 0.24, 0.8), _ellipse(p, 0, -0.2, 0.6, 0.85)
    sides = torch.maximum(sides, -_ellipse(p, 0, -0.2, 0.47, 0.82))
    parts = [(torch.maximum(middle, envelope), 0.55), (torch.maximum(sides, envelope), 0.3)]
    return Drawing(_join(_join(envelope, ropes), basket), [*parts, (torch.minimum(basket, ropes), -0.5)])


def _fish(p: Tensor) -> Drawing:
    body = _ellipse(p, 0.14, 0, 0.72, 0.46)
    tail = _polygon(p, (-0.42, 0), (-0.92, -0.44), (-0.78, 0), (-0.92, 0.44), rounding=0.06)
    fins = torch.minimum(_ellipse(p, 0.05, -0.42, 0.34, 0.2, -0.2), _ellipse(p, 0.1, 0.42, 0.2, 0.14, 0.5))
    behind = torch.maximum(torch.minimum(tail, fins), -body)
    gill = torch.maximum(_circle(p, 0.75, 0.02, 0.42).abs() - 0.035, body)
    eye, pupil = _circle(p, 0.55, -0.1, 0.13), _circle(p, 0.58, -0.1, 0.065)
    return Drawing(
        _join(_join(body, tail, 0.1), fins, 0.1), [(behind, -0.35), (gill, -0.35), (eye, 1.0), (pupil, -1.0)]
    )


def _sailboat(p: Tensor) -> Drawing:
    hull = _polygon(p, (-0.82, 0.5), (0.86, 0.5), (0.56, 0.86), (-0.56, 0.86), rounding=0.05)
    sail = _polygon(p, (0.02, -0.92), (0.02, 0.52), (-0.66, 0.44), rounding=0.05)
    jib = _polygon(p, (0.04, -0.66), (0.04, 0.52), (0.6, 0.44), rounding=0.05)
    mast = _line(p, (0.02, -0.95), (0.02, 0.5), 0.05)
    outline = _join(_join(_join(hull, sail), jib), mast)
    return Drawing(outline, [(sail, 0.5), (jib, 0.25), (hull, -0.3), (mast, -0.3)])


def _bird(p: Tensor) -> Drawing:
    body, head = _ellipse(p, -0.02, 0.12, 0.62, 0.44, -0.15), _circle(p, 0.48, -0.32, 0.32)
    beak = _polygon(p, (0.72, -0.42), (0.98, -0.26), (0.72, -0.18), rounding=0.03)
    tail = _polygon(p, (-0.45, 0.05), (-0.95, -0.18), (-0.98, 0.14), (-0.5, 0.35), rounding=0.04)
    outline = _join(_join(_join(body, head, 0.12), beak, 0.12), tail, 0.12)
    wing, belly = _ellipse(p, -0.16, 0.1, 0.4, 0.24, 0.25), _ellipse(p, 0.1, 0.36, 0.36, 0.16, -0.2)
    eye = _circle(p, 0.56, -0.38, 0.085)
    return Drawing(outline, [(wing, -0.4), (belly, 0.35), (torch.maximum(beak, -head), -0.3), (eye, -1.0)])


def _mug(p: Tensor) -> Drawing:
    cup = _box(p, -0.14, 0.08, 0.58, 0.66, 0.16)
    handle = torch.maximum(_circle(p, 0.5, 0.08, 0.31).abs() - 0.11, 0.3 - p[..., 0])
    band = torch.maximum((p[..., 1] - 0.2).abs() - 0.1, cup)
    drink = _ellipse(p, -0.14, -0.44, 0.46, 0.11)
    return Drawing(_join(cup, handle), [(drink, -0.8), (torch.maximum(handle, -cup), -0.25), (band, 0.45)])


def _heart(p: Tensor) -> Drawing:
    half = torch.stack((p[..., 0].abs(), p[..., 1]), dim=-1)
    tip = _polygon(p, (-0.72, -0.1), (0.72, -0.1), (0, 0.78), rounding=0.1)
    return Drawing(
        _join(_circle(half, 0.4, -0.28, 0.46), tip, 0.18), [(_ellipse(p, -0.4, -0.36, 0.2, 0.11, -0.7), 0.8)]
    )


def _mushroom(p: Tensor) -> Drawing:
    cap = torch.maximum(_ellipse(p, 0, 0.06, 0.94, 0.95), p[..., 1] - 0.12) - 0.04
    stem = _join(_box(p, 0, 0.46, 0.26, 0.42, 0.14), _ellipse(p, 0, 0.76, 0.36, 0.16), 0.1)
    spots = torch.stack(
        [
            _ellipse(p, -0.42, -0.22, 0.17, 0.15),
            _ellipse(p, 0.12, -0.5, 0.2, 0.16),
            _ellipse(p, 0.5, -0.12, 0.15, 0.15),
            _ellipse(p, -0.02, -0.04, 0.12, 0.1),
        ]
    ).amin(dim=0)
    rim = torch.maximum(0.06 - p[..., 1], cap)
    parts = [(torch.maximum(stem, -cap), 0.3), (torch.maximum(spots, cap), 0.8), (rim, -0.3)]
    return Drawing(_join(cap, stem), parts)


def _cat(p: Tensor) -> Drawing:
    half = torch.stack((p[..., 0].abs(), p[..., 1]), dim=-1)
    ear = _polygon(half, (0.2, -0.42), (0.66, -0.86), (0.72, -0.1), rounding=0.05)
    inner_ear = _polygon(half, (0.36, -0.42), (0.6, -0.66), (0.63, -0.3))
    eye, pupil = _ellipse(half, 0.3, 0, 0.12, 0.15), _ellipse(half, 0.29, 0.01, 0.055, 0.11)
    nose = _polygon(p, (-0.08, 0.22), (0.08, 0.22), (0, 0.32), rounding=0.02)
    whiskers = torch.minimum(_line(half, (0.24, 0.34), (0.6, 0.26), 0.02), _line(half, (0.24, 0.4), (0.6, 0.44), 0.02))
    parts = [(inner_ear, 0.5), (eye, 1.0), (pupil, -1.0), (nose, -0.7), (whiskers, -0.5)]
    return Drawing(_join(_ellipse(p, 0, 0.1, 0.76, 0.66), ear), parts)


THINGS: dict[str, Callable[[Tensor], Drawing]] = {
    "balloon": _balloon,
    "fish": _fish,
    "sailboat": _sailboat,
    "bird": _bird,
    "mug": _mug,
    "heart": _heart,
    "mushroom": _mushroom,
    "cat": _cat,
}


# Signed distances of simple forms at points ``[..., 2]`` (inigoquilez.com/articles/distfunctions2d).


def _circle(p: Tensor, x: float, y: float, radius: float) -> Tensor:
    return (p - torch.tensor((x, y))).norm(dim=-1) - radius


def _ellipse(p: Tensor, x: float, y: float, width: float, height: float, angle: float = 0.0) -> Tensor:
    """Exact at the outline only. width, height: half axes; angle: in radians, clockwise."""
    dx, dy = (p - torch.tensor((x, y))).unbind(dim=-1)
    cos, sin = math.cos(angle), math.sin(angle)
    scaled = torch.stack(((cos * dx + sin * dy) / width, (cos * dy - sin * dx) / height), dim=-1)
    size = scaled.norm(dim=-1)
    slope = (scaled / torch.tensor((width, height))).norm(dim=-1).clamp(min=1e-6)
    return size * (size - 1) / slope


def _box(p: Tensor, x: float, y: float, width: float, height: float, rounding: float) -> Tensor:
    """width, height: half the sides."""
    offset = (p - torch.tensor((x, y))).abs() - torch.tensor((width, height)) + rounding
    return offset.clamp(min=0).norm(dim=-1) + offset.amax(dim=-1).clamp(max=0) - rounding


def _line(p: Tensor, start: tuple[float, float], end: tuple[float, float], radius: float) -> Tensor:
    origin, along = torch.tensor(start), torch.tensor(end) - torch.tensor(start)
    share = ((p - origin) @ along / (along @ along)).clamp(0, 1)
    return (p - origin - share[..., None] * along).norm(dim=-1) - radius


def _polygon(p: Tensor, *corners: tuple[float, float], rounding: float = 0.0) -> Tensor:
    """The polygon, enlarged by ``rounding`` with round corners."""
    start = torch.tensor(corners)
    end = start.roll(-1, dims=0)
    edge, offset = end - start, p[..., None, :] - start
    along = ((offset * edge).sum(dim=-1) / (edge * edge).sum(dim=-1)).clamp(0, 1)
    distance = (offset - along[..., None] * edge).norm(dim=-1).amin(dim=-1)
    y = p[..., 1, None]
    side = offset[..., 0] * edge[:, 1] - offset[..., 1] * edge[:, 0]
    rises, falls = (start[:, 1] <= y) & (y < end[:, 1]), (end[:, 1] <= y) & (y < start[:, 1])
    is_inside = ((rises & (side < 0)) | (falls & (side > 0))).sum(dim=-1) % 2 == 1
    return torch.where(is_inside, -distance, distance) - rounding


def _join(a: Tensor, b: Tensor, radius: float = 0.05) -> Tensor:
    """The union of two forms, with a fillet of this radius where they meet."""
    overlap = (radius - (a - b).abs()).clamp(min=0)
    return torch.minimum(a, b) - overlap**2 / (4 * radius)

"""The toy world: captioned clips of textured shapes that move over a drifting background, with known motion.

Every clip is a pure function of its seed. A shape moves rigidly, texture included, at constant speed and spin. The
camera pans with the first-named shape, so the background drifts in the other direction at ``DRIFT`` pixels a frame. A
single frame does not show that direction: only a model of whole clips can learn it.
Shapes and background have colours from different halves of the palette, light and dark. Textures vary more in hue than
in lightness, so that Canny finds outlines and not textures.
Hard clips are clips of the same seed with crisp patches instead of soft stripes. Their caption says "patchy", but
neither caption nor outlines determine the hue and place of the patches, so that independently generated frames disagree
as they do on real footage. Their shapes are smaller and deform.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from bivdiff_core.measure import optical_flow

SIZE = 64
FRAMES = 8
DRIFT = 2.0
TRAIN_SEEDS = range(0, 1_000_000)
HELD_OUT_SEEDS = range(1_000_000, 2_000_000)
CLIP_KINDS = ("easy", "hard")
CANNY_LOW, CANNY_HIGH = 0.3, 0.6
PACKAGED_CLIP_SEED = 1_000_000

HARD_SPEED = 0.6
"""Speed of the shapes relative to the easy clip; the background drifts at ``HARD_DRIFT`` pixels a frame."""
HARD_DRIFT = 0.25
HARD_SCALE = 0.95
PATCH_WAVES, PATCH_WAVELENGTH, PATCH_EDGE = 8, 14.0, 1.5
PATCH_TINT, PATCH_SHADE = (0.15, 0.40), 0.06
"""Difference of the patches from the colour: in hue (on shapes, on the background), and in lightness (up or down)."""
HARD_STRETCH, STRETCH_RATE_RANGE = 0.08, (0.3, 0.6)

DARK = {
    "red": (0.78, 0.12, 0.14),
    "blue": (0.14, 0.22, 0.80),
    "green": (0.10, 0.46, 0.16),
    "purple": (0.46, 0.14, 0.58),
}
LIGHT = {
    "yellow": (0.90, 0.80, 0.18),
    "cyan": (0.24, 0.80, 0.86),
    "pink": (0.90, 0.62, 0.76),
    "orange": (0.90, 0.58, 0.20),
    "white": (0.86, 0.86, 0.86),
}
PALETTE = DARK | LIGHT
LUMA = torch.tensor(optical_flow.LUMA_WEIGHTS)

STAR_INNER_RADIUS = 0.52
ROUNDING = 0.16
RADII = {"circle": 14.0, "square": 17.5, "triangle": 19.5, "star": 19.5, "cross": 18.0}
SHAPES = tuple(RADII)


@dataclass(frozen=True)
class Motion:
    """Motion of one shape: at time t its centre is ``centre + t * velocity``, its angle ``angle + t * spin``.

    A shape that deforms is scaled by exp(stretch * sin(stretch_rate * t)) along its x axis and by the inverse along
    its y axis. Pixels (x right, y down, pixel centres at whole numbers) and radians.
    """

    centre: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    stretch: float = 0.0
    stretch_rate: float = 0.0

    def centre_at(self, t: float) -> tuple[float, float]:
        """Centre (x, y) at time ``t``."""
        return self.centre[0] + t * self.velocity[0], self.centre[1] + t * self.velocity[1]

    def _rotation_and_stretch(self, t: float) -> tuple[float, float, float]:
        """Cosine and sine of the angle, and the scale of the x axis, at time ``t``."""
        angle = self.angle + t * self.spin
        return math.cos(angle), math.sin(angle), math.exp(self.stretch * math.sin(self.stretch_rate * t))

    def to_shape(self, points: torch.Tensor, t: float) -> torch.Tensor:
        """Picture points ``[..., 2]`` in the coordinates of the undeformed shape."""
        (x, y), (cos, sin, scale) = self.centre_at(t), self._rotation_and_stretch(t)
        dx, dy = points[..., 0] - x, points[..., 1] - y
        return torch.stack(((cos * dx + sin * dy) / scale, (cos * dy - sin * dx) * scale), dim=-1)

    def to_picture(self, points: torch.Tensor, t: float) -> torch.Tensor:
        """Points ``[..., 2]`` in shape coordinates to picture coordinates: the inverse of `to_shape`."""
        (x, y), (cos, sin, scale) = self.centre_at(t), self._rotation_and_stretch(t)
        dx, dy = points[..., 0] * scale, points[..., 1] / scale
        return torch.stack((x + cos * dx - sin * dy, y + sin * dx + cos * dy), dim=-1)

    def advance(self, points: torch.Tensor, start: float, end: float) -> torch.Tensor:
        """Positions at time ``end`` of points ``[..., 2]`` that are fixed to the shape, given at time ``start``."""
        return self.to_picture(self.to_shape(points, start), end)


@dataclass(frozen=True)
class Surface:
    """A colour with a texture, ``colour + tint * level``: soft stripes, ``level = sin(wave . p + phase)``, or patches.

    waves: (x, y, phase) of one sine, or of several. The sum of several makes patches; ``PATCH_EDGE`` sets how crisp.
    """

    name: str
    colour: tuple[float, float, float]
    tint: tuple[float, float, float]
    waves: tuple[tuple[float, float, float], ...]

    def paint(self, points: torch.Tensor) -> torch.Tensor:
        """Colours ``[..., 3]`` in 0..1 at surface points ``[..., 2]``."""
        sines = [torch.sin(points[..., 0] * x + points[..., 1] * y + phase) for x, y, phase in self.waves]
        level = torch.stack(sines).sum(dim=0)
        if len(self.waves) > 1:
            level = torch.tanh(PATCH_EDGE * level)
        return (torch.tensor(self.colour) + torch.tensor(self.tint) * level[..., None]).clamp(0, 1)


@dataclass(frozen=True)
class Shape:
    """A moving shape: kind, outer radius in pixels, surface (in shape coordinates) and motion."""

    kind: str
    radius: float
    surface: Surface
    motion: Motion


@dataclass(frozen=True)
class ToyClip:
    """A clip of the toy world, with its ground truth; its frames are rendered when they are first used.

    caption: the content; may omit colours. shapes: front to back, in the order of the caption.
    drift: background motion in pixels per unit of time, (x, y). times: time of each frame; adjacent frames differ by 1.
    """

    seed: int
    caption: str
    shapes: tuple[Shape, ...]
    background: Surface
    drift: tuple[float, float]
    times: tuple[int, ...]

    @cached_property
    def _rendered(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _render(self)

    @property
    def frames(self) -> torch.Tensor:
        """The frames, ``[F, H, W, 3]`` in 0..1."""
        return self._rendered[0]

    @property
    def masks(self) -> torch.Tensor:
        """The visible part of each shape, ``[S, F, H, W]`` in 0..1."""
        return self._rendered[1]

    @property
    def ground(self) -> torch.Tensor:
        """The visible part of the background, ``[F, H, W]`` in 0..1."""
        return 1 - self.masks.sum(dim=0)

    @property
    def full_caption(self) -> str:
        """A caption with all colours."""
        shapes = tuple((shape.surface.name, shape.kind) for shape in self.shapes)
        return str(Caption(shapes, self.background.name, patchy=parse_caption(self.caption).patchy))


@dataclass(frozen=True)
class Caption:
    """A parsed caption: (colour or None, kind) of each shape, front to back, and the background's colour or None.

    patchy: whether the caption says "patchy".
    """

    shapes: tuple[tuple[str | None, str], ...]
    background: str | None
    patchy: bool = False

    def __str__(self) -> str:
        text = " in front of ".join(_with_article(colour, kind) for colour, kind in self.shapes)
        if self.background:
            text += f" on {_with_article(self.background, 'background')}"
        return f"{text}, patchy" if self.patchy else text


def _with_article(colour: str | None, thing: str) -> str:
    return " ".join(filter(None, ("an" if colour == "orange" else "a", colour, thing)))


def parse_caption(text: str) -> Caption:
    """Parse a caption of the toy world; raises ValueError for any other text."""
    thing = rf"an? (?:({'|'.join(PALETTE)}) )?({'|'.join(SHAPES)})"
    background = rf"an? ({'|'.join(PALETTE)}) background"
    match = re.fullmatch(rf"{thing}(?: in front of {thing})?(?: on {background})?(, patchy)?", text)
    if match is None:
        raise ValueError(f"not a caption of the toy world: {text!r}")
    front_colour, front, back_colour, back, ground, patchy = match.groups()
    shapes = [(front_colour, front), (back_colour, back)]
    return Caption(tuple(shapes if back else shapes[:1]), ground, patchy=patchy is not None)


def pixel_grid(size: int = SIZE) -> torch.Tensor:
    """Pixel centres ``[size, size, 2]`` as (x, y)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack((x, y), dim=-1).float()


def generate_clip(seed: int, frames: int = FRAMES) -> ToyClip:
    """The clip of ``seed``: frames of 64x64, one shape or (one clip in ten) two that cross.

    After ``FRAMES`` frames the motion continues until a shape would leave the picture, then reverses, back and forth.
    """
    rng = np.random.default_rng(seed)
    pair = rng.random() < 0.1
    halves = (DARK, LIGHT) if rng.random() < 0.5 else (LIGHT, DARK)
    ground = str(rng.choice(list(halves[1])))
    colours = [str(name) for name in rng.choice(list(halves[0]), size=2, replace=False)]
    kinds = [str(kind) for kind in rng.choice(SHAPES, size=2)]

    heading = 1.0 if rng.random() < 0.5 else -1.0
    shapes = []
    for i in range(2 if pair else 1):
        radius = RADII[kinds[i]] * rng.uniform(0.9, 1.1) * (0.78 if pair else 1.0)
        direction = heading if i == 0 else -heading
        motion = _random_motion(rng, radius, direction, speed=(1.8, 3.2) if pair else (1.2, 2.4))
        surface = _random_surface(rng, colours[i], tilt=math.pi, wavelength=(13, 18))
        shapes.append(Shape(kinds[i], radius, surface, motion))

    background = _random_surface(rng, ground, tilt=math.pi / 4, wavelength=(15, 22))
    drift = (-heading * DRIFT, 0.0)
    full = Caption(tuple((shape.surface.name, shape.kind) for shape in shapes), ground)
    caption = str(_drop_colours(rng, full))
    return ToyClip(seed, caption, tuple(shapes), background, drift, _frame_times(shapes, frames))


def _frame_times(shapes: list[Shape], frames: int) -> tuple[int, ...]:
    """Frame times 0, 1, 2, ..., back and forth between the first and last time with all shapes in the picture."""
    first, last = 0, FRAMES - 1
    while all(_is_inside(shape, first - 1) for shape in shapes):
        first -= 1
    while all(_is_inside(shape, last + 1) for shape in shapes):
        last += 1
    span = last - first
    return tuple(last - abs((t - first) % (2 * span) - span) for t in range(frames))


def _is_inside(shape: Shape, t: float) -> bool:
    """Whether the whole shape is in the picture at time ``t``, at least a pixel from the border."""
    return all(shape.radius + 1 <= c <= SIZE - 2 - shape.radius for c in shape.motion.centre_at(t))


def _random_motion(rng: np.random.Generator, radius: float, heading: float, speed: tuple[float, float]) -> Motion:
    """A straight path across the middle of the picture that stays inside it."""
    velocity = np.array([heading * rng.uniform(*speed), rng.uniform(-0.8, 0.8)])
    middle = (SIZE - 1) / 2
    margin = np.maximum(middle - radius - 1 - np.abs(velocity) * (FRAMES - 1) / 2, 0)
    halfway = middle + rng.uniform(-1, 1, size=2) * margin
    start = halfway - velocity * (FRAMES - 1) / 2
    spin = rng.choice([-1, 1]) * rng.uniform(0, math.radians(7))
    return Motion(_floats(start), _floats(velocity), float(rng.uniform(-math.pi, math.pi)), spin)


def _random_surface(rng: np.random.Generator, name: str, tilt: float, wavelength: tuple[float, float]) -> Surface:
    """Stripes with a random hue shift; ``tilt`` is the maximum angle of the wave from horizontal."""
    colour = np.clip(np.array(PALETTE[name]) + rng.uniform(-0.05, 0.05, size=3), 0, 1)
    tint = 0.15 * _random_hue(rng) + rng.uniform(-0.035, 0.035)
    # Keep the colour away from 0 and 1: clipping would make flat spots in the stripes.
    colour = np.clip(colour, np.abs(tint), 1 - np.abs(tint))
    angle, length = rng.uniform(-tilt, tilt), rng.uniform(*wavelength)
    wave = 2 * math.pi / length * np.array([math.cos(angle), math.sin(angle)])
    phase = rng.uniform(0, 2 * math.pi)
    return Surface(name, _floats(colour), _floats(tint), (_floats((*wave, phase)),))


def held_out_clip(kind: str, number: int) -> ToyClip:
    """A clip that no model was trained on: an easy clip, or its hard version."""
    clip = generate_clip(HELD_OUT_SEEDS[number])
    return make_hard_clip(clip) if kind == "hard" else clip


def packaged_clip(frames: int = FRAMES) -> ToyClip:
    """The clip that comes with the pack: a hard clip."""
    return make_hard_clip(generate_clip(PACKAGED_CLIP_SEED, frames))


def make_hard_clip(clip: ToyClip) -> ToyClip:
    """The hard version of a clip: the same caption with "patchy"; the camera pans in the same direction, but slowly."""
    rng = np.random.default_rng((clip.seed, 1))
    shapes = []
    for shape in clip.shapes:
        shape = _change_shape_motion(shape, HARD_SPEED)
        motion = replace(shape.motion, stretch=HARD_STRETCH, stretch_rate=float(rng.uniform(*STRETCH_RATE_RANGE)))
        surface = _add_patches(rng, shape.surface, PATCH_TINT[0])
        shapes.append(replace(shape, radius=HARD_SCALE * shape.radius, surface=surface, motion=motion))
    background = _add_patches(rng, clip.background, PATCH_TINT[1])
    drift = (math.copysign(HARD_DRIFT, clip.drift[0]), 0.0)
    caption = str(replace(parse_caption(clip.caption), patchy=True))
    return replace(clip, caption=caption, shapes=tuple(shapes), background=background, drift=drift)


def _add_patches(rng: np.random.Generator, surface: Surface, tint: float) -> Surface:
    """The surface with patches of a random hue shift instead of stripes."""
    shift = tint * _random_hue(rng) + rng.choice([-1, 1]) * PATCH_SHADE
    angles = rng.uniform(0, 2 * math.pi, size=PATCH_WAVES)
    phases = rng.uniform(0, 2 * math.pi, size=PATCH_WAVES)
    waves = np.stack((np.cos(angles), np.sin(angles)), axis=1) * 2 * math.pi / PATCH_WAVELENGTH
    waves = np.concatenate((waves, phases[:, None]), axis=1)
    colour = np.clip(surface.colour, np.abs(shift), 1 - np.abs(shift))
    return replace(surface, colour=_floats(colour), tint=_floats(shift), waves=tuple(map(_floats, waves)))


def _random_hue(rng: np.random.Generator) -> np.ndarray:
    """A random colour shift ``[3]`` of length 1 that does not change lightness."""
    luma = LUMA.numpy()
    hue = rng.normal(size=3)
    hue -= luma * (hue @ luma) / (luma @ luma)
    return hue / np.linalg.norm(hue)


def _floats(values: np.ndarray | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(float, values))


def recolour(clip: ToyClip, seed: int) -> ToyClip:
    """The clip with another colour of its first-named shape or its background; the texture stays.

    Its caption is an instruction: it names the new colour and omits the colours that stay.
    """
    rng = np.random.default_rng(seed)
    things = [shape.surface for shape in clip.shapes] + [clip.background]
    changed = 0 if rng.random() < 0.5 else len(things) - 1
    surface = things[changed]
    half = DARK if surface.name in DARK else LIGHT
    name = str(rng.choice([name for name in half if name not in {thing.name for thing in things}]))
    shade = np.array(surface.colour) - PALETTE[surface.name]
    colour = np.clip(PALETTE[name] + shade, np.abs(surface.tint), 1 - np.abs(surface.tint))
    things[changed] = replace(surface, name=name, colour=_floats(colour))
    shapes = [replace(shape, surface=thing) for shape, thing in zip(clip.shapes, things, strict=False)]
    shape_captions = [(name if i == changed else None, shape.kind) for i, shape in enumerate(shapes)]
    ground = name if changed == len(shapes) else None
    caption = Caption(tuple(shape_captions), ground, patchy=parse_caption(clip.caption).patchy)
    return replace(clip, caption=str(caption), shapes=tuple(shapes), background=things[-1])


def to_grayscale(frames: torch.Tensor) -> torch.Tensor:
    """Frames ``[..., 3]`` in grey, in any value range: the style of the demo LoRA."""
    return (frames * LUMA).sum(dim=-1, keepdim=True).expand_as(frames)


def change_motion(clip: ToyClip, speed: float, spin: float | None = None) -> ToyClip:
    """The clip with shapes and camera ``speed`` times as fast, and shapes that turn by ``spin`` radians a frame.

    In the middle of the clip every shape keeps its place. Without ``spin``, shapes also turn ``speed`` times as fast.
    """
    shapes = tuple(_change_shape_motion(shape, speed, spin) for shape in clip.shapes)
    return replace(clip, shapes=shapes, drift=(speed * clip.drift[0], speed * clip.drift[1]))


def _change_shape_motion(shape: Shape, speed: float, spin: float | None = None) -> Shape:
    """A shape with its motion changed, see `change_motion`."""
    halfway, motion = (FRAMES - 1) / 2, shape.motion
    (x, y), (vx, vy) = motion.centre_at(halfway), (speed * v for v in motion.velocity)
    new_spin = speed * motion.spin if spin is None else math.copysign(spin, motion.spin)
    start, angle = (x - halfway * vx, y - halfway * vy), motion.angle + halfway * motion.spin - halfway * new_spin
    return replace(shape, motion=replace(motion, centre=start, velocity=(vx, vy), angle=angle, spin=new_spin))


def _drop_colours(rng: np.random.Generator, full: Caption) -> Caption:
    """Omit at least one colour in 3 of 10 captions."""
    if rng.random() >= 0.3:
        return full
    keep_shape, keep_ground = [(False, True), (True, False), (False, False)][rng.integers(3)]
    return Caption(
        tuple((colour if keep_shape else None, kind) for colour, kind in full.shapes),
        full.background if keep_ground else None,
    )


def _outline(kind: str) -> torch.Tensor:
    """Corners ``[N, 2]`` of a polygon of outer radius 1."""
    if kind == "cross":
        arm = 0.36
        reach = math.sqrt(1 - arm**2)
        quarter = torch.tensor([[arm, arm], [reach, arm], [reach, -arm]])
        turns = [torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in _angles(4)]
        return torch.cat([quarter @ turn for turn in turns])
    count = {"triangle": 3, "square": 4, "star": 10}[kind]
    radii = torch.tensor([1.0, STAR_INNER_RADIUS if kind == "star" else 1.0]).repeat(count)[:count]
    angles = torch.tensor(_angles(count)) - math.pi / 2
    return radii[:, None] * torch.stack((angles.cos(), angles.sin()), dim=-1)


def _angles(count: int) -> list[float]:
    return [2 * math.pi * i / count for i in range(count)]


def _distance(kind: str, points: torch.Tensor) -> torch.Tensor:
    """Signed distance ``[...]`` of points ``[..., 2]`` to the shape of outer radius 1, negative inside.

    Corners are rounded: Canny's thinning breaks the outline at sharp ones.
    """
    if kind == "circle":
        return points.norm(dim=-1) - 1
    corners = _outline(kind) * (1 - ROUNDING)
    edges = corners.roll(-1, dims=0) - corners
    offset = points[..., None, :] - corners
    along = ((offset * edges).sum(-1) / (edges * edges).sum(-1)).clamp(0, 1)
    distance = (offset - along[..., None] * edges).norm(dim=-1).amin(dim=-1)
    py, y0, y1 = points[..., 1, None], corners[:, 1], corners.roll(-1, dims=0)[:, 1]
    cross = offset[..., 0] * edges[:, 1] - offset[..., 1] * edges[:, 0]
    crossings = ((y0 <= py) & (py < y1) & (cross < 0)) | ((y1 <= py) & (py < y0) & (cross > 0))
    return torch.where(crossings.sum(dim=-1) % 2 == 1, -distance, distance) - ROUNDING


def _render(clip: ToyClip) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames ``[F, H, W, 3]`` and visible masks ``[S, F, H, W]``, edges anti-aliased over one pixel."""
    grid = pixel_grid()
    frames, masks = [], []
    for t in clip.times:
        frame = clip.background.paint(grid - t * torch.tensor(clip.drift))
        visible = torch.ones(SIZE, SIZE)
        layers = []
        for shape in clip.shapes:
            local = shape.motion.to_shape(grid, t)
            cover = (0.5 - shape.radius * _distance(shape.kind, local / shape.radius)).clamp(0, 1)
            layers.append((cover, shape.surface.paint(local), cover * visible))
            visible = visible * (1 - cover)
        for cover, colour, _ in reversed(layers):
            frame = torch.lerp(frame, colour, cover[..., None])
        frames.append(frame)
        masks.append(torch.stack([mask for _, _, mask in layers]))
    return torch.stack(frames), torch.stack(masks, dim=1)


def canny_hints(frames: torch.Tensor) -> torch.Tensor:
    """Edges ``[F, H, W, 3]``, 0 or 1, of frames ``[F, H, W, 3]``: equal to the output of ComfyUI's Canny node."""
    from kornia.filters import canny

    return canny(frames.float().movedim(-1, 1), CANNY_LOW, CANNY_HIGH)[1].repeat(1, 3, 1, 1).movedim(1, -1)

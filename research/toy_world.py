"""The toy world: captioned clips of things that move over a drifting background, with known motion.

Every clip is a pure function of its seed. A thing moves rigidly, markings included, at constant speed and spin, and
faces where it goes. The camera pans with the first-named thing, so the background drifts in the other direction at
``DRIFT`` pixels a frame. A single frame does not show that direction: only a model of whole clips can learn it.
Things and background have colours from different halves of the palette, light and dark. Markings vary more in hue than
in lightness, so that Canny finds outlines and not markings.
Hard clips are clips of the same seed with bold markings. Their caption says "patterned", but neither caption nor
outlines determine the hue and place of the markings, so that independently generated frames disagree as they do on real
footage. Their things are smaller and deform.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from bivdiff_core.measure import optical_flow
from research import toy_things

SIZE = 64
FRAMES = 8
DRIFT = 2.0
TRAIN_SEEDS = range(0, 1_000_000)
HELD_OUT_SEEDS = range(1_000_000, 2_000_000)
CLIP_KINDS = ("easy", "hard")
CANNY_LOW, CANNY_HIGH = 0.3, 0.6
PACKAGED_CLIP_SEED = 1_000_536

HARD_SPEED = 0.5
"""Speed of the things relative to the easy clip; the background drifts at ``HARD_DRIFT`` pixels a frame."""
HARD_DRIFT = 0.25
HARD_SCALE = 0.95
HARD_STRETCH, STRETCH_RATE_RANGE = 0.08, (0.3, 0.6)

DARK = {
    "red": (0.66, 0.15, 0.18),
    "blue": (0.14, 0.30, 0.64),
    "green": (0.10, 0.40, 0.28),
    "purple": (0.40, 0.20, 0.53),
}
LIGHT = {
    "yellow": (0.97, 0.88, 0.42),
    "cyan": (0.56, 0.86, 0.88),
    "pink": (0.97, 0.69, 0.76),
    "orange": (0.97, 0.64, 0.34),
    "white": (0.93, 0.91, 0.88),
}
PALETTE = DARK | LIGHT
LUMA = torch.tensor(optical_flow.LUMA_WEIGHTS)

SCENES = {"sky": (1.8, 16.0), "sea": (3.0, 10.0), "meadow": (1.0, 13.0), "dusk": (4.0, 11.0)}
"""Markings of each background: how much longer they are than high, and their wavelength from top to bottom."""
COLOUR_RANGE = 0.03
"""How far the colour of a clip is from the palette's, at most, in each channel."""
HAZE = 0.15
"""Share of grey in a background's colour."""
MARKING_WAVES, MARKING_WAVELENGTH = 8, 10.0
"""Number of sines whose sum makes markings, and their wavelength on things."""
RED_CYAN, YELLOW_BLUE = np.array((0.878, -0.394, -0.272)), np.array((-0.172, 0.271, -0.947))
"""Two hues of equal lightness, orthogonal, of length 1."""
HARMONIOUS_HUES = {
    "red": (60, 110),
    "blue": (-40, 25),
    "green": (10, 80),
    "purple": (-20, 80),
    "yellow": (-20, 40),
    "cyan": (0, 90),
    "pink": (40, 110),
    "orange": (20, 100),
    "white": (0, 100),
}
"""Tints of the markings on each colour: angles in degrees between `RED_CYAN` and `YELLOW_BLUE`, chosen by eye."""
KINDS = tuple(toy_things.THINGS)
RADIUS, PAIR_SCALE = 19.0, 0.78
REACH = 1.1
"""No part of a thing is further from its centre than this many radii."""
INK, PAPER = (0.10, 0.12, 0.24), (0.96, 0.93, 0.86)
INK_LINES, INK_CONTRAST = 3.0, 7.0
MAX_TILT, MAX_SPIN = 0.25, 0.04
"""Radians, at the start, and per frame."""


@dataclass(frozen=True)
class Markings:
    """How bold the markings of a clip are.

    tints: of things and of the background, in hue. shade: change of lightness, up or down. edge: how crisp they are.
    """

    tints: tuple[float, float]
    shade: float
    edge: float


EASY, HARD = Markings((0.08, 0.22), 0.02, 0.8), Markings((0.14, 0.33), 0.05, 1.2)


@dataclass(frozen=True)
class Motion:
    """Motion of one thing: at time t its centre is ``centre + t * velocity``, its angle ``angle + t * spin``.

    A thing that deforms is scaled by exp(stretch * sin(stretch_rate * t)) along its x axis and by the inverse along
    its y axis. facing: 1, or -1 for its mirror image. Pixels (x right, y down, pixel centres at whole numbers) and
    radians.
    """

    centre: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    facing: float = 1.0
    stretch: float = 0.0
    stretch_rate: float = 0.0

    def centre_at(self, t: float) -> tuple[float, float]:
        """Centre (x, y) at time ``t``."""
        return self.centre[0] + t * self.velocity[0], self.centre[1] + t * self.velocity[1]

    def _rotation_and_stretch(self, t: float) -> tuple[float, float, float]:
        """Cosine and sine of the angle, and the scale of the x axis, at time ``t``."""
        angle = self.angle + t * self.spin
        return math.cos(angle), math.sin(angle), math.exp(self.stretch * math.sin(self.stretch_rate * t))

    def to_thing(self, points: torch.Tensor, t: float) -> torch.Tensor:
        """Picture points ``[..., 2]`` in the coordinates of the undeformed thing, which faces right."""
        (x, y), (cos, sin, scale) = self.centre_at(t), self._rotation_and_stretch(t)
        dx, dy = points[..., 0] - x, points[..., 1] - y
        return torch.stack((self.facing * (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) * scale), dim=-1)

    def to_picture(self, points: torch.Tensor, t: float) -> torch.Tensor:
        """Points ``[..., 2]`` in the thing's coordinates to picture coordinates: the inverse of `to_thing`."""
        (x, y), (cos, sin, scale) = self.centre_at(t), self._rotation_and_stretch(t)
        dx, dy = self.facing * points[..., 0] * scale, points[..., 1] / scale
        return torch.stack((x + cos * dx - sin * dy, y + sin * dx + cos * dy), dim=-1)

    def advance(self, points: torch.Tensor, start: float, end: float) -> torch.Tensor:
        """Positions at time ``end`` of points ``[..., 2]`` that are fixed to the thing, given at time ``start``."""
        return self.to_picture(self.to_thing(points, start), end)


@dataclass(frozen=True)
class Surface:
    """A colour with markings: ``colour + tint * level``, where level is ``tanh(edge * sum of sines)``.

    waves: (x, y, phase) of each sine, ``sin(x * px + y * py + phase)``.
    """

    name: str
    colour: tuple[float, float, float]
    tint: tuple[float, float, float]
    edge: float
    waves: tuple[tuple[float, float, float], ...]

    def paint(self, points: torch.Tensor) -> torch.Tensor:
        """Colours ``[..., 3]`` in 0..1 at surface points ``[..., 2]``."""
        sines = [torch.sin(points[..., 0] * x + points[..., 1] * y + phase) for x, y, phase in self.waves]
        level = torch.tanh(self.edge * torch.stack(sines).sum(dim=0))
        return (torch.tensor(self.colour) + torch.tensor(self.tint) * level[..., None]).clamp(0, 1)


@dataclass(frozen=True)
class Thing:
    """A moving thing: kind, radius in pixels, surface (in the thing's coordinates) and motion."""

    kind: str
    radius: float
    surface: Surface
    motion: Motion


@dataclass(frozen=True)
class ToyClip:
    """A clip of the toy world, with its ground truth; its frames are rendered when they are first used.

    caption: the content; may omit colours. things: front to back, in the order of the caption. scene: what the
    background is. drift: its motion in pixels per unit of time, (x, y). times: time of each frame; adjacent frames
    differ by 1.
    """

    seed: int
    caption: str
    things: tuple[Thing, ...]
    scene: str
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
        """The visible part of each thing, ``[T, F, H, W]`` in 0..1."""
        return self._rendered[1]

    @property
    def ground(self) -> torch.Tensor:
        """The visible part of the background, ``[F, H, W]`` in 0..1."""
        return 1 - self.masks.sum(dim=0)

    @property
    def full_caption(self) -> str:
        """A caption with all colours."""
        things = tuple((thing.surface.name, thing.kind) for thing in self.things)
        return str(Caption(things, self.background.name, self.scene, parse_caption(self.caption).patterned))


@dataclass(frozen=True)
class Caption:
    """A parsed caption: (colour or None, kind) of each thing, front to back, and colour and scene of the background.

    Both are None if the caption does not name the background. patterned: whether the caption says "patterned".
    """

    things: tuple[tuple[str | None, str], ...]
    background: str | None
    scene: str | None
    patterned: bool = False

    def __str__(self) -> str:
        text = " in front of ".join(_with_article(colour, kind) for colour, kind in self.things)
        if self.scene:
            text += f" over {_with_article(self.background, self.scene)}"
        return f"{text}, patterned" if self.patterned else text


def _with_article(colour: str | None, thing: str) -> str:
    return " ".join(filter(None, ("an" if colour == "orange" else "a", colour, thing)))


def parse_caption(text: str) -> Caption:
    """Parse a caption of the toy world; raises ValueError for any other text."""
    thing = rf"an? (?:({'|'.join(PALETTE)}) )?({'|'.join(KINDS)})"
    background = rf"an? ({'|'.join(PALETTE)}) ({'|'.join(SCENES)})"
    match = re.fullmatch(rf"{thing}(?: in front of {thing})?(?: over {background})?(, patterned)?", text)
    if match is None:
        raise ValueError(f"not a caption of the toy world: {text!r}")
    front_colour, front, back_colour, back, ground, scene, patterned = match.groups()
    things = [(front_colour, front), (back_colour, back)]
    return Caption(tuple(things if back else things[:1]), ground, scene, patterned is not None)


def pixel_grid(size: int = SIZE) -> torch.Tensor:
    """Pixel centres ``[size, size, 2]`` as (x, y)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack((x, y), dim=-1).float()


def generate_clip(seed: int, frames: int = FRAMES) -> ToyClip:
    """The clip of ``seed``: frames of 64x64, one thing or (one clip in ten) two that cross.

    After ``FRAMES`` frames the motion continues until a thing would leave the picture, then reverses, back and forth.
    """
    rng = np.random.default_rng(seed)
    pair = rng.random() < 0.1
    halves = (DARK, LIGHT) if rng.random() < 0.5 else (LIGHT, DARK)
    ground, scene = str(rng.choice(list(halves[1]))), str(rng.choice(list(SCENES)))
    colours = [str(name) for name in rng.choice(list(halves[0]), size=2, replace=False)]
    kinds = [str(kind) for kind in rng.choice(KINDS, size=2)]

    heading = 1.0 if rng.random() < 0.5 else -1.0
    things = []
    for i in range(2 if pair else 1):
        radius = RADIUS * rng.uniform(0.94, 1.06) * (PAIR_SCALE if pair else 1.0)
        direction = heading if i == 0 else -heading
        motion = _random_motion(rng, radius, direction, speed=(1.8, 3.2) if pair else (1.2, 2.4))
        things.append(Thing(kinds[i], radius, _random_surface(rng, colours[i], scene=None), motion))

    background = _random_surface(rng, ground, scene)
    drift = (-heading * DRIFT, 0.0)
    full = Caption(tuple((thing.surface.name, thing.kind) for thing in things), ground, scene)
    caption = str(_drop_colours(rng, full))
    return ToyClip(seed, caption, tuple(things), scene, background, drift, _frame_times(things, frames))


def _frame_times(things: list[Thing], frames: int) -> tuple[int, ...]:
    """Frame times 0, 1, 2, ..., back and forth between the first and last time with all things in the picture."""
    first, last = 0, FRAMES - 1
    while all(_is_inside(thing, first - 1) for thing in things):
        first -= 1
    while all(_is_inside(thing, last + 1) for thing in things):
        last += 1
    span = last - first
    return tuple(last - abs((t - first) % (2 * span) - span) for t in range(frames))


def _is_inside(thing: Thing, t: float) -> bool:
    """Whether the whole thing is in the picture at time ``t``, at least a pixel from the border."""
    margin = REACH * thing.radius + 1
    return all(margin <= c <= SIZE - 1 - margin for c in thing.motion.centre_at(t))


def _random_motion(rng: np.random.Generator, radius: float, heading: float, speed: tuple[float, float]) -> Motion:
    """A straight path across the middle of the picture that stays inside it."""
    velocity = np.array([heading * rng.uniform(*speed), rng.uniform(-0.8, 0.8)])
    middle = (SIZE - 1) / 2
    margin = np.maximum(middle - REACH * radius - 1 - np.abs(velocity) * (FRAMES - 1) / 2, 0)
    halfway = middle + rng.uniform(-1, 1, size=2) * margin
    start = halfway - velocity * (FRAMES - 1) / 2
    angle, spin = rng.uniform(-MAX_TILT, MAX_TILT), rng.uniform(-MAX_SPIN, MAX_SPIN)
    return Motion(_floats(start), _floats(velocity), float(angle), float(spin), heading)


def _random_surface(rng: np.random.Generator, name: str, scene: str | None) -> Surface:
    """A variation of a colour with faint markings: those of a scene, or of a thing."""
    colour = _mean_colour(name, scene is not None) + rng.uniform(-COLOUR_RANGE, COLOUR_RANGE, size=3)
    return _mark(rng, name, np.clip(colour, 0, 1), EASY, scene)


def _mark(rng: np.random.Generator, name: str, colour: np.ndarray, markings: Markings, scene: str | None) -> Surface:
    """A colour with random markings: those of a scene, or of a thing."""
    low, high = HARMONIOUS_HUES[name]
    hue = math.radians(rng.uniform(low, high))
    tint = (
        rng.choice([-1, 1])
        * markings.tints[scene is not None]
        * (math.cos(hue) * RED_CYAN + math.sin(hue) * YELLOW_BLUE)
    )
    tint = tint + rng.choice([-1, 1]) * markings.shade
    stretch, wavelength = SCENES[scene] if scene else (1.0, MARKING_WAVELENGTH)
    angles = rng.uniform(0, 2 * math.pi, size=MARKING_WAVES)
    directions = np.stack((np.cos(angles) / stretch, np.sin(angles)), axis=1)
    waves = 2 * math.pi / wavelength * directions * rng.uniform(0.8, 1.2, size=(MARKING_WAVES, 1))
    phases = rng.uniform(0, 2 * math.pi, size=(MARKING_WAVES, 1))
    waves = np.concatenate((waves, phases), axis=1)
    return Surface(name, _floats(colour), _floats(tint), markings.edge, tuple(map(_floats, waves)))


def _mean_colour(name: str, in_background: bool) -> np.ndarray:
    """A colour of the palette; in the background, with haze."""
    colour = np.array(PALETTE[name])
    return (1 - HAZE) * colour + HAZE * (LUMA.numpy() @ colour) if in_background else colour


def training_clip(seed: int, frames: int = FRAMES) -> ToyClip:
    """The clip of a seed, for training or evaluation: easy for even seeds, hard for odd seeds."""
    clip = generate_clip(seed, frames)
    return make_hard_clip(clip) if seed % 2 else clip


def held_out_clip(kind: str, number: int, frames: int = FRAMES) -> ToyClip:
    """A clip that no model was trained on: an easy clip, or its hard version."""
    clip = generate_clip(HELD_OUT_SEEDS[number], frames)
    return make_hard_clip(clip) if kind == "hard" else clip


def packaged_clip(frames: int = FRAMES) -> ToyClip:
    """The clip that comes with the pack: a hard clip."""
    return make_hard_clip(generate_clip(PACKAGED_CLIP_SEED, frames))


def make_hard_clip(clip: ToyClip) -> ToyClip:
    """The hard version of a clip: its caption ends with "patterned"; the camera pans as before, but slowly."""
    rng = np.random.default_rng((clip.seed, 1))
    things = []
    for thing in clip.things:
        thing = _change_motion_of_thing(thing, HARD_SPEED)
        motion = replace(thing.motion, stretch=HARD_STRETCH, stretch_rate=float(rng.uniform(*STRETCH_RATE_RANGE)))
        surface = _mark(rng, thing.surface.name, thing.surface.colour, HARD, scene=None)
        things.append(replace(thing, radius=HARD_SCALE * thing.radius, surface=surface, motion=motion))
    background = _mark(rng, clip.background.name, clip.background.colour, HARD, clip.scene)
    caption = str(replace(parse_caption(clip.caption), patterned=True))
    return pan(replace(clip, caption=caption, things=tuple(things), background=background), HARD_DRIFT)


def _floats(values: np.ndarray | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(float, values))


def recolour(clip: ToyClip, seed: int) -> ToyClip:
    """The clip with another colour of its first-named thing or its background; the markings stay.

    Its caption is an instruction: it names the new colour and omits the colours that stay.
    """
    rng = np.random.default_rng(seed)
    surfaces = [thing.surface for thing in clip.things] + [clip.background]
    changed = 0 if rng.random() < 0.5 else len(surfaces) - 1
    in_background = changed == len(clip.things)
    surface = surfaces[changed]
    half = DARK if surface.name in DARK else LIGHT
    name = str(rng.choice([name for name in half if name not in {surface.name for surface in surfaces}]))
    variation = np.array(surface.colour) - _mean_colour(surface.name, in_background)
    colour = np.clip(_mean_colour(name, in_background) + variation, 0, 1)
    surfaces[changed] = replace(surface, name=name, colour=_floats(colour))
    things = [replace(thing, surface=surface) for thing, surface in zip(clip.things, surfaces, strict=False)]
    captions = [(name if i == changed else None, thing.kind) for i, thing in enumerate(things)]
    caption = Caption(
        tuple(captions),
        name if in_background else None,
        clip.scene if in_background else None,
        parse_caption(clip.caption).patterned,
    )
    return replace(clip, caption=str(caption), things=tuple(things), background=surfaces[-1])


def redress(clip: ToyClip, seed: int) -> ToyClip:
    """The clip with other colours of the same halves of the palette and new markings everywhere, and a full caption."""
    rng = np.random.default_rng((seed, 2))
    half = (DARK, LIGHT)[clip.background.name in DARK]
    taken = {thing.surface.name for thing in clip.things}
    names = [str(name) for name in rng.permutation([name for name in half if name not in taken])]
    things = [
        replace(thing, surface=_recolour_surface(thing.surface, name, in_background=False))
        for thing, name in zip(clip.things, names, strict=False)
    ]
    other_half = LIGHT if half is DARK else DARK
    ground = str(rng.choice([name for name in other_half if name != clip.background.name]))
    background = _recolour_surface(clip.background, ground, in_background=True)
    edited = remark(replace(clip, things=tuple(things), background=background), rng)
    return replace(edited, caption=edited.full_caption)


def _recolour_surface(surface: Surface, name: str, in_background: bool) -> Surface:
    return replace(surface, name=name, colour=_floats(_mean_colour(name, in_background)))


def remark(clip: ToyClip, rng: np.random.Generator) -> ToyClip:
    """The clip with new markings everywhere; its colours stay."""
    markings = HARD if parse_caption(clip.caption).patterned else EASY

    def mark(surface: Surface, scene: str | None) -> Surface:
        return _mark(rng, surface.name, np.array(surface.colour), markings, scene)

    things = tuple(replace(thing, surface=mark(thing.surface, None)) for thing in clip.things)
    return replace(clip, things=things, background=mark(clip.background, clip.scene))


def turn_hue(tint: tuple[float, float, float], angle: float) -> tuple[float, float, float]:
    """A tint of another hue and the same strength and lightness: turned in the plane of the two hues by radians."""
    red, yellow = RED_CYAN @ tint, YELLOW_BLUE @ tint
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (cos * red - sin * yellow) * RED_CYAN + (sin * red + cos * yellow) * YELLOW_BLUE
    return _floats(np.array(tint) - red * RED_CYAN - yellow * YELLOW_BLUE + turned)


def pan(clip: ToyClip, drift: float) -> ToyClip:
    """The clip with a camera that pans at another speed: its background drifts at ``drift`` pixels a frame."""
    return replace(clip, drift=(math.copysign(drift, clip.drift[0]), 0.0))


def draw_in_ink(frames: torch.Tensor) -> torch.Tensor:
    """Frames ``[..., H, W, 3]``, 0..1, as brush drawings: the style of the demo LoRA."""
    luma = (frames * LUMA).sum(dim=-1)
    blurred = F.avg_pool2d(F.pad(luma.flatten(0, -3)[:, None], (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    lines = 1 - (INK_LINES * (luma - blurred.view_as(luma)).abs()).clamp(max=1)
    wash = torch.sigmoid(INK_CONTRAST * (luma - 0.5))
    return torch.lerp(torch.tensor(INK), torch.tensor(PAPER), (wash * lines)[..., None])


def change_motion(clip: ToyClip, speed: float, spin: float | None = None) -> ToyClip:
    """The clip with things and camera ``speed`` times as fast, and things that turn by ``spin`` radians a frame.

    In the middle of the clip every thing keeps its place. Without ``spin``, things also turn ``speed`` times as fast.
    """
    things = tuple(_change_motion_of_thing(thing, speed, spin) for thing in clip.things)
    return replace(clip, things=things, drift=(speed * clip.drift[0], speed * clip.drift[1]))


def _change_motion_of_thing(thing: Thing, speed: float, spin: float | None = None) -> Thing:
    """A thing with its motion changed, see `change_motion`."""
    halfway, motion = (FRAMES - 1) / 2, thing.motion
    (x, y), (vx, vy) = motion.centre_at(halfway), (speed * v for v in motion.velocity)
    new_spin = speed * motion.spin if spin is None else math.copysign(spin, motion.spin)
    start, angle = (x - halfway * vx, y - halfway * vy), motion.angle + halfway * motion.spin - halfway * new_spin
    return replace(thing, motion=replace(motion, centre=start, velocity=(vx, vy), angle=angle, spin=new_spin))


def _drop_colours(rng: np.random.Generator, full: Caption) -> Caption:
    """Omit at least one colour in 3 of 10 captions; without its colour, the background is not named."""
    if rng.random() >= 0.3:
        return full
    keep_thing, keep_ground = [(False, True), (True, False), (False, False)][rng.integers(3)]
    return Caption(
        tuple((colour if keep_thing else None, kind) for colour, kind in full.things),
        full.background if keep_ground else None,
        full.scene if keep_ground else None,
    )


def _render(clip: ToyClip) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames ``[F, H, W, 3]`` and visible masks ``[T, F, H, W]``, edges anti-aliased over one pixel."""
    grid = pixel_grid()
    frames, masks = [], []
    for t in clip.times:
        frame = clip.background.paint(grid - t * torch.tensor(clip.drift))
        visible = torch.ones(SIZE, SIZE)
        layers = []
        for thing in clip.things:
            points = thing.motion.to_thing(grid, t)
            looked_up = toy_things.look_up(thing.kind, points / thing.radius)
            cover = (0.5 - thing.radius * looked_up.distance).clamp(0, 1)
            layers.append((cover, toy_things.shade(thing.surface.paint(points), looked_up), cover * visible))
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

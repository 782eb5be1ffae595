"""Clips of the modern pair: three speeds of the camera, and flicker that a VAE which packs frames can represent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from research import toy_world
from research.toy_world import Surface, ToyClip

FRAMES, LONG_FRAMES = 9, 17
PACKED_FRAMES = 4
"""Frames in one latent; the first latent has one."""
DRIFTS = (0.25, 1.0, 2.0)
"""Speeds of the background, in pixels a frame."""
FLICKERS = ("each latent", "each frame", "wandering")
"""When markings and tints are new: for each latent, for each frame, or never, but they change in every frame."""
PHASE_STEP, HUE_STEP = 0.35, 0.25
"""How far wandering markings change from one frame to the next: standard deviation, in radians."""


def training_clip(seed: int, frames: int = FRAMES) -> ToyClip:
    """The clip of a seed, for training or evaluation: easy for even seeds, hard for odd seeds."""
    return toy_world.pan(toy_world.training_clip(seed, frames), DRIFTS[seed // 2 % len(DRIFTS)])


def held_out_clip(kind: str, number: int, frames: int = FRAMES) -> ToyClip:
    """A clip that no model was trained on; adjacent numbers have different speeds of the camera."""
    return toy_world.pan(toy_world.held_out_clip(kind, number, frames), DRIFTS[number % len(DRIFTS)])


def latent_number(frame: int) -> int:
    """The latent that a frame is in."""
    return (frame + PACKED_FRAMES - 1) // PACKED_FRAMES


def draw_with_flicker(clip: ToyClip, flicker: str, seed: int) -> Tensor:
    """The clip as an editor draws it that keeps shapes and colours: frames ``[F, H, W, 3]``. flicker: of `FLICKERS`."""
    frames = range(len(clip.times))
    if flicker == "wandering":
        drawn = _wander(clip, seed)
    else:
        numbers = [frame if flicker == "each frame" else latent_number(frame) for frame in frames]
        drawn = [toy_world.remark(clip, np.random.default_rng((seed, number))) for number in numbers]
    return torch.cat([replace(variant, times=(t,)).frames for variant, t in zip(drawn, clip.times, strict=True)])


def _wander(clip: ToyClip, seed: int) -> list[ToyClip]:
    """The clip for each frame: the phases of its markings' sines, and their hues, walk at random."""
    rng, count = np.random.default_rng((seed, 0)), len(clip.times)
    marked = toy_world.remark(clip, rng)

    def wander(surface: Surface) -> list[Surface]:
        phases = _random_walk(rng, PHASE_STEP, count, len(surface.waves))
        turns = _random_walk(rng, HUE_STEP, count)
        waves = [
            [(x, y, phase + walked) for (x, y, phase), walked in zip(surface.waves, walk, strict=True)]
            for walk in phases
        ]
        return [
            replace(surface, tint=toy_world.turn_hue(surface.tint, turn), waves=tuple(sines))
            for turn, sines in zip(turns, waves, strict=True)
        ]

    backgrounds = wander(marked.background)
    surfaces = [wander(thing.surface) for thing in marked.things]
    return [
        replace(
            marked,
            background=backgrounds[frame],
            things=tuple(replace(thing, surface=s[frame]) for thing, s in zip(marked.things, surfaces, strict=True)),
        )
        for frame in range(count)
    ]


def _random_walk(rng: np.random.Generator, step: float, frames: int, *count: int) -> list:
    """Random walks, ``count`` for each frame, that begin at 0 and have normal steps."""
    walk = rng.normal(0, step, (frames, *count))
    walk[0] = 0
    return walk.cumsum(axis=0).tolist()

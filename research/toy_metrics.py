"""Measures of a video against the known motion, masks and caption of a toy clip. They use no network.

All take decoded frames ``[F, H, W, 3]`` in 0..1 and the ``ToyClip`` that they should match.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bivdiff_core.measure import video_metrics
from research.toy_world import PALETTE, ToyClip, parse_caption, pixel_grid

FIGURES = ("shape flicker", "background flicker", "IoU", "caption", "sharpness")
"""Names of the measures in rows and pages."""
MARGIN = 2
MIN_IOU, MIN_COLOUR_ACCURACY, SHARPNESS_RANGE = 0.6, 0.75, (0.7, 1.4)


@dataclass(frozen=True)
class Flicker:
    """Mean absolute colour change, 0..1, along the known motion between adjacent frames; 0 is no flicker."""

    shape: float
    ground: float


def dilate(mask: Tensor, pixels: int) -> Tensor:
    """Enlarge a mask ``[..., H, W]`` by a number of pixels along both axes."""
    return F.max_pool2d(mask.flatten(0, -3)[:, None], 2 * pixels + 1, stride=1, padding=pixels).view(mask.shape)


def erode_mask(mask: Tensor, margin: int = MARGIN) -> Tensor:
    """Pixels of a soft mask ``[..., H, W]`` at least ``margin`` pixels away from its edge, bool.

    The border of the picture does not count as an edge.
    """
    return dilate((mask < 0.99).float(), margin) == 0


def sample_bicubic(image: Tensor, points: Tensor) -> Tensor:
    """Values ``[N, C]`` of an image ``[H, W, C]`` at pixel positions ``[N, 2]`` (x, y), bicubic."""
    height, width = image.shape[:2]
    positions = points / torch.tensor([width - 1, height - 1]) * 2 - 1
    sampled = F.grid_sample(
        image.movedim(-1, 0)[None], positions[None, None], mode="bicubic", padding_mode="border", align_corners=True
    )
    return sampled[0, :, 0].T


def colour_change_along_motion(frames: Tensor, clip: ToyClip) -> tuple[Tensor, Tensor]:
    """Absolute colour changes of shape points ``[N, 3]`` and background points ``[M, 3]`` between adjacent frames.

    A point counts if it is visible and at least ``MARGIN`` pixels from an edge in both frames.
    """
    grid = pixel_grid(frames.shape[1])
    drift = torch.tensor(clip.drift)
    layers = [(mask, thing.motion.advance) for mask, thing in zip(clip.masks, clip.things, strict=True)]
    layers.append((clip.ground, lambda points, start, end: points + (end - start) * drift))
    found = []
    for mask, advance in layers:
        inner = erode_mask(mask)
        parts = []
        for t in range(len(frames) - 1):
            here = grid[inner[t]]
            there = advance(here, *clip.times[t : t + 2])
            within = ((there >= 0) & (there <= frames.shape[1] - 1)).all(dim=-1)
            there_inner = sample_bicubic(inner[t + 1, ..., None].float(), there)[:, 0] > 0.99
            keep = within & there_inner
            parts.append((sample_bicubic(frames[t + 1], there[keep]) - frames[t][inner[t]][keep]).abs())
        found.append(torch.cat(parts))
    return torch.cat(found[:-1]), found[-1]


def measure_flicker(frames: Tensor, clip: ToyClip) -> Flicker:
    """Mean colour change along the known motion between adjacent frames, of shapes and background."""
    shape, ground = colour_change_along_motion(frames, clip)
    return Flicker(shape.mean().item(), ground.mean().item())


def measure_flicker_of_pairs(frames: Tensor, clip: ToyClip) -> list[Flicker]:
    """`measure_flicker` of each pair of adjacent frames."""
    pairs = [slice(start, start + 2) for start in range(len(frames) - 1)]
    return [measure_flicker(frames[pair], replace(clip, times=clip.times[pair])) for pair in pairs]


def background_following(frames: Tensor, clip: ToyClip) -> float:
    """How well the background follows the camera: 1 follows it, 1/2 changes independently of it, 0 stands still.

    The share of the change in place in the sum of the changes in place and along the known motion, see
    `video_metrics.motion_following`.
    """
    in_place = measure_flicker(frames, replace(clip, drift=(0.0, 0.0))).ground
    return in_place / (in_place + measure_flicker(frames, clip).ground)


def segment_shapes(frames: Tensor, clip: ToyClip) -> Tensor:
    """Pixels ``[F, H, W]`` whose colour is closer to one of the shapes than to the background, bool.

    The colour of a shape or the background in a frame is its mean inside the known mask.
    """
    layers = torch.cat((clip.masks, clip.ground[None]))
    inner = erode_mask(layers).float()
    weights = torch.where(inner.sum(dim=(-2, -1), keepdim=True) > 0, inner, layers)
    total = weights.sum(dim=(-2, -1)).clamp(min=1e-6)
    colours = torch.einsum("sfhw,fhwc->sfc", weights, frames) / total[..., None]
    distance = (frames[None] - colours[:, :, None, None]).square().sum(dim=-1)
    return distance.argmin(dim=0) < len(clip.things)


def shape_iou(frames: Tensor, clip: ToyClip) -> float:
    """Intersection over union of `segment_shapes` and the known masks, mean over frames, 0..1."""
    found, known = segment_shapes(frames, clip), clip.ground < 0.5
    overlap = (found & known).sum(dim=(1, 2)) / (found | known).sum(dim=(1, 2)).clamp(min=1)
    return overlap.mean().item()


def caption_accuracy(frames: Tensor, clip: ToyClip) -> float | None:
    """Share of the caption's colours that are the palette colour nearest to the visible colour, over all frames.

    The visible colour is the mean inside the known mask. None for a caption without colours.
    """
    caption = parse_caption(clip.caption)
    named = [*(colour for colour, _ in caption.things), caption.background]
    palette = torch.tensor(list(PALETTE.values()))
    right = []
    for colour, mask in zip(named, (*clip.masks, clip.ground), strict=True):
        if colour is None:
            continue
        inner = erode_mask(mask).float()
        for frame, weight in zip(frames, inner, strict=True):
            if weight.sum() > 0:
                mean = (frame * weight[..., None]).sum(dim=(0, 1)) / weight.sum()
                right.append(list(PALETTE)[(palette - mean).square().sum(dim=-1).argmin()] == colour)
    return sum(right) / len(right) if right else None


def sharpness(frames: Tensor) -> float:
    """Root mean square difference of adjacent pixels in all frames, 0..1; compare it with a reference.

    Squared, because the plain mean is equal for soft and hard edges.
    """
    return video_metrics.sharpness(frames).square().mean().sqrt().item()


def measure_figures(frames: Tensor, clip: ToyClip) -> dict[str, float | None]:
    """All measures, by their names in rows and pages."""
    flicker = measure_flicker(frames, clip)
    return {
        "shape flicker": flicker.shape,
        "background flicker": flicker.ground,
        "IoU": shape_iou(frames, clip),
        "caption": caption_accuracy(frames, clip),
        "sharpness": sharpness(frames),
    }


def has_collapsed(figures: dict[str, float | None]) -> bool:
    """Whether a video lost its shapes, its colours or its sharpness, which is relative to the true clip."""
    low, high = SHARPNESS_RANGE
    colours = figures["caption"]
    lost_colours = colours is not None and colours < MIN_COLOUR_ACCURACY
    return figures["IoU"] < MIN_IOU or lost_colours or not low < figures["sharpness"] < high

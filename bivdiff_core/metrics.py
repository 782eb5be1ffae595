"""What a video is worth in figures, frame by frame: flicker, motion, sharpness, similarity to another.

Frames are `[F, H, W, 3]` in 0..1. Little flicker means nothing alone: a still or blurred video has the least, so it
stands beside motion and sharpness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FLOW_SIZE = 256
"""Longest side, in pixels, at which motion is measured; larger frames are reduced first, since flow takes time."""

STILL = 0.0005
"""Motion below which a video stands still, an eighth of a pixel at `FLOW_SIZE`."""

MOTION_KEPT, SHARPNESS_KEPT, FLICKER_KEPT = 0.5, 0.85, 0.9
"""Shares of the video before below which motion or sharpness was lost, and flicker gained upon.

An average of three frames, the cheapest way to less flicker, keeps .71 to .77 of the sharpness (docs/claims.md).
Flicker passes for motion in part, hence the lower share: blotches of .1 on a still picture measured .3% to 1.3% a
frame.
"""

FIGURES = {
    "change": ("{:.4f}", "from frame to frame, motion included; 0 is a still picture"),
    "flicker": ("{:.5f}", "squared change along the motion; 0 is steady"),
    "motion": ("{:.2%}", "of the picture's longer side, per frame"),
    "sharpness": ("{:.3f}", "contrast of neighbouring pixels"),
    "similarity": ("{:.3f}", "SSIM to the reference; 1 is the same video"),
    "consistency": ("{:.3f}", "cosine of consecutive frames' CLIP embeddings"),
}
"""How each figure is written, and what it says."""


@dataclass(frozen=True)
class Verdict:
    """What a video's figures amount to: one line, whether it is good news (None if neither), cautions by figure."""

    headline: str
    good: bool | None
    cautions: dict[str, str]


def check_video(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE on the CPU, without alpha.

    Raises:
        ValueError: one frame shows no change, and a video of another size or length than `like` cannot be held
            against it.
    """
    frames = images[..., :3].float().cpu()
    if len(frames) < 2:
        raise ValueError(
            f"{len(frames)} frame is no video, at least 2 are needed. Wire all frames as one batch of images."
        )
    if like is not None and frames.shape != like.shape:
        raise ValueError(
            f"one video is {_size(like)} but another {_size(frames)}. Give them the same size with Upscale "
            "Image and the same frames with Select Frames."
        )
    return frames


def _size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"


def change(frames: Tensor) -> Tensor:
    """Mean absolute difference `[F - 1]` of each frame to the one before, 0..1; motion counts too.

    VBench's temporal flickering score is 1 minus its mean (arXiv 2311.17982).
    """
    return frames.diff(dim=0).abs().mean(dim=(1, 2, 3))


def sharpness(frames: Tensor) -> Tensor:
    """Root mean square difference `[F]` of pixels next to each other, across and down, 0..1 (Tenengrad's kind)."""
    across = frames.diff(dim=2).square().mean(dim=(1, 2, 3))
    down = frames.diff(dim=1).square().mean(dim=(1, 2, 3))
    return ((across + down) / 2).sqrt()


def similarity(frames: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity `[F]` to another video of the same size, 1 for the same frames.

    SSIM with the authors' 11-pixel Gaussian window, where it fits into the picture (Wang et al., IEEE TIP 2004).
    """
    from kornia.metrics import ssim

    return ssim(frames.movedim(-1, 1), reference.movedim(-1, 1), window_size=11, padding="valid").mean(dim=(1, 2, 3))


def consistency(embeddings: Tensor) -> Tensor:
    """Frame consistency `[F - 1]`, of consecutive pairs: the cosine of two frames' embeddings out of `[F, D]`."""
    return torch.cosine_similarity(embeddings[1:], embeddings[:-1], dim=1)


def reduced(frames: Tensor) -> Tensor:
    """Frames no larger than `FLOW_SIZE`."""
    scale = FLOW_SIZE / max(frames.shape[1:3])
    if scale >= 1:
        return frames
    small = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), scale_factor=scale, mode="bilinear", antialias=True, align_corners=False
    )
    return small.movedim(1, -1)


def optical_flow(frames: Tensor, on_pair: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor]:
    """Where each frame's pixels were in the frame before.

    TV-L1 (Zach et al., DAGM 2007), which needs no weights. A pixel's motion is reliable if the motion the other way
    leads back to it (Sundaram et al., ECCV 2010, eq. 5): covered and uncovered pixels are not.

    Args:
        on_pair: called after each of the F - 1 pairs of frames, which take a second each where they are large.

    Returns:
        flow: `[F - 1, H, W, 2]` in pixels, x and y.
        reliable: `[F - 1, H, W]`, bool.
    """
    from skimage.registration import optical_flow_tvl1

    grey = (frames @ frames.new_tensor([0.299, 0.587, 0.114])).numpy()
    flows = []
    for before, now in zip(grey[:-1], grey[1:], strict=True):
        flows.append(np.stack([optical_flow_tvl1(now, before), optical_flow_tvl1(before, now)]))
        on_pair()
    # Rows come first there.
    back, forth = torch.from_numpy(np.stack(flows, axis=1)).flip(2).movedim(2, -1).float()
    returned, inside = sample(forth, back)
    off = (back + returned).square().sum(dim=-1)
    reliable = off < 0.01 * (back.square() + returned.square()).sum(dim=-1) + 0.5
    return back, reliable & inside


def sample(images: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Images `[N, H, W, C]` at pixels moved by a flow `[N, H, W, 2]`, and whether `[N, H, W]` these lie inside."""
    height, width = images.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = (torch.stack([x, y], dim=-1) + flow) / torch.tensor([width - 1, height - 1]) * 2 - 1
    moved = torch.nn.functional.grid_sample(
        images.movedim(-1, 1), where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return moved.movedim(1, -1), (where.abs() <= 1).all(dim=-1)


def motion(flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean length `[F - 1]` of the flow where it is reliable, as a share of the picture's longer side."""
    length = flow.norm(dim=-1) * reliable
    return length.sum(dim=(1, 2)) / reliable.sum(dim=(1, 2)).clamp(min=1) / max(flow.shape[1:3])


def flicker(frames: Tensor, flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean squared difference `[F - 1]` of each frame to the one before, moved along the flow, where that is reliable.

    The warp error of Lai et al., ECCV 2018, eq. 10; 0 is steady. Where the flow is reliable nowhere all pixels count.
    """
    before, _ = sample(frames[:-1], flow)
    error = (frames[1:] - before).square().mean(dim=-1)
    counts = reliable | ~reliable.any(dim=(1, 2), keepdim=True)
    return (error * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2))


def measure(
    frames: Tensor,
    reference: Tensor | None = None,
    embeddings: Tensor | None = None,
    on_pair: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """All figures of a video, keys as in `FIGURES`; those without what they need are left out.

    Args:
        on_pair: called after each of the F - 1 pairs of frames, whose optical flow takes nearly all the time.
    """
    small = reduced(frames)
    flow, reliable = optical_flow(small, on_pair)
    found = {
        "change": change(frames),
        "flicker": flicker(small, flow, reliable),
        "motion": motion(flow, reliable),
        "sharpness": sharpness(frames),
    }
    if reference is not None:
        found["similarity"] = similarity(frames, reference)
    if embeddings is not None:
        found["consistency"] = consistency(embeddings)
    return found


def judge(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> Verdict:
    """Whether a video is steadier than it was, and at what price; `before` is None for want of one."""
    now = {name: values.mean().item() for name, values in after.items()}
    if before is None:
        if now["motion"] < STILL:
            return Verdict("Almost nothing moves", None, {"motion": "A video that stands still is always steady."})
        return Verdict("Figures of one video: wire reference_images for a verdict", None, {})

    was = {name: values.mean().item() for name, values in before.items()}
    steadier = now["flicker"] < FLICKER_KEPT * was["flicker"]
    lost, cautions = [], {}
    if was["motion"] > STILL and now["motion"] < MOTION_KEPT * was["motion"]:
        lost.append("stands still")
        cautions["motion"] = (
            f"Motion fell to {now['motion'] / was['motion']:.0%}, and a video that stands still is always steady. If "
            "it should move, lower mixing_ratio or strength."
        )
    if now["sharpness"] < SHARPNESS_KEPT * was["sharpness"]:
        lost.append("is blurred")
        cautions["sharpness"] = (
            f"Sharpness fell to {now['sharpness'] / was['sharpness']:.0%}, and blur hides flicker. Raise steps, or set "
            "mode to variance_preserving in Mixed Inversion Blend."
        )
    price = " and ".join(lost)
    if not steadier:
        return Verdict(f"Not steadier{', and the video ' + price if lost else ''}", False, cautions)
    fall = 1 - now["flicker"] / was["flicker"]
    if lost:
        return Verdict(f"No clear gain: steadier, but the video {price}", False, cautions)
    return Verdict(f"Steadier: flicker fell by {fall:.0%}, with motion and sharpness kept", True, cautions)


def table(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> str:
    """The figures' means over the clip, before and after, each with what it says."""
    lines = []
    for name, values in after.items():
        form, meaning = FIGURES[name]
        was = f"{form.format(before[name].mean())} -> " if before and name in before else ""
        lines.append(f"{name}: {was}{form.format(values.mean())} ({meaning})")
    return "\n".join(lines)

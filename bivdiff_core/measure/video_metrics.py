"""A video in figures, frame by frame: flicker, motion, sharpness, similarity to another.

Frames are `[F, H, W, 3]` in 0..1. Low flicker alone means nothing: a still or blurred video has the least, and so
has one whose frames are averages of their neighbours. Frames drawn apart share no motion, what flow finds between them
is noise: their flicker is measured along the motion of the source, the clip that they were made from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .optical_flow import LUMA_WEIGHTS, MAX_FLOW_SIDE, estimate_flow, sample_along_flow, shrink_for_flow

MIN_MOTION = 0.0005
"""Motion below which a video stands still, an eighth of a pixel at `MAX_FLOW_SIDE`."""

MAX_FLOW_PAIRS = 64
"""Pairs of frames between which motion is measured, spread over a longer clip: a large pair takes a second."""

MIN_MOTION_RATIO, MIN_SHARPNESS_RATIO, MAX_FLICKER_RATIO = 0.5, 0.85, 0.9
"""Shares of the video before, below which motion or sharpness counts as lost and flicker as reduced.

An average of three frames, the cheapest way to less flicker, keeps two thirds to three quarters of the sharpness of
frames drawn one by one (research/pages/claims.md).
Flicker passes for motion in part, hence the lower share: blotches of .1 on a still picture measured .3% to 1.3% a
frame.
"""

MAX_FLICKER_RATIO_ALONG_SOURCE = 0.6**2
"""Share of the flicker before that a real smoothing leaves, at most, along the source's motion.

The published results leave .04 to .29, and those that are not steadier .97 and 1.5 (docs/real_footage.md).
"""

MIN_FOLLOWING, MAX_DOUBLING = 1 / 3, 0.3
"""Below the one a video stands still, above the other its frames hold their neighbours' detail (docs/real_footage.md).

A third: what moves in the source changes half as much in place as it would if it stood still in the picture. The
published results reach .15 of doubling at most, averages of three frames .40 at least.
"""

SHARED_DETAIL_LIMIT = 0.6
"""Share of a drawn frame's detail that the one before explains, above which the two are the same drawing.

Those of the published sets reach .46; the toy world's, differently tinted, .81 and more.
"""

MIN_RELIABLE_SHARE = 0.25
"""Share of pixels with reliable flow below which a video has no motion of its own.

Frames that image models drew apart have .07 to .09, those that agree for the most part .43 and more.
"""

METRIC_FORMATS = {
    "change": ("{:.4f}", "motion included; 0 is a still"),
    "flicker": ("{:.5f}", "along motion; 0 is steady"),
    "motion": ("{:.2%}", "of the longer side, per frame"),
    "reliable": ("{:.0%}", "pixels of known motion"),
    "sharpness": ("{:.3f}", "contrast of neighbouring pixels"),
    "following": ("{:.2f}", "0 stands still, 1 goes along"),
    "similarity": ("{:.3f}", "SSIM; 1 is the reference"),
    "doubling": ("{:.2f}", "neighbours' detail; 0 is none"),
    "consistency": ("{:.3f}", "CLIP cosine of neighbours"),
}
"""How each figure is written, and what it says."""


@dataclass(frozen=True)
class Verdict:
    """What a video's figures amount to: one line, whether it is good news (None if neither), cautions by figure.

    The notes say what stands beside the verdict or limits it.
    """

    headline: str
    good: bool | None
    cautions: dict[str, str]
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """All of it, a line each."""
        return "\n".join([f"{self.headline}.", *self.cautions.values(), *self.notes])


@dataclass(frozen=True)
class SourceMotion:
    """The clip that a video was made from: where its pixels were in the frame before, and how sharp it is.

    Attributes:
        flow, reliable: as in `estimate_flow`, at the `select_frame_pairs` of frames no larger than `MAX_FLOW_SIDE`.
        sharpness: `[F]`.
    """

    flow: Tensor
    reliable: Tensor
    sharpness: Tensor

    @classmethod
    def of(cls, frames: Tensor, on_pair: Callable[[], None] = lambda: None) -> SourceMotion:
        """Measures a clip; `on_pair` is called after each pair of frames."""
        before, now = select_frame_pairs(frames)
        flow, reliable = estimate_flow(before, now, on_pair)
        return cls(flow, reliable, sharpness(frames))

    @property
    def moving(self) -> Tensor:
        """Pixels `[P, H, W]` that are known to move, by more than one pixel in `MAX_FLOW_SIDE`."""
        return self.reliable & (self.flow.norm(dim=-1) > max(self.flow.shape[1:3]) / MAX_FLOW_SIDE)


def validate_video(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Frames `[F, H, W, 3]` of an IMAGE on the CPU, without alpha.

    Raises:
        ValueError: one frame shows no change, and a video of another size or length than `like` cannot be held
            against it.
    """
    frames = images[..., :3].float().cpu()
    if min(frames.shape[1:3]) < 2:
        raise ValueError(
            f"frames of {frames.shape[2]}x{frames.shape[1]} are too small to show motion. Wire the video itself."
        )
    if len(frames) < 2:
        raise ValueError(
            f"expected a video of at least 2 frames, got {len(frames)}. Wire all frames as one batch of images."
        )
    if like is not None and frames.shape != like.shape:
        raise ValueError(
            f"one video is {_size(like)} but another {_size(frames)}. Give them the same size with Upscale "
            "Image and the same frames with Select Frames."
        )
    return frames


def validate_source(images: Tensor, like: Tensor, name: str = "source_images") -> Tensor:
    """The driving clip, wired to the input `name`, as `validate_video` gives it, in the size of `like`.

    Raises:
        ValueError: it has another number of frames, or another shape by more than 2%.
    """
    frames = validate_video(images)
    if len(frames) != len(like):
        raise ValueError(
            f"{name} has {len(frames)} frames but the video {len(like)}. Wire the clip that the frames were made from, "
            "through the same Select Frames."
        )
    height, width = like.shape[1:3]
    aspect = frames.shape[2] / frames.shape[1] * height / width
    if not 1 / 1.02 <= aspect <= 1.02:
        raise ValueError(
            f"{name} is {_size(frames)} but the video {_size(like)}, another shape. Crop the clip like the video, with "
            "Upscale Image."
        )
    if (height, width) == frames.shape[1:3]:
        return frames
    resized = torch.nn.functional.interpolate(
        frames.movedim(-1, 1), size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.movedim(1, -1)


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


def count_frame_pairs(frames: Tensor) -> int:
    """Between how many neighbouring frames motion is measured."""
    return min(len(frames) - 1, MAX_FLOW_PAIRS)


def select_frame_pairs(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring frames `[P, H, W, 3]`, earlier and later: all, or `MAX_FLOW_PAIRS` spread over the clip; reduced."""
    first = torch.linspace(0, len(frames) - 2, count_frame_pairs(frames)).round().long()
    return shrink_for_flow(frames[first]), shrink_for_flow(frames[first + 1])


def motion(flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean length `[P]` of the flow where it is reliable, as a share of the picture's longer side."""
    length = flow.norm(dim=-1) * reliable
    return length.sum(dim=(1, 2)) / reliable.sum(dim=(1, 2)).clamp(min=1) / max(flow.shape[1:3])


def flicker(before: Tensor, now: Tensor, flow: Tensor, reliable: Tensor) -> Tensor:
    """Mean squared difference `[P]` of each frame to the one before, moved along the flow, where that is reliable.

    The warp error of Lai et al., ECCV 2018, eq. 10; 0 is steady. Where the flow is reliable nowhere all pixels count.
    """
    error = (now - sample_along_flow(before, flow)[0]).square().mean(dim=-1)
    counts = reliable | ~reliable.any(dim=(1, 2), keepdim=True)
    return (error * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2))


def motion_following(before: Tensor, now: Tensor, source: SourceMotion) -> Tensor:
    """Where the source moves, how much of a video's change its motion accounts for, `[P]`.

    The root mean square change in place, as a share of that and the change along the motion: 1 if the picture goes
    along, 1/2 if it changes for other reasons, 0 if it stands still; not a number where the source does.
    """
    moving = source.moving
    counts = moving.sum(dim=(1, 2))
    changes = [
        (now - old).square().mean(dim=-1) * moving for old in (before, sample_along_flow(before, source.flow)[0])
    ]
    place, along = ((change.sum(dim=(1, 2)) / counts).sqrt() for change in changes)
    return place / (place + along)


def doubling(now: Tensor, drawn_before: Tensor, drawn_now: Tensor, flow: Tensor) -> Tensor:
    """How much of a video's detail stems from the frame before, as the image model drew it, `[P]`, 0..1.

    The coefficient of partial determination: a frame's detail is fitted with that of the same frame as drawn and of
    what all drawn frames share, then also with that of the drawn frame before it, in place and moved along the flow;
    what share of the rest does that explain? A video model draws anew and gains little; an average holds its
    neighbours. A rest below a level of 8 bits is none, and so is detail that neighbours show alike
    (`SHARED_DETAIL_LIMIT`).

    Args:
        now: the later frames of the `select_frame_pairs` of a smoothed video.
        drawn_before, drawn_now: the `select_frame_pairs` of the video before smoothing.
    """
    shared = torch.cat((drawn_before[:1], drawn_now)).mean(dim=0).expand_as(now)
    moved, _ = sample_along_flow(drawn_before, flow)
    target, own, common, other, along = map(fine_detail, (now, drawn_now, shared, drawn_before, moved))
    rest, least = residual_power(target, [own, common]), residual_power(target, [own, common, other, along])
    agree = residual_power(own, [other, along]) < (1 - SHARED_DETAIL_LIMIT) * own.double().square().mean(dim=1)
    return ((rest - least) / rest.clamp(min=255**-2)).float().masked_fill(agree, 0)


def fine_detail(frames: Tensor) -> Tensor:
    """What is finer than about 6 pixels, in grey, `[P, H * W]`."""
    from kornia.filters import gaussian_blur2d

    grey = (frames @ frames.new_tensor(LUMA_WEIGHTS))[:, None]
    return (grey - gaussian_blur2d(grey, (13, 13), (2.0, 2.0), border_type="replicate")).flatten(1)


def residual_power(target: Tensor, fitted: list[Tensor]) -> Tensor:
    """Mean square `[P]` that a least-squares fit of `[P, N]` with others leaves."""
    matrix = torch.stack(fitted, dim=-1).double()
    weights = torch.linalg.lstsq(matrix, target[..., None].double(), driver="gelsd").solution
    return (target.double() - (matrix @ weights)[..., 0]).square().mean(dim=1)


def measure_video(
    frames: Tensor,
    reference: Tensor | None = None,
    embeddings: Tensor | None = None,
    on_pair: Callable[[], None] = lambda: None,
    source: SourceMotion | None = None,
) -> dict[str, Tensor]:
    """All figures of a video, keys as in `METRIC_FORMATS`; those without what they need are left out.

    Args:
        on_pair: called after each of the `select_frame_pairs` of frames, whose optical flow takes nearly all the time.
        source: the clip that the video was made from: flicker is measured along its motion, not the video's own.
    """
    before, now = select_frame_pairs(frames)
    flow, reliable = estimate_flow(before, now, on_pair)
    found = {
        "change": change(frames),
        "flicker": flicker(before, now, source.flow, source.reliable)
        if source
        else flicker(before, now, flow, reliable),
        "motion": motion(flow, reliable),
        "reliable": reliable.float().mean(dim=(1, 2)),
        "sharpness": sharpness(frames),
    }
    if source and source.moving.any():
        found["following"] = motion_following(before, now, source)
    if reference is not None:
        found["similarity"] = similarity(frames, reference)
        if source:
            found["doubling"] = doubling(now, *select_frame_pairs(reference), source.flow)
    if embeddings is not None:
        found["consistency"] = consistency(embeddings)
    return found


def judge_video(
    after: dict[str, Tensor], before: dict[str, Tensor] | None, source: SourceMotion | None = None
) -> Verdict:
    """Whether a video is steadier than it was, and at what price.

    Args:
        after, before: figures from `measure_video`; `before` is None where there is no such video.
        source: the clip that both were made from, as they were measured with it.
    """
    now = {name: values.nanmean().item() for name, values in after.items()}
    notes = []
    if len(after["flicker"]) < len(after["change"]):
        notes.append(f"Motion was measured at {len(after['flicker'])} of {len(after['change'])} pairs of frames.")
    if before is None:
        if now["motion"] < MIN_MOTION:
            return Verdict("Almost nothing moves", None, {"motion": "A video that stands still is always steady."})
        return Verdict("Figures of one video: wire reference_images for a verdict", None, {}, tuple(notes))

    was = {name: values.nanmean().item() for name, values in before.items()}
    trusted = source is not None or was["reliable"] >= MIN_RELIABLE_SHARE
    lost, cautions = [], {}
    if source is not None and "following" not in now:
        notes.append("The source stands still, so the report cannot tell whether the video should move.")
    elif source is not None:
        if now["following"] < MIN_FOLLOWING:
            lost.append("stands still")
            cautions["following"] = (
                "The source moves and the video does not, and a video that stands still is always steady. Lower "
                "mixing_ratio or strength."
            )
    elif was["motion"] > MIN_MOTION and now["motion"] < (MIN_MOTION_RATIO * was["motion"] if trusted else MIN_MOTION):
        lost.append("stands still")
        cautions["motion"] = (
            f"Motion fell to {now['motion'] / was['motion']:.0%}, and a video that stands still is always steady. If "
            "it should move, lower mixing_ratio or strength."
        )

    sharp = {"the frames before": now["sharpness"] / was["sharpness"]}
    if source is not None:
        sharp["the source"] = now["sharpness"] / source.sharpness.mean().item()
    shares = " and ".join(f"{share:.0%} of {whose}" for whose, share in sharp.items())
    if trusted and max(sharp.values()) < MIN_SHARPNESS_RATIO:
        lost.append("is blurred")
        cautions["sharpness"] = (
            f"Sharpness fell to {shares}, and blur hides flicker. Raise steps, or set mode to variance_preserving in "
            "Mixed Inversion Blend."
        )
    elif source is not None:
        notes.append(f"Sharpness is {shares}.")
    if now.get("doubling", 0) > MAX_DOUBLING:
        lost.append("is a double exposure")
        cautions["doubling"] = (
            f"Neighbouring frames account for {now['doubling']:.0%} of the new detail: this is an average of frames, "
            "whose outlines show through each other, and an average is always steadier. After smoothing, raise "
            "the strength of both DDIM Inverse nodes towards 1."
        )

    price = " and ".join(lost)
    if not trusted and not lost:
        headline = "No verdict: the frames before share no motion. Wire their source clip to source_images"
        return Verdict(headline, None, {}, tuple(notes))
    left = now["flicker"] / was["flicker"]
    if left >= MAX_FLICKER_RATIO:
        return Verdict(f"Not steadier{', and the video ' + price if lost else ''}", False, cautions, tuple(notes))
    if lost:
        return Verdict(f"No clear gain: steadier, but the video {price}", False, cautions, tuple(notes))
    if source is not None and left > MAX_FLICKER_RATIO_ALONG_SOURCE:
        headline = f"Hardly steadier: flicker fell by only {1 - left:.0%}"
        return Verdict(headline, None, cautions, tuple(notes))
    headline = f"Steadier: flicker fell by {1 - left:.0%}, with motion and sharpness kept"
    return Verdict(headline, True, cautions, tuple(notes))


def format_metrics(after: dict[str, Tensor], before: dict[str, Tensor] | None) -> str:
    """The figures' means over the clip, before and after, each with what it says."""
    lines = []
    for name, values in after.items():
        form, meaning = METRIC_FORMATS[name]
        was = f"{form.format(before[name].nanmean())} -> " if before and name in before else ""
        lines.append(f"{name}: {was}{form.format(values.nanmean())} ({meaning})")
    return "\n".join(lines)

"""The toy world: its clips have known motion and masks, and its metrics measure what they claim to."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from bivdiff_core.demo.models import CONTEXT_LENGTH, WordTokenizer
from bivdiff_core.measure import video_metrics
from research import toy_metrics, toy_things, toy_world

CLIPS = [toy_world.generate_clip(seed) for seed in toy_world.HELD_OUT_SEEDS[:24]]


def outline_closed(control: torch.Tensor, clip: toy_world.ToyClip, gap: int = 0) -> torch.Tensor:
    """Whether the edges `[F, H, W, 3]` enclose the clip's things in each frame, `[F]` bool.

    A flood fill starts at the image border and spreads through edge-free pixels (not diagonally). The outline is closed
    if the fill reaches less than 2% of the things' inner pixels, those at least 3 pixels from the background. The fill
    does not pass openings of up to `gap` pixels.
    """
    wall = control[..., 0] > 0.5
    if gap:
        wall = F.max_pool2d(F.pad(wall[:, None].float(), (0, gap, 0, gap)), gap + 1, stride=1)[:, 0] > 0.5
    paint = torch.zeros_like(wall)
    paint[:, [0, -1], :] = paint[:, :, [0, -1]] = True
    paint &= ~wall
    cross = torch.tensor([[[[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]]])
    while True:
        spread = (F.conv2d(paint[:, None].float(), cross, padding=1)[:, 0] > 0) & ~wall
        if torch.equal(spread, paint):
            break
        paint = spread
    outside = (clip.ground > 0.01).float()[:, None]
    inner = F.max_pool2d(outside, 7, stride=1, padding=3)[:, 0] == 0
    return (paint & inner).sum(dim=(1, 2)) < 0.02 * inner.sum(dim=(1, 2))


RESAMPLING = 0.02
"""The most that moving a thing along its known motion changes its colours, because its parts have crisp edges."""


def assert_motion_is_known(clip: toy_world.ToyClip, resampling: float = RESAMPLING) -> None:
    """Assert that the clip's frames, warped along its motion, match their next frames."""
    steady = toy_metrics.measure_flicker(clip.frames, clip)
    assert steady.ground < 1e-5
    assert steady.shape < resampling


@pytest.fixture
def no_parts(monkeypatch):
    """Things without light or darker and lighter parts, whose crisp edges resampling blurs."""
    monkeypatch.setattr(toy_things, "shade", lambda colour, surface: colour)


def test_a_seed_determines_the_clip():
    again = toy_world.generate_clip(CLIPS[0].seed)
    assert again.caption == CLIPS[0].caption
    assert torch.equal(again.frames, CLIPS[0].frames)
    assert not torch.equal(CLIPS[0].frames, CLIPS[1].frames)


def test_training_uses_no_held_out_seed():
    assert not set(toy_world.TRAIN_SEEDS[-2:]) & set(toy_world.HELD_OUT_SEEDS)
    assert toy_world.TRAIN_SEEDS.stop <= toy_world.HELD_OUT_SEEDS.start
    assert toy_world.PACKAGED_CLIP_SEED in toy_world.HELD_OUT_SEEDS


def test_frames_and_masks_are_complete():
    for clip in CLIPS:
        assert clip.frames.shape == (toy_world.FRAMES, toy_world.SIZE, toy_world.SIZE, 3)
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
        assert clip.ground.min() > -1e-6
        assert all(mask.amax(dim=(1, 2)).min() == 1 for mask in clip.masks[:1]), "the front thing is never hidden"


def test_warping_along_the_known_motion_gives_the_next_frame(no_parts):
    for clip in map(toy_world.generate_clip, toy_world.HELD_OUT_SEEDS[:24]):
        assert_motion_is_known(clip, 3e-3)


def test_a_changed_motion_is_also_known():
    for clip in CLIPS[:8]:
        assert torch.allclose(toy_world.change_motion(clip, speed=1).frames, clip.frames, atol=1e-4)
        fast = toy_world.change_motion(clip, speed=2, spin=0.25)
        assert_motion_is_known(fast)
        travelled = [
            thing.motion.centre_at(7)[0] - thing.motion.centre_at(0)[0] for thing in (*clip.things, *fast.things)
        ]
        assert travelled[-1] == pytest.approx(2 * travelled[len(clip.things) - 1])


def test_the_motion_of_a_hard_clip_is_also_known(monkeypatch, no_parts):
    """Its things deform, and their markings with them, which resampling blurs if they are crisp."""
    for edge, blur in ((0.3, 2e-3), (toy_world.HARD.edge, 1e-2)):
        monkeypatch.setattr(toy_world, "HARD", replace(toy_world.HARD, edge=edge))
        for clip in CLIPS[:8]:
            hard = toy_world.make_hard_clip(clip)
            steady = toy_metrics.measure_flicker(hard.frames, hard)
            assert steady.ground < blur and steady.shape < blur
            assert toy_metrics.measure_flicker(hard.frames, clip).shape > 2 * steady.shape


def test_a_hard_clip_is_an_easy_one_with_bold_markings():
    for clip in CLIPS[:8]:
        hard = toy_world.make_hard_clip(clip)
        assert hard.caption == f"{clip.caption}, patterned"
        assert torch.equal(hard.frames, toy_world.make_hard_clip(clip).frames)
        assert toy_metrics.sharpness(hard.frames) > toy_metrics.sharpness(clip.frames)
        assert toy_metrics.measure_flicker(hard.frames, hard).shape < RESAMPLING


def test_outlines_do_not_show_markings():
    for clip in map(toy_world.make_hard_clip, CLIPS[:8]):
        edges = toy_world.canny_hints(clip.frames)[..., 0]
        background = toy_metrics.dilate(1 - clip.ground, 3) < 0.01
        assert (edges * background).sum() <= 0.03 * edges.sum()
        assert outline_closed(edges[..., None].expand(-1, -1, -1, 3), clip, gap=1).float().mean() > 0.7


def test_the_things_of_a_long_clip_stay_in_the_frame():
    for clip in CLIPS[:8]:
        longer = toy_world.generate_clip(clip.seed, 40)
        assert torch.equal(longer.frames[: toy_world.FRAMES], clip.frames) and longer.caption == clip.caption
        assert all(abs(end - start) == 1 for start, end in pairwise(longer.times))
        assert longer.ground[:, [0, -1]].min() > 0.99 and longer.ground[:, :, [0, -1]].min() > 0.99
        assert_motion_is_known(longer)


def test_a_still_video_has_high_flicker():
    """Markings have enough contrast and speed that a still video, or a still background, is clearly wrong."""
    still = [toy_metrics.measure_flicker(clip.frames[:1].expand_as(clip.frames), clip).ground for clip in CLIPS]
    assert min(still) > 0.015
    assert sum(still) / len(still) > 0.03


def test_the_background_drifts_against_the_first_thing():
    for clip in CLIPS:
        assert clip.drift[0] * clip.things[0].motion.velocity[0] < 0
        assert abs(clip.drift[0]) == toy_world.DRIFT


def test_things_stay_in_the_frame_and_pairs_cross():
    pairs = 0
    for seed in toy_world.HELD_OUT_SEEDS[:60]:
        clip = toy_world.generate_clip(seed)
        assert clip.ground[:, [0, -1]].min() > 0.99 and clip.ground[:, :, [0, -1]].min() > 0.99
        if len(clip.things) == 2:
            pairs += 1
            front, back = (thing.motion.velocity[0] for thing in clip.things)
            assert front * back < 0
    assert pairs >= 4


def test_an_edit_changes_every_colour_and_no_outline():
    for clip in (*CLIPS[:6], *map(toy_world.make_hard_clip, CLIPS[6:12])):
        edited = toy_world.redress(clip, clip.seed)
        assert torch.equal(edited.masks, clip.masks) and edited.scene == clip.scene
        assert edited.background.name != clip.background.name
        for before, after in zip(clip.things, edited.things, strict=True):
            assert before.surface.name != after.surface.name
        assert edited.caption == edited.full_caption
        assert toy_metrics.caption_accuracy(edited.frames, edited) == 1


def test_captions_parse_and_are_correct():
    incomplete = 0
    clips = [toy_world.generate_clip(seed) for seed in toy_world.HELD_OUT_SEEDS[:80]]
    for clip in (*clips, *map(toy_world.make_hard_clip, clips[:20])):
        parsed = toy_world.parse_caption(clip.caption)
        assert str(parsed) == clip.caption and parsed.patterned == (clip.background.edge == toy_world.HARD.edge)
        for (colour, kind), thing in zip(parsed.things, clip.things, strict=True):
            assert kind == thing.kind
            assert colour in (None, thing.surface.name)
        assert (parsed.background, parsed.scene) in ((None, None), (clip.background.name, clip.scene))
        incomplete += not parsed.patterned and (parsed.background is None or parsed.things[0][0] is None)
        ids = WordTokenizer()(clip.full_caption)["input_ids"]
        assert WordTokenizer().decode(ids) == clip.full_caption.replace(",", "") and len(ids) <= CONTEXT_LENGTH
    assert 12 <= incomplete <= 36


def test_other_captions_are_refused():
    with pytest.raises(ValueError, match="toy world"):
        toy_world.parse_caption("a photo of a cat")


def test_canny_outlines_are_closed():
    """A gap of one pixel, which Canny leaves where two outlines meet, counts as closed."""
    clips = map(toy_world.generate_clip, toy_world.HELD_OUT_SEEDS[:100])
    closed = [bool(outline_closed(toy_world.canny_hints(clip.frames), clip, gap=1).all()) for clip in clips]
    assert sum(closed) >= 95


def test_a_broken_outline_is_open():
    clip = next(clip for clip in CLIPS if len(clip.things) == 1)
    control = toy_world.canny_hints(clip.frames)
    assert outline_closed(control, clip).all()
    x, y = clip.things[0].motion.centre_at(0)
    control[0, round(y) :, round(x) - 3 : round(x) + 4] = 0
    assert not outline_closed(control, clip)[0]


def test_metrics_of_the_true_clip_are_near_perfect():
    """Half covered pixels and the smallest parts count against the overlap."""
    for clips in (CLIPS, [toy_world.make_hard_clip(clip) for clip in CLIPS]):
        overlaps = [toy_metrics.shape_iou(clip.frames, clip) for clip in clips]
        assert min(overlaps) > 0.9 and sum(overlaps) / len(overlaps) > 0.96
        assert all(toy_metrics.caption_accuracy(clip.frames, clip) in (1.0, None) for clip in clips)


def test_metrics_detect_errors():
    clip = next(clip for clip in CLIPS if " over " in clip.caption and len(clip.things) == 1)
    generator = torch.Generator().manual_seed(0)
    shade = torch.rand(toy_world.FRAMES, 1, 1, 3, generator=generator) * 0.2
    assert toy_metrics.measure_flicker((clip.frames + shade).clamp(0, 1), clip).ground > 0.03
    assert toy_metrics.shape_iou(clip.frames.roll(12, dims=2), clip) < 0.6
    assert toy_metrics.caption_accuracy(1 - clip.frames, clip) < 0.5
    blurred = (clip.frames[:, :, :-2] + clip.frames[:, :, 1:-1] + clip.frames[:, :, 2:]) / 3
    assert toy_metrics.sharpness(blurred) < 0.95 * toy_metrics.sharpness(clip.frames)
    assert not video_metrics.frame_difference(clip.frames[:1].expand_as(clip.frames)).any()

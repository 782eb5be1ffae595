"""The modern pair's clips, and the flicker that is added to them."""

import pytest
import torch

from research import modern_clips, toy_metrics
from research.toy_world import CLIP_KINDS

CLIPS = [modern_clips.held_out_clip(kind, number) for kind in CLIP_KINDS for number in range(3)]


def changes(frames: torch.Tensor, clip) -> tuple[float, float]:
    """The mean flicker of pairs of frames in one latent, and of pairs in different latents."""
    pairs = toy_metrics.measure_flicker_of_pairs(frames, clip)
    flicker = torch.tensor([(pair.shape + pair.ground) / 2 for pair in pairs])
    borders = torch.tensor([pair % modern_clips.PACKED_FRAMES == 0 for pair in range(len(frames) - 1)])
    return flicker[~borders].mean().item(), flicker[borders].mean().item()


def test_camera_speeds_and_length():
    assert {abs(clip.drift[0]) for clip in CLIPS} == set(modern_clips.DRIFTS)
    assert all(len(clip.frames) == modern_clips.FRAMES for clip in CLIPS)
    assert [modern_clips.latent_number(frame) for frame in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("flicker", modern_clips.FLICKERS)
def test_flicker_keeps_shapes_and_colours(flicker):
    for clip in CLIPS:
        frames = modern_clips.draw_with_flicker(clip, flicker, seed=0)
        assert torch.equal(frames, modern_clips.draw_with_flicker(clip, flicker, seed=0))
        assert not torch.equal(frames, modern_clips.draw_with_flicker(clip, flicker, seed=1))
        assert toy_metrics.shape_iou(frames, clip) > 0.85
        assert toy_metrics.caption_accuracy(frames, clip) in (None, 1)


def test_where_it_flickers():
    for clip in CLIPS:
        inside, border = changes(clip.frames, clip)
        new_latent, new_frame, wandering = (
            changes(modern_clips.draw_with_flicker(clip, flicker, seed=0), clip) for flicker in modern_clips.FLICKERS
        )
        assert new_latent[0] < 2 * inside + 0.002 and new_latent[1] > 2 * border
        assert new_frame[0] > 2 * inside and new_frame[1] > 2 * border
        assert inside < wandering[0] < 0.8 * new_frame[0]


def test_whether_the_background_follows_the_camera():
    for clip in CLIPS:
        still = clip.frames[:1].expand_as(clip.frames)
        assert toy_metrics.background_following(still, clip) < 0.05
        if abs(clip.drift[0]) >= 1:
            assert toy_metrics.background_following(clip.frames, clip) > 0.85
            noise = torch.rand(clip.frames.shape, generator=torch.Generator().manual_seed(0))
            assert abs(toy_metrics.background_following(noise, clip) - 0.5) < 0.1

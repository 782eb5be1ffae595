"""The verdict on videos: still, blurred or averaged videos do not pass. Also the checks of a report's videos."""

import pytest
import torch
from fixtures.sample_videos import averaged, blurred, flickering, moving, textured
from torch import Tensor

from bivdiff_core.measure.video_metrics import MeasuredClip, Reconstruction, frame_difference, measure_video
from research import toy_world


def measure(video: Tensor) -> dict[str, Tensor]:
    """The metrics of a video without a reference."""
    return measure_video(MeasuredClip.from_frames(video))


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[0]).frames


@pytest.fixture(scope="module")
def before(clip) -> dict[str, Tensor]:
    return measure(flickering(clip))


@pytest.fixture(scope="module")
def video_verdict(pack):
    return pack.import_module("nodes.video_verdict")


@pytest.fixture(scope="module")
def video_inputs(pack):
    return pack.import_module("nodes.video_inputs")


@pytest.fixture(scope="module")
def verdict_on(video_verdict):
    """Judges a video, given the metrics of the video before."""
    return lambda after, before: video_verdict.judge_video(measure(after), before)


@pytest.fixture(scope="module")
def verdict_with(video_verdict):
    """Judges a video, given its source and the video before."""

    def judge(source: Tensor, unsmoothed: Tensor, video: Tensor):
        clip, before, after = map(MeasuredClip.from_frames, (source, unsmoothed, video))
        metrics = measure_video(after, before, source=clip), measure_video(before, source=clip)
        return video_verdict.judge_video(*metrics, clip)

    return judge


def test_less_flicker_with_motion_and_sharpness_kept_is_a_gain(verdict_on, clip, before):
    verdict = verdict_on(clip, before)
    assert verdict.is_good and not verdict.warnings and verdict.headline.startswith("Steadier")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda clip: clip[:1].expand_as(clip), "stands still"),
        (blurred, "is blurred"),
        (lambda clip: clip.mean(dim=0, keepdim=True).expand_as(clip), "stands still and is blurred"),
    ],
    ids=["frozen", "blurred", "averaged"],
)
def test_a_still_or_blurred_video_is_no_gain(verdict_on, clip, before, damage, message):
    damaged = damage(clip)
    assert frame_difference(damaged).mean() < before["change"].mean()
    verdict = verdict_on(damaged, before)
    assert (
        verdict.is_good is False and verdict.headline.startswith("No clear gain") and verdict.headline.endswith(message)
    )
    assert len(verdict.warnings) == message.count("s ")


def test_the_same_video_is_no_gain(verdict_on, clip, before):
    verdict = verdict_on(flickering(clip), before)
    assert verdict.is_good is False and verdict.headline == "Not steadier"


def test_one_video_alone_gets_no_verdict(video_verdict, clip):
    assert video_verdict.judge_video(measure(clip), None).is_good is None
    still = video_verdict.judge_video(measure(clip[:1].expand(3, -1, -1, -1)), None)
    assert still.is_good is None and still.headline == "Almost nothing moves"


def independent_frames(video: Tensor) -> Tensor:
    """Another random texture in every frame, blended with a fifth of the video."""
    textures = torch.rand(video.shape, generator=torch.Generator().manual_seed(2))
    textures = torch.nn.functional.avg_pool2d(textures.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    return 0.8 * textures + 0.2 * video


@pytest.fixture(scope="module")
def source() -> Tensor:
    return moving(2, 6)


@pytest.fixture(scope="module")
def unsmoothed(source) -> Tensor:
    return independent_frames(source)


def new_texture(video: Tensor) -> Tensor:
    """Another texture that moves like the source."""
    return torch.stack([textured().flip(0).roll(2 * t, 1) for t in range(len(video))])


@pytest.fixture(scope="module")
def unrelated_frames() -> dict[str, Tensor]:
    """Metrics of a video whose frames have nothing in common: each is of another clip, every second upside down."""
    clips = [toy_world.held_out_clip("hard", number).frames for number in range(8)]
    return measure(torch.stack([frames[i].flip(0) if i % 2 else frames[i] for i, frames in enumerate(clips)]))


def test_unrelated_frames_before_give_no_verdict(video_verdict, verdict_on, clip, unrelated_frames):
    """Their flow is noise. A video that moves like its source would seem to have lost most of the motion."""
    motion = measure(clip)["motion"].mean()
    assert motion < video_verdict.MIN_MOTION_RATIO * unrelated_frames["motion"].mean()
    verdict = verdict_on(clip, unrelated_frames)
    assert verdict.is_good is None and verdict.headline.startswith("No verdict") and not verdict.warnings


def test_a_still_video_is_detected_without_its_source(verdict_on, clip, unrelated_frames):
    verdict = verdict_on(clip[:1].expand_as(clip), unrelated_frames)
    assert verdict.is_good is False and "stands still" in verdict.headline


def test_a_new_texture_that_follows_the_source_is_a_gain(verdict_with, source, unsmoothed):
    verdict = verdict_with(source, unsmoothed, new_texture(source))
    assert verdict.is_good and not verdict.warnings and verdict.headline.startswith("Steadier")
    assert verdict.notes[0].startswith("Sharpness is ") and "of the source" in verdict.notes[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda unsmoothed: new_texture(unsmoothed)[:1].expand_as(unsmoothed), "stands still"),
        (averaged, "double exposure"),
        (lambda unsmoothed: blurred(blurred(new_texture(unsmoothed))), "is blurred"),
    ],
    ids=["frozen", "averaged", "blurred"],
)
def test_with_the_source_the_verdict_names_the_loss(verdict_with, source, unsmoothed, damage, message):
    verdict = verdict_with(source, unsmoothed, damage(unsmoothed))
    assert verdict.is_good is False and message in verdict.headline


def test_the_unsmoothed_frames_are_not_steadier_than_themselves(verdict_with, source, unsmoothed):
    verdict = verdict_with(source, unsmoothed, unsmoothed)
    assert verdict.headline == "Not steadier"


def test_consistent_frames_without_their_flicker_are_no_double_exposure(verdict_with, clip):
    """The true clip is the ideal result for its tinted frames, and it is no average."""
    verdict = verdict_with(clip, flickering(clip), clip)
    assert verdict.is_good and not verdict.warnings


def test_with_a_still_source_a_still_video_is_no_loss(verdict_with):
    shot = moving(0, 5)
    verdict = verdict_with(shot, flickering(shot), shot)
    assert verdict.is_good and verdict.notes[0].startswith("The source stands still")


STILL, UNIFORM = "still", "uniform"


@pytest.fixture(scope="module")
def videos(clip) -> dict[str | None, Tensor]:
    clip = clip[:3]
    return {"moving": clip, STILL: clip[:1].expand_as(clip), UNIFORM: torch.full_like(clip, 0.4), None: None}


@pytest.mark.parametrize(
    ("before", "source"),
    # Compared along the motion of a source, a still video changes.
    [*((before, source) for before in (STILL, UNIFORM) for source in (None, STILL, UNIFORM)), (UNIFORM, "moving")],
)
@pytest.mark.parametrize("after", ["moving", STILL, UNIFORM])
def test_a_video_without_flicker_cannot_become_steadier(pack, videos, after, before, source):
    wired = {"images": videos[after], "reference_images": videos[before], "source_images": videos[source]}
    _, summary = pack.run("BIVDiffTemporalReport", **wired)
    assert summary.startswith("Not steadier: the frames before do not flicker")
    assert "nan" not in summary and "inf" not in summary


def test_sharpness_is_not_compared_with_a_uniform_source(pack, videos):
    wired = {"reference_images": flickering(videos["moving"]), "source_images": videos[UNIFORM]}
    _, summary = pack.run("BIVDiffTemporalReport", images=videos["moving"], **wired)
    assert "% of the frames before." in summary and "of the source" not in summary


@pytest.mark.parametrize("source", [None, STILL, UNIFORM])
@pytest.mark.parametrize("reference", [None, STILL, UNIFORM])
def test_a_sweep_may_hold_still_and_uniform_videos(pack, videos, reference, source):
    wired = {"reference_images": reference, "source_images": source}
    inputs = {name: [videos[key]] for name, key in wired.items() if key}
    _, plot = pack.run("BIVDiffSweepGrid", images=[videos[UNIFORM], videos[STILL], videos[UNIFORM]], **inputs)
    assert plot.isfinite().all() and plot.std() > 0.05


def test_the_verdict_says_at_how_many_pairs_motion_was_measured(video_verdict):
    found = measure(textured(16).expand(100, -1, -1, -1))
    assert "at 64 of 99 pairs" in video_verdict.judge_video(found, found).notes[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.rand(4, 48, 64, 3), "source_images has 4 frames but the video 3"),
        (torch.rand(3, 64, 64, 3), "another shape"),
        (torch.rand(1, 48, 64, 3), "expected a video of at least 2 frames, got 1"),
    ],
)
def test_sources_that_do_not_match_the_video_are_refused(video_inputs, source, message):
    with pytest.raises(ValueError, match=message):
        video_inputs.validate_source(source, torch.rand(3, 48, 64, 3))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.rand(1, 8, 8, 3), "expected a video of at least 2 frames, got 1"),
        (torch.rand(2, 1, 8, 3), "frames of 8x1 are too small to show motion"),
        (torch.rand(3, 8, 8, 3), "2 frames of 8x8 but another 3 frames of 8x8"),
        (torch.rand(2, 8, 16, 3), "2 frames of 8x8 but another 2 frames of 16x8"),
    ],
)
def test_videos_that_cannot_be_compared_are_refused(video_inputs, video, message):
    with pytest.raises(ValueError, match=message):
        video_inputs.validate_video(video, like=torch.rand(2, 8, 8, 3))


def test_alpha_is_left_out(video_inputs):
    assert video_inputs.validate_video(torch.rand(2, 8, 8, 4)).shape == (2, 8, 8, 3)


def test_the_vae_is_described_without_flicker_if_no_pair_was_measured(video_verdict):
    after = {"flicker": torch.tensor([0.002, 0.004])}
    measured, single = (
        video_verdict.describe_vae(Reconstruction(0.9, 0.8, flicker), after) for flicker in (1e-4, float("nan"))
    )
    assert (
        "keeps 80% of the sharpness, at a similarity of 0.900. It flickers by 0.00010; this video by 0.00300."
        in measured
    )
    assert "flickers" not in single and "80%" in single

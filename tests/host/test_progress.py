"""A node's progress bar, which counts steps times windows, and its previews."""

import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.node_calls import make_inputs


@pytest.fixture
def reports(monkeypatch):
    """(value, total, preview) of every progress report, without ComfyUI's rate limit."""
    reports = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)

    def report(value, total, preview, node_id=None) -> None:
        reports.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", report)
    return reports


@pytest.fixture
def show_previews(monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)


def test_chunks_are_counted(pack, reports):
    """5 frames in chunks of 2 are 3 windows, in each of 4 steps."""
    pack.run(
        "BIVDiffFrameSampler",
        model=tiny.sd_model(),
        positive=tiny.text(),
        negative=tiny.text(seed=9),
        latent_image={"samples": tiny.make_latent(5, 4, 8, 8)["samples"] * 0},
        steps=4,
        scheduler="normal",
        frames_per_batch=2,
    )
    assert [(value, total) for value, total, _ in reports] == [(i, 12) for i in range(1, 13)]


@pytest.mark.parametrize("solver", ["ddim", "fixed_point"])
def test_a_whole_clip_counts_its_steps(pack, reports, solver):
    pack.run(
        "BIVDiffInvertVideo",
        model=tiny.video_model(pack),
        conditioning=tiny.text(),
        latent=tiny.make_latent(5, 4, 8, 8),
        steps=6,
        scheduler="normal",
        solver=solver,
    )
    assert [(value, total) for value, total, _ in reports] == [(i, 6) for i in range(1, 7)]


def test_every_step_shows_a_frame(pack, reports, show_previews):
    pack.run(
        "BIVDiffInvertImage",
        model=tiny.sd_model(),
        conditioning=tiny.text(),
        latent=tiny.make_latent(3, 4, 8, 8),
        steps=5,
        scheduler="normal",
        solver="ddim",  # one model call a step
        frames_per_batch=1,
    )
    assert [preview is not None for _, _, preview in reports] == [False, False, True] * 5


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 4, 3, 8, 8)], ids=["batch", "clip"])
def test_each_step_shows_the_next_frame(pack, reports, show_previews, shape):
    dim = shape.index(3)
    levels = torch.tensor([-1.0, 0.0, 1.0]).view([3 if i == dim else 1 for i in range(len(shape))])
    progress = pack.import_module("bivdiff_core.host.sampling_progress").SamplingProgress(7, is_inversion=False)
    progress.start_run(tiny.sd_model())
    for step in range(7):
        progress(step, levels.expand(shape), levels.expand(shape), 7)
    colours = [image.getpixel((4, 4)) for _, _, (_, image, _) in reports]
    assert len(set(colours[:3])) == 3
    assert colours[3:] == [*colours[:3], colours[0]]


def test_an_inversion_previews_its_latent_with_the_caption_noise(pack, reports, show_previews):
    model = tiny.sd_model()
    settings = {"model": model, "steps": 5, "scheduler": "normal"}
    clip = tiny.make_latent(3, 4, 16, 16)
    (inverted,) = pack.run("BIVDiffInvertImage", conditioning=tiny.text(), latent=clip, **settings)
    steps_of_inversion = len(reports)
    text = {"positive": tiny.text(), "negative": tiny.text(seed=9)}
    pack.run("BIVDiffFrameSampler", latent_image=clip, **text, **settings)
    previews = [image for _, _, (_, image, _) in reports]

    frame = inverted["samples"][[(steps_of_inversion - 1) % 3]]
    previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
    expected = previewer.decode_latent_to_preview(frame / frame.std()).resize((16, 16))
    last = previews[steps_of_inversion - 1]
    shown = last.crop((0, 0, last.width, last.height * 3 // 4)).resize((16, 12), resample=4)
    difference = np.abs(np.asarray(shown, float) - np.asarray(expected, float)[:12])
    assert difference.mean() < 20
    for preview in previews[:steps_of_inversion]:
        caption = np.asarray(preview.crop((0, preview.height * 19 // 20, preview.width, preview.height)))
        assert caption.min() == 0 and caption.max() == 255
        assert np.ptp(caption, axis=-1).max() == 0, "the caption is not black and white"
    assert {preview.size for preview in previews[steps_of_inversion:]} == {(16, 16)}, "the preview is not ComfyUI's"


class AnimatedPreviewer(latent_preview.LatentPreviewer):
    """Like the animated previews of VideoHelperSuite (1.7.9, 2026-05): it sends images itself and returns none."""

    def decode_latent_to_preview_image(self, preview_format, x0):
        return None


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffFrameSampler"])
def test_a_previewer_may_return_no_image(pack, reports, monkeypatch, node_id):
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: AnimatedPreviewer())
    pack.run(node_id, **make_inputs(node_id, tiny.as_video_model(tiny.sd_model()), tiny.make_latent(3, 4, 8, 8)))
    assert [(value, total, preview) for value, total, preview in reports] == [(i, 4, None) for i in range(1, 5)]

"""Report nodes: their results and errors for real latents and videos."""

import json

import comfy.clip_vision
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.node_calls import run_node
from torch import Tensor

from research import toy_world

VISION = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "projection_dim": 16,
}


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames[:4]


def is_plot(plot: Tensor) -> bool:
    """Whether a plot is one RGB image with content."""
    return plot.ndim == 4 and plot.shape[0] == 1 and plot.shape[3] == 3 and plot.std() > 0.05 and plot.max() > 0.8


@pytest.mark.parametrize("shape", [(8, 4, 16, 16), (1, 16, 5, 8, 8), (5, 16, 1, 8, 8), (1, 4, 16, 16)])
def test_healthy_noise_raises_no_alarm(pack, shape):
    plot, summary, alarm = pack.run("BIVDiffLatentReport", latent={"samples": noise(*shape)})
    assert is_plot(plot) and summary.startswith("Healthy") and alarm is False


def test_the_advice_depends_on_the_node_that_made_the_latent(pack):
    weak = tiny.make_inverted_latent(pack, 0.6 * noise(8, 4, 16, 16), branch="mix")
    _, summary, alarm = pack.run("BIVDiffLatentReport", latent=weak)
    assert alarm is False and "lost variance" in summary and "variance_preserving" in summary
    weak["samples"][2] *= 0.4
    broken = tiny.make_inverted_latent(pack, weak["samples"], branch="image", strength=0.5)
    _, summary, alarm = pack.run("BIVDiffLatentReport", latent=broken)
    assert alarm is True and summary.startswith("Alarm: one bad frame")


def test_frames_that_were_never_inverted_raise_the_alarm(pack):
    _, summary, alarm = pack.run("BIVDiffLatentReport", latent={"samples": torch.zeros(4, 4, 8, 8)})
    assert alarm is True and "not an inverted latent" in summary


def test_inversions_record_their_branch_and_strength(pack):
    inputs = {"conditioning": tiny.text(), "latent": tiny.make_latent(4, 4, 8, 8), "steps": 3, "strength": 0.6}
    (latent,) = pack.run("BIVDiffInvertImage", model=tiny.sd_model(), **inputs)
    _, summary, _ = pack.run("BIVDiffLatentReport", latent=latent)
    assert "Below a strength of 1" in summary and "does not say where" not in summary


def test_invalid_latents_and_videos_are_rejected(pack):
    broken = noise(4, 4, 8, 8)
    broken[2, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^Inverted Latent Report: frame 2 is not finite"):
        pack.run("BIVDiffLatentReport", latent={"samples": broken})
    with pytest.raises(ValueError, match="^Inverted Latent Report: the latent holds no frames"):
        pack.run("BIVDiffLatentReport", latent={"samples": noise(0, 4, 8, 8)})
    with pytest.raises(ValueError, match="^Temporal Report: expected a video of at least 2 frames, got 1"):
        pack.run("BIVDiffTemporalReport", images=torch.rand(1, 64, 64, 3))


def test_a_frozen_video_is_not_a_gain(pack, clip):
    frozen = clip[:1].expand_as(clip)
    plot, summary = pack.run("BIVDiffTemporalReport", images=frozen, reference_images=clip)
    assert is_plot(plot) and summary.startswith("No clear gain: steadier, but the video stands still.")
    assert "Motion fell to 0%" in summary and "similarity: " in summary and "consistency" not in summary


def test_with_the_source_an_average_is_recognized(pack):
    """Averages of adjacent frames of different scenes look stable in all measures that do not use the source."""
    source = toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames
    unrelated = torch.stack(
        [toy_world.generate_clip(seed).frames[0] for seed in toy_world.HELD_OUT_SEEDS[: len(source)]]
    )
    average = torch.cat((unrelated[:1], (unrelated[1:] + unrelated[:-1]) / 2))
    wired = {"reference_images": unrelated, "source_images": source.repeat_interleave(2, 1).repeat_interleave(2, 2)}
    plot, summary = pack.run("BIVDiffTemporalReport", images=average, **wired)
    assert is_plot(plot) and "double exposure" in summary.splitlines()[0]
    assert "doubling: " in summary and "following: " in summary
    stable_plot, stable_summary = pack.run("BIVDiffTemporalReport", images=source, **wired)
    assert is_plot(stable_plot) and stable_summary.startswith("Steadier: flicker fell by ")


def test_a_source_with_other_frames_is_rejected(pack, clip):
    with pytest.raises(ValueError, match="^Temporal Report: source_images has 3 frames but the video 4"):
        pack.run("BIVDiffTemporalReport", images=clip, source_images=clip[:3])
    with pytest.raises(ValueError, match="^Temporal Report: source_images is .* another shape"):
        pack.run("BIVDiffTemporalReport", images=clip, source_images=clip[:, :32])


@pytest.mark.parametrize(
    ("node_id", "inputs"),
    [
        ("BIVDiffTemporalReport", {"images": ["large", 0]}),
        ("BIVDiffAverageAlongMotion", {"images": ["large", 0], "motion_from": ["large", 0], "reach": 1}),
    ],
)
def test_cancelling_stops_a_measurement_after_the_current_pair_of_frames(server, node_id, inputs):
    large = {"upscale_method": "bicubic", "width": 256, "height": 256, "crop": "disabled"}
    nodes = {
        "clip": ("BIVDiffDemoClip", {"frames": 8}),
        "frames": ("GetVideoComponents", {"video": ["clip", 0]}),
        "large": ("ImageScale", {"image": ["frames", 0], **large}),
        "measured": (node_id, inputs),
        "shown": ("PreviewImage", {"images": ["measured", 0]}),
    }
    pairs = []

    def watch(event: str, content: dict) -> None:
        if event == "progress" and content["node"] == "measured":
            pairs.append((content["value"], content["max"]))
            if len(pairs) == 2:
                server.interrupt()

    result = server.run({key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in nodes.items()}, watch)
    assert result.interrupted and "measured" not in result.outputs and "shown" not in result.executed
    assert [steps for _, steps in pairs[:2]] == [15, 15] and len(pairs) <= 3  # 8 frames and 7 pairs


def test_the_report_names_the_cuts_and_the_frame_that_flickers_most(pack, clip):
    """The tinted frame is the worst one, because the pair across the cut does not count."""
    other = toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[2]).frames[:4]
    source = torch.cat([clip, other])
    tinted = source.clone()
    tinted[6:] = (tinted[6:] + torch.tensor([0.15, 0.0, -0.15])).clamp(0, 1)
    output = pack.classes["BIVDiffTemporalReport"].execute(images=tinted, reference_images=tinted, source_images=source)
    _, summary = output.result
    assert "The whole picture changes at frame 4: " in summary and "Frame 6 flickers most: " in summary
    assert output.ui["worst_frame"] == [6]
    still = source[:1].expand(4, -1, -1, -1)
    assert pack.classes["BIVDiffTemporalReport"].execute(images=still).ui["worst_frame"] == [None]


def test_frame_consistency_uses_clips_embeddings(pack, clip, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(VISION))
    vision = comfy.clip_vision.ClipVisionModel(str(tmp_path / "config.json"))
    tiny.randomize(vision.model, 9)
    plot, summary = pack.run("BIVDiffTemporalReport", images=clip, clip_vision=vision)
    embeddings = torch.nn.functional.normalize(vision.encode_image(clip)["image_embeds"])
    expected = (embeddings[1:] * embeddings[:-1]).sum(dim=1).mean()
    assert is_plot(plot) and f"consistency: {expected:.3f} " in summary
    assert "similarity" not in summary


@pytest.mark.parametrize("source", [None, "same size", "other size"])
def test_the_report_tells_what_the_vae_costs(pack, clip, source):
    vae = pack.run("BIVDiffDemoModels", variant="base")[3]
    wired = {None: {}, "same size": {"source_images": clip}, "other size": {"source_images": clip[:, ::2, ::2]}}[source]
    _, summary = pack.run("BIVDiffTemporalReport", images=clip, vae=vae, **wired)
    (line,) = (line for line in summary.splitlines() if line.startswith("The VAE alone keeps "))
    assert 0.9 < float(line.split("similarity of ")[1].split(".")[1][:3]) / 1000 < 1 and "It flickers by 0.0" in line


def test_a_report_warns_of_colours_that_drift(pack):
    clip = toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames
    drifted = (clip + torch.linspace(0, 0.1, len(clip))[:, None, None, None]).clamp(0, 1)
    _, summary = pack.run("BIVDiffTemporalReport", images=drifted, reference_images=clip)
    assert "The colours drift by " in summary and "Post-Process SeedVR2 Output" in summary
    assert "The colours drift" not in pack.run("BIVDiffTemporalReport", images=clip, reference_images=clip)[1]


def test_the_sweep_grid_shows_the_reference_frames(pack, clip):
    videos = [clip, clip[:1].expand_as(clip)]
    grid, plot = pack.run("BIVDiffSweepGrid", images=videos, ratios=[0.0, 1.0], reference_images=[clip])
    assert is_plot(plot) and len(grid) == len(clip) and grid.shape[2] == 2 * 192  # before, 0, 1 in two columns
    alone, other = pack.run("BIVDiffSweepGrid", images=videos, ratios=[0.0, 1.0])
    assert is_plot(other) and alone.shape[1] < grid.shape[1]
    _, along = pack.run(
        "BIVDiffSweepGrid", images=videos, ratios=[0.0, 1.0], reference_images=[clip], source_images=[clip.flip(2)]
    )
    assert is_plot(along) and not torch.equal(along, plot)


def test_the_sweep_grid_does_not_measure_across_cuts(pack, clip):
    sweep = pack.import_module("nodes.sweep")
    cut = torch.cat((clip, clip.flip(2)))
    _, flicker, *_ = sweep.compare_videos([cut], cut)
    _, parts, *_ = sweep.compare_videos([clip, clip.flip(2)], clip)
    assert flicker[0] == pytest.approx(sum(parts) / 2, rel=0.1)


def test_the_sweep_grid_labels_its_videos_with_words_or_numbers(pack, clip):
    """The caption is the label, else the ratio, else the video's number."""
    videos = [clip, clip[:1].expand_as(clip)]
    wired = {
        "words": {"labels": ["slerp", "linear"]},
        "words before ratios": {"labels": ["slerp", "linear"], "ratios": [0.5, 0.5]},
        "ratios": {"ratios": [0.5, 0.5]},
        "nothing": {},
        "numbers": {"labels": ["video 1", "video 2"]},
    }
    grids = {name: pack.run("BIVDiffSweepGrid", images=videos, **inputs)[0] for name, inputs in wired.items()}
    assert torch.equal(grids["words"], grids["words before ratios"])
    assert torch.equal(grids["nothing"], grids["numbers"])
    for other in ("ratios", "nothing"):
        changed = (grids["words"] != grids[other]).any(dim=-1).any(dim=0)
        assert changed[:24].any() and not changed[24:].any()  # only the captions differ


def test_videos_whose_labels_no_font_can_show_are_numbered(pack, clip):
    inputs = {"images": [clip, clip[:1].expand_as(clip)]}
    shown = run_node(pack, "BIVDiffSweepGrid", labels=["\ufdd0", "b"], **inputs)  # a noncharacter
    assert "No installed font has all characters of the labels" in shown.ui["text"][0]
    numbered = pack.run("BIVDiffSweepGrid", **inputs)
    assert all(map(torch.equal, shown.args, numbered))


def test_a_sweep_with_mismatched_inputs_is_rejected(pack, clip):
    with pytest.raises(ValueError, match="^Sweep Grid: 2 videos arrived with 1 ratios"):
        pack.run("BIVDiffSweepGrid", images=[clip, clip], ratios=[0.5])
    with pytest.raises(ValueError, match="^Sweep Grid: 2 videos arrived with 3 labels. Wire labels"):
        pack.run("BIVDiffSweepGrid", images=[clip, clip], ratios=[0.5, 0.5], labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="^Sweep Grid: source_images has 3 frames but the video 4"):
        pack.run("BIVDiffSweepGrid", images=[clip, clip], ratios=[0.5, 1.0], source_images=[clip[:3]])
    with pytest.raises(ValueError, match="^Sweep Grid: one video is 4 frames of 64x64 but another 3 frames"):
        pack.run("BIVDiffSweepGrid", images=[clip, clip[:3]], ratios=[0.5, 1.0])

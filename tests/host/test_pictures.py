"""IMAGEs of another layout, or with frames that are not finite, are refused where a node begins."""

import pytest
import torch
from fixtures import tiny_models as tiny
from torch import Tensor

from research import toy_world

NAMES = {
    "BIVDiffTemporalReport": "Temporal Report",
    "BIVDiffAverageAlongMotion": "Average Along Motion",
    "BIVDiffSweepGrid": "Sweep Grid",
    "BIVDiffCompareVideos": "Compare Videos",
    "BIVDiffEncodeFrames": "Encode Frames",
}
IMAGE_INPUTS = [
    ("BIVDiffTemporalReport", "images"),
    ("BIVDiffTemporalReport", "reference_images"),
    ("BIVDiffTemporalReport", "source_images"),
    ("BIVDiffAverageAlongMotion", "images"),
    ("BIVDiffAverageAlongMotion", "motion_from"),
    ("BIVDiffSweepGrid", "images"),
    ("BIVDiffSweepGrid", "reference_images"),
    ("BIVDiffSweepGrid", "source_images"),
    ("BIVDiffCompareVideos", "before"),
    ("BIVDiffCompareVideos", "after"),
    ("BIVDiffEncodeFrames", "images"),
]
every_input = pytest.mark.parametrize(("node_id", "name"), IMAGE_INPUTS)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames[:4]


@pytest.fixture(scope="module")
def image_vae():
    return tiny.image_vae()


@pytest.fixture
def run(pack, clip, image_vae):
    """Runs a node of `IMAGE_INPUTS` on the clip, with another value for one input."""

    def run_with(node_id: str, name: str, images: Tensor):
        inputs = {input_name: clip for node, input_name in IMAGE_INPUTS if node == node_id} | {name: images}
        if node_id == "BIVDiffSweepGrid":
            inputs = {key: [value] for key, value in inputs.items()}
            inputs["images"] = [clip, *inputs["images"]]
        if node_id == "BIVDiffEncodeFrames":
            inputs["vae"] = image_vae
        return pack.run(node_id, **inputs)

    return run_with


@every_input
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_frame_that_is_not_finite_is_named(run, clip, node_id, name, value):
    broken = clip.clone()
    broken[2, 10, 20, 1] = value
    shown_name = "video 2 of images" if node_id == "BIVDiffSweepGrid" and name == "images" else name
    with pytest.raises(ValueError, match=f"^{NAMES[node_id]}: frame 2 of {shown_name} is not finite"):
        run(node_id, name, broken)


@every_input
@pytest.mark.parametrize("layout", ["grey", "mask", "two channels"])
def test_another_layout_is_refused(run, clip, node_id, name, layout):
    images = {"grey": clip[..., :1], "mask": clip[..., 0], "two channels": clip[..., :2]}[layout]
    with pytest.raises(ValueError, match=f"^{NAMES[node_id]}: .*{'x'.join(map(str, images.shape))}.*Mask to Image"):
        run(node_id, name, images)


@every_input
def test_alpha_is_accepted(run, clip, node_id, name):
    run(node_id, name, torch.cat([clip, torch.ones_like(clip[..., :1])], dim=-1))

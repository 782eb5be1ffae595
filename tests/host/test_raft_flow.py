"""Optical flow by RAFT: torchvision's raft_large with random weights, in the form that ComfyUI's loader gives it."""

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from torch import Tensor
from torchvision.models.optical_flow import raft_large

from bivdiff_core.host.raft_flow import make_raft_estimator
from bivdiff_core.measure.optical_flow import Computation, average_along_flow
from research import toy_world


@pytest.fixture(scope="module")
def optical_flow():
    torch.manual_seed(4)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(raft_large().eval(), load_device=device, offload_device=device)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return toy_world.generate_clip(toy_world.HELD_OUT_SEEDS[1]).frames[:3]


def resize(images: Tensor, size: int) -> Tensor:
    """Images `[N, H, W, C]` at another size."""
    resized = torch.nn.functional.interpolate(images.movedim(-1, 1), size=size, mode="bilinear", align_corners=False)
    return resized.movedim(1, -1)


def test_it_gives_the_flow_of_comfyuis_own_wrapper(optical_flow, clip):
    """Which takes one pair at a time. Frames smaller than RAFT accepts are enlarged, and their flow is shorter."""
    wrapper = pytest.importorskip("comfy_extras.void_noise_warp").RaftOpticalFlow(optical_flow.model)
    estimate = make_raft_estimator(optical_flow)
    large = resize(clip, 128).movedim(-1, 1)
    expected = torch.stack([wrapper(*pair) for pair in zip(large[1:], large[:-1], strict=True)]).movedim(1, -1)
    with torch.inference_mode():
        found = estimate(resize(clip, 128)[1:], resize(clip, 128)[:-1])
        small = estimate(clip[1:], clip[:-1])
    scale = expected.abs().mean()
    assert scale > 0.1
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-3)
    torch.testing.assert_close(small / scale, resize(expected, 64) / 2 / scale, rtol=0, atol=1e-3)


def test_sides_that_raft_does_not_take(optical_flow, clip):
    """Each flow is in pixels of the frames, whatever RAFT computes with."""
    with torch.inference_mode():
        flow = make_raft_estimator(optical_flow)(clip[1:, :45, :59], clip[:-1, :45, :59])
    assert flow.shape == (2, 45, 59, 2) and flow.isfinite().all()


def test_the_nodes_use_it(pack, optical_flow, clip):
    averaged, share = pack.run(
        "BIVDiffAverageAlongMotion", images=clip, motion_from=clip, reach=1, optical_flow=optical_flow
    )
    with torch.inference_mode():
        expected = average_along_flow(clip, clip, 1, Computation(estimate_flow=make_raft_estimator(optical_flow)))
    assert torch.equal(averaged, expected[0]) and torch.equal(share, expected[1])
    videos = {"images": clip, "reference_images": clip.flip(0)}
    plain, wired = (
        pack.run("BIVDiffTemporalReport", **videos, **extra)[1] for extra in ({}, {"optical_flow": optical_flow})
    )
    assert measured(plain, "motion") != measured(wired, "motion")
    assert measured(plain, "sharpness") == measured(wired, "sharpness")
    lists = {"images": [clip, clip[:1].expand_as(clip)], "ratios": [0.0, 1.0]}
    plain, wired = (
        pack.run("BIVDiffSweepGrid", **lists, **extra)[1] for extra in ({}, {"optical_flow": [optical_flow]})
    )
    assert not torch.equal(plain, wired)


def measured(summary: str, metric: str) -> str:
    """The line of a metric in a report's summary."""
    (line,) = (line for line in summary.splitlines() if line.startswith(f"{metric}: "))
    return line

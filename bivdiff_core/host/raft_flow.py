"""Optical flow by RAFT (Teed and Deng, ECCV 2020), with a model from ComfyUI's Load Optical Flow Model."""

from __future__ import annotations

import comfy.model_management
from torch import Tensor
from torch.nn.functional import interpolate

from ..measure.optical_flow import FlowEstimator
from .comfy_types import OpticalFlow

MIN_SIDE, SIDE_MULTIPLE = 128, 8
"""Shortest side that RAFT accepts, and what each side must be a multiple of (torchvision's `raft_large`)."""


def make_raft_estimator(optical_flow: OpticalFlow) -> FlowEstimator:
    """The `FlowEstimator` of an OPTICAL_FLOW, whose model is torchvision's RAFT."""

    def estimate(reference: Tensor, moving: Tensor) -> Tensor:
        # ComfyUI may have offloaded it for another model since the last call.
        comfy.model_management.load_model_gpu(optical_flow)
        # With little memory ComfyUI loads a part of a model's weights, which torchvision's layers do not support.
        optical_flow.model.to(optical_flow.load_device)
        size = reference.shape[1:3]
        enlargement = max(1, MIN_SIDE / min(size))
        height, width = (max(MIN_SIDE, round(side * enlargement / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in size)
        images = [
            interpolate(frames.movedim(-1, 1), size=(height, width), mode="bilinear", align_corners=False) * 2 - 1
            for frames in (reference, moving)
        ]
        flow = optical_flow.model(*images)[-1]
        flow = interpolate(flow, size=size, mode="bilinear", align_corners=False).movedim(1, -1)
        return flow * flow.new_tensor([size[1] / width, size[0] / height])

    return estimate

"""Frames in core's samplers: starting noise for frames, and models that run frames in chunks."""

from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.host.comfy_types import Latent, Model
from ..bivdiff_core.host.stages import make_frame_noise
from ..bivdiff_core.host.validation import set_frame_chunks, validate_samples
from . import shared_inputs
from .base import PackNode, prefix_errors


class _FrameNoiseSource:
    """NOISE for a batch of frames, related as `mode` says."""

    def __init__(self, seed: int, mode: str):
        self.seed = seed
        self.mode = mode

    def generate_noise(self, latent: Latent) -> Tensor:
        with prefix_errors(FrameNoise):
            return make_frame_noise(validate_samples(latent), latent.get("batch_index"), self.seed, self.mode)


class FrameNoise(PackNode):
    """Starting noise for frames, for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffFrameNoise",
            display_name="Frame Noise",
            category=shared_inputs.CATEGORY,
            description="Starting noise for a batch of frames, for SamplerCustomAdvanced. How frames share it decides "
            "how much they differ before smoothing.",
            search_aliases=["shared noise", "random noise frames", "progressive noise", "video noise"],
            inputs=[shared_inputs.seed_input(), shared_inputs.frame_noise_input("mode")],
            outputs=[
                io.Noise.Output(
                    display_name="NOISE", tooltip="Generated for the whole clip, so the chunk size does not change it."
                )
            ],
        )

    @classmethod
    def run(cls, seed: int, mode: str) -> io.NodeOutput:
        return io.NodeOutput(_FrameNoiseSource(seed, mode))


class FrameChunks(PackNode):
    """Patches a MODEL to run frames in chunks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffFrameChunks",
            display_name="Frame Chunks",
            category=shared_inputs.CATEGORY,
            description="Lets any sampler and guider process more frames than fit in memory: the model runs one chunk "
            "of frames at a time, with the ControlNet hints, masks and per-frame conditioning of these frames. For "
            "image models; a video model would lose the motion between chunks.",
            search_aliases=["batch chunks", "frames per batch", "low vram frames"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An image model. If it already has context windows, they are used instead of chunks.",
                ),
                shared_inputs.frames_per_batch_input(advanced=False),  # the node's only control
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The patched model, for KSampler or a guider.")],
        )

    @classmethod
    def run(cls, model: Model, frames_per_batch: int) -> io.NodeOutput:
        return io.NodeOutput(set_frame_chunks(model, frames_per_batch))

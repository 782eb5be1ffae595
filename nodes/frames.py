"""Small parts around the chain: noise for frames, chunks for core samplers, frames out of a clip."""

from comfy_api.latest import io

from ..bivdiff_core.host import sampling
from . import controls


class _FrameNoise:
    """NOISE whose frames are related."""

    def __init__(self, seed: int, mode: str):
        self.seed = seed
        self.mode = mode

    def generate_noise(self, latent: dict):
        return sampling.frame_noise(latent, self.seed, self.mode)


class FrameNoise(io.ComfyNode):
    """Noise for SamplerCustomAdvanced over frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffFrameNoise",
            display_name="Frame Noise",
            category=controls.CATEGORY,
            description="Starting noise for a batch of frames, for SamplerCustomAdvanced. How frames share it decides "
            "how much they differ before any smoothing.",
            search_aliases=["shared noise", "random noise frames", "progressive noise", "video noise"],
            inputs=[controls.seed(), controls.frame_noise("mode")],
            outputs=[
                io.Noise.Output(display_name="NOISE", tooltip="Made for the whole clip, whatever the chunk size.")
            ],
        )

    @classmethod
    def execute(cls, seed, mode) -> io.NodeOutput:
        return io.NodeOutput(_FrameNoise(seed, mode))


class FrameChunks(io.ComfyNode):
    """Frame chunks as a patch of a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffFrameChunks",
            display_name="Frame Chunks",
            category=controls.CATEGORY,
            description="Lets any sampler and guider take more frames than fit in memory: the model runs them a chunk "
            "at a time, with ControlNet hints, masks and per-frame conditioning following their frames. For image "
            "models; a video model would lose the motion between chunks.",
            search_aliases=["batch chunks", "frames per batch", "low vram frames"],
            inputs=[
                io.Model.Input("model", tooltip="An image model. Context windows that it brings stay in force."),
                controls.FRAMES_PER_BATCH,
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model for KSampler or a guider.")],
        )

    @classmethod
    def execute(cls, model, frames_per_batch) -> io.NodeOutput:
        return io.NodeOutput(sampling.image_branch(model, frames_per_batch))


class SelectFrames(io.ComfyNode):
    """Frames out of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSelectFrames",
            display_name="Select Frames",
            category=controls.CATEGORY,
            description="Takes every so many frames of a clip and says at what rate they play. Video models know clips "
            "of 8 to 32 frames; the paper takes every fourth frame, 8 of them.",
            search_aliases=["frame stride", "skip frames", "trim video", "every nth frame"],
            inputs=[
                io.Image.Input("images", tooltip="The frames of a clip, from Get Video Components."),
                io.Int.Input(
                    "start", default=0, min=0, max=1 << 20, tooltip="The first frame to take, counted from 0."
                ),
                io.Int.Input(
                    "stride",
                    default=4,
                    min=1,
                    max=1 << 20,
                    tooltip="Take every so many frames. 1 takes all; larger strides show the video model more motion.",
                ),
                io.Int.Input(
                    "count", default=0, min=0, max=1 << 20, tooltip="How many frames to take; 0 takes all there are."
                ),
                io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.01, tooltip="The clip's frame rate."),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames taken."),
                io.Float.Output(display_name="fps", tooltip="The rate at which they play at the clip's own speed."),
            ],
        )

    @classmethod
    def execute(cls, images, start, stride, count, fps) -> io.NodeOutput:
        frames = images[start::stride]
        if count > len(frames) or not len(frames):
            raise ValueError(
                f"Select Frames: the clip has {len(images)} frames, which gives {len(frames)} from frame {start} on at "
                f"a stride of {stride}, but {count or 'some'} are wanted. Lower start, stride or count."
            )
        return io.NodeOutput(frames[: count or None], fps / stride)

"""The frames of a clip: which are taken, how they are encoded, and their averages along the motion."""

from functools import partial

import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.host.comfy_types import VAE
from ..bivdiff_core.host.encoding import ENCODE_MODES, encode_frames
from ..bivdiff_core.measure import video_metrics
from ..bivdiff_core.measure.audio_cuts import cut_audio
from ..bivdiff_core.measure.optical_flow import average_along_flow
from . import shared_inputs
from .base import PackNode


class SelectFrames(PackNode):
    """Frames out of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSelectFrames",
            display_name="Select Frames",
            category=shared_inputs.CATEGORY,
            description="Takes every n-th frame of a clip, with the sound, and says at what rate they play. "
            "Video models know clips of 8 to 32 frames; the paper takes every fourth frame, 8 of them.",
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
                    tooltip="Take every n-th frame. 1 takes all; larger strides show the video model more motion.",
                ),
                io.Int.Input(
                    "count", default=0, min=0, max=1 << 20, tooltip="How many frames to take; 0 takes all there are."
                ),
                io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.01, tooltip="The clip's frame rate."),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The clip's sound, from Get Video Components like fps, which places the frames in it. A "
                    "clip of variable frame rate has only an average fps: its sound may be off.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The frames taken."),
                io.Float.Output(display_name="fps", tooltip="The rate at which they play at the clip's own speed."),
                io.Audio.Output(
                    display_name="audio",
                    tooltip="The sound from the first frame taken on, as long as the frames play; for Create Video.",
                ),
            ],
        )

    @classmethod
    def run(
        cls, images: Tensor, start: int, stride: int, count: int, fps: float, audio: dict | None = None
    ) -> io.NodeOutput:
        frames = images[start::stride]
        if count > len(frames) or not len(frames):
            if len(images) == 1:
                raise ValueError(
                    "got one picture, expected the frames of a clip. Wire in all of them: from Get Video Components, "
                    "or several pictures through Batch Images."
                )
            fewer = ", stride or count" if len(frames) > 1 else " or stride, or take a longer clip"
            raise ValueError(
                f"the clip has {len(images)} frames, which gives {len(frames)} from frame {start} on at a stride of "
                f"{stride}, expected {count or 'at least 1'}. Lower start{fewer}."
            )
        frames = frames[: count or None]
        if audio is not None:
            rate = audio["sample_rate"]
            waveform = cut_audio(audio["waveform"], rate, fps, start, start + len(frames) * stride)
            audio = {"waveform": waveform, "sample_rate": rate}
        return io.NodeOutput(frames, fps / stride, audio)


class EncodeFrames(PackNode):
    """Frames into latents, whole clips or frame by frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffEncodeFrames",
            display_name="Encode Frames",
            category=shared_inputs.CATEGORY,
            description="VAE Encode for the frames of a clip. Video VAEs (Wan, LTX, HunyuanVideo) pack several frames "
            "in one latent; here they can also encode every frame on its own, for the image branch. Frames or edges "
            "that the VAE would silently drop are an error.",
            search_aliases=["vae encode video", "vae encode frames", "image to latent", "single frames"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model that will invert the frames."),
                io.Image.Input(
                    "images", tooltip="The frames of a clip, their sides a multiple of the VAE's (8, 16 or 32)."
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=1 << 20,
                    tooltip="Take every n-th frame. 1 takes all. With single_frames set 4 for Wan and HunyuanVideo and "
                    "8 for LTX: that gives as many latents as mode clip does.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(ENCODE_MODES),
                    default="clip",
                    tooltip="clip: all frames together, for DDIM Inverse (Video). single_frames: each as a clip of "
                    "length 1, for DDIM Inverse (Image) with a video model. VAEs for single images give the same in "
                    "both.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="A clip for the video branch, or its frames for the image branch. Mixed Inversion Blend "
                    "joins the two if their counts are equal.",
                )
            ],
        )

    @classmethod
    def run(cls, vae: VAE, images: Tensor, stride: int, mode: str) -> io.NodeOutput:
        return io.NodeOutput({"samples": encode_frames(vae, images[::stride], mode)})


class AverageAlongMotion(PackNode):
    """Frames averaged with their neighbours, each carried to its place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffAverageAlongMotion",
            display_name="Average Along Motion",
            category=shared_inputs.CATEGORY,
            description="Averages every frame with its neighbours, moved along the motion of a clip: the cheapest way "
            "to reduce flicker, without any model. Frames drawn one by one come out soft, as double exposures. Use it "
            "on frames that nearly agree, or as a baseline.",
            search_aliases=["optical flow", "deflicker", "motion compensated", "temporal average", "temporal denoise"],
            inputs=[
                io.Image.Input("images", tooltip="The frames to average, decoded."),
                io.Image.Input(
                    "motion_from",
                    tooltip="The clip whose motion to follow, with the same frames taken: the one that the frames were "
                    "made from. Frames drawn one by one have no motion of their own to follow.",
                ),
                io.Int.Input(
                    "reach",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many neighbours on either side take part, where the clip has them. More is steadier "
                    "and softer; real frames lose a third of their sharpness at 1, half at 7.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The averaged frames, to encode or to compare."),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="The share of the neighbours that took part, pixel by pixel: black where none could be "
                    "followed, and the frame is as it was.",
                ),
            ],
        )

    @classmethod
    def run(cls, images: Tensor, motion_from: Tensor, reach: int) -> io.NodeOutput:
        frames = video_metrics.validate_video(images)
        clip = video_metrics.validate_source(motion_from, like=frames, name="motion_from")
        bar = comfy.utils.ProgressBar(len(frames) - 1)  # it also stops a run that is cancelled
        averaged, share = average_along_flow(frames, clip, reach, partial(bar.update, 1))
        return io.NodeOutput(averaged.to(images), share.to(images.device))

"""Frames of a clip: selection, shots, encoding, and averaging along the motion."""

from __future__ import annotations

from itertools import pairwise

from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.host.comfy_types import VAE, OpticalFlow
from ..bivdiff_core.host.encoding import ENCODE_MODES, encode_frames
from ..bivdiff_core.measure.audio_cuts import cut_audio
from ..bivdiff_core.measure.cuts import find_cuts, format_frames
from ..bivdiff_core.measure.optical_flow import average_along_flow
from ..bivdiff_core.node_warnings import warn
from . import shared_inputs
from .base import PackNode
from .video_inputs import OPTICAL_FLOW_INPUT, make_computation, validate_images, validate_source, validate_video


class SelectFrames(PackNode):
    """Selects frames of a clip by start, stride and count."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSelectFrames",
            display_name="Select Frames",
            category=shared_inputs.CATEGORY,
            description="Takes every n-th frame of a clip, with the sound, and outputs the frame rate that keeps the "
            "clip's speed. Video models are trained on clips of 8 to 32 frames; the paper takes every fourth frame, 8 "
            "of them.",
            search_aliases=["frame stride", "skip frames", "trim video", "every nth frame"],
            inputs=[
                io.Image.Input("images", tooltip="The frames of a clip, from Get Video Components."),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=1 << 20,
                    tooltip="The first frame to take, counted from 0. Raise it to skip the clip's beginning.",
                ),
                io.Int.Input(
                    "stride",
                    default=4,
                    min=1,
                    max=1 << 20,
                    tooltip="Take every n-th frame; 1 takes all. Larger strides give the video model more motion.",
                ),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=1 << 20,
                    tooltip="How many frames to take; 0 takes all up to the clip's end.",
                ),
                shared_inputs.fps_input("The clip's frame rate; wire fps of Get Video Components."),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The clip's sound. Wire audio and fps from the same Get Video Components, because fps "
                    "sets which part of the sound belongs to the frames. A clip of variable frame rate has only an "
                    "average fps, so its sound may be off.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The selected frames."),
                io.Float.Output(
                    display_name="fps", tooltip="The frame rate that keeps the clip's speed; for Create Video."
                ),
                io.Audio.Output(
                    display_name="audio",
                    tooltip="The sound from the first selected frame on, as long as the frames play; for Create Video.",
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
                    "got one picture, expected the frames of a clip. Wire all of them: from Get Video Components, "
                    "or several pictures through Batch Images."
                )
            remedy = ", stride or count" if len(frames) > 1 else " or stride, or take a longer clip"
            raise ValueError(
                f"the clip has {len(images)} frames, which gives {len(frames)} from frame {start} on at a stride of "
                f"{stride}, expected {count or 'at least 1'}. Lower start{remedy}."
            )
        frames = frames[: count or None]
        if cuts := find_cuts(frames):
            warn(
                "The whole picture changes at %s of the clip. Smoothing smears across a cut: take one shot with start "
                "and count, or wire Split at Cuts.",
                format_frames([start + cut * stride for cut in cuts]),
            )
        return io.NodeOutput(frames, fps / stride, cut_sound(audio, fps, start, start + len(frames) * stride))


class SplitAtCuts(PackNode):
    """Splits a clip into its shots."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSplitAtCuts",
            display_name="Split at Cuts",
            category=shared_inputs.CATEGORY,
            description="Splits a clip at its hard cuts, where the whole picture changes, into a list of shots. All "
            "nodes after it run once for each shot, so nothing smears from one shot into the next.",
            search_aliases=["scene detection", "shot detection", "split scenes", "detect cuts", "shots"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The frames of a clip, from Get Video Components or Select Frames. A clip without cuts "
                    "stays whole.",
                ),
                shared_inputs.fps_input("The frames' rate; wire fps of the node that the frames come from."),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The frames' sound, from the node that the frames come from. It is split at the same "
                    "places.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    is_output_list=True,
                    tooltip="The shots, one after another. Join the results with Rebatch Images.",
                ),
                io.Float.Output(display_name="fps", is_output_list=True, tooltip="The frame rate, for each shot."),
                io.Audio.Output(display_name="audio", is_output_list=True, tooltip="The sound of each shot."),
            ],
        )

    @classmethod
    def run(cls, images: Tensor, fps: float, audio: dict | None = None) -> io.NodeOutput:
        shots = list(pairwise([0, *find_cuts(images), len(images)]))
        frames = [images[start:stop] for start, stop in shots]
        return io.NodeOutput(frames, [fps] * len(shots), [cut_sound(audio, fps, *shot) for shot in shots])


def cut_sound(audio: dict | None, fps: float, start: int, stop: int) -> dict | None:
    """The part of an AUDIO that belongs to the frames from `start` up to `stop`, by `cut_audio`; None without one."""
    if audio is None:
        return None
    rate = audio["sample_rate"]
    return {"waveform": cut_audio(audio["waveform"], rate, fps, start, stop), "sample_rate": rate}


class EncodeFrames(PackNode):
    """VAE Encode for whole clips or single frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffEncodeFrames",
            display_name="Encode Frames",
            category=shared_inputs.CATEGORY,
            description="VAE Encode for the frames of a clip. Video VAEs (Wan, LTX, HunyuanVideo) pack several frames "
            "in one latent; this node can also encode every frame separately, for the image branch. If the VAE would "
            "silently drop frames or edges, the node raises an error.",
            search_aliases=["vae encode video", "vae encode frames", "image to latent", "single frames"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model that will invert the frames."),
                io.Image.Input(
                    "images",
                    tooltip="The frames of a clip. Width and height must be multiples of the VAE's factor (8, 16 or "
                    "32).",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=1 << 20,
                    tooltip="Take every n-th frame; 1 takes all. With single_frames use 4 for Wan and HunyuanVideo "
                    "and 8 for LTX: of a clip of 17 frames, 4 takes frames 0, 4, 8, 12 and 16, one for each latent "
                    "of mode clip.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(ENCODE_MODES),
                    default="clip",
                    tooltip="clip encodes all frames together, for DDIM Inverse (Video): with Wan the first latent "
                    "holds frame 0, the second frames 1 to 4, and so on. single_frames encodes each as a clip of "
                    "length 1, for DDIM Inverse (Image) with a video model. VAEs for single images give the same "
                    "result in both.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="A clip for the video branch, or single frames for the image branch. Mixed Inversion "
                    "Blend needs equal counts of both.",
                )
            ],
        )

    @classmethod
    def run(cls, vae: VAE, images: Tensor, stride: int, mode: str) -> io.NodeOutput:
        return io.NodeOutput({"samples": encode_frames(vae, validate_images(images, "images")[::stride], mode)})


class AverageAlongMotion(PackNode):
    """Averages each frame with adjacent frames, warped along the optical flow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffAverageAlongMotion",
            display_name="Average Along Motion",
            category=shared_inputs.CATEGORY,
            description="Averages every frame with its adjacent frames, warped along the motion of a clip: the "
            "cheapest way to reduce flicker, without any model. Use it on frames that are nearly consistent, or as a "
            "baseline. Independently generated frames come out soft, with ghosting.",
            search_aliases=["optical flow", "motion compensated", "temporal average", "temporal denoise"],
            inputs=[
                io.Image.Input("images", tooltip="The decoded frames to average."),
                io.Image.Input(
                    "motion_from",
                    tooltip="The clip that the frames were made from, with the same frames selected; its motion is "
                    "followed. Independently generated frames share no motion that could be followed.",
                ),
                io.Int.Input(
                    "reach",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many frames on each side are averaged in. More means less flicker and softer frames: "
                    "frames generated by real models lose a third of their sharpness at 1, half at 7.",
                ),
                OPTICAL_FLOW_INPUT,
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The averaged frames, to encode or to compare."),
                io.Mask.Output(
                    display_name="MASK",
                    tooltip="Share of the adjacent frames that were averaged in, per pixel. Where it is black, none "
                    "could be followed and the frame is unchanged.",
                ),
            ],
        )

    @classmethod
    def run(
        cls, images: Tensor, motion_from: Tensor, reach: int, optical_flow: OpticalFlow | None = None
    ) -> io.NodeOutput:
        frames = validate_video(images)
        clip = validate_source(motion_from, like=frames, name="motion_from")
        computation = make_computation(optical_flow, steps=2 * len(frames) - 1)
        return io.NodeOutput(*average_along_flow(frames, clip, reach, computation))

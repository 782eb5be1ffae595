"""Instruments: what is wrong with a latent before it is smoothed, and what smoothing did to a video."""

from __future__ import annotations

from functools import partial

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..bivdiff_core.host.comfy_types import ClipVision, Latent
from ..bivdiff_core.host.inverted_latents import read_inversion_info
from ..bivdiff_core.host.latents import check_finite
from ..bivdiff_core.host.validation import validate_samples
from ..bivdiff_core.measure import latent_statistics, plots, video_metrics
from . import shared_inputs
from .base import PackNode


class LatentReport(PackNode):
    """Compares an inverted latent with white noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffLatentReport",
            display_name="Inverted Latent Report",
            category=shared_inputs.CATEGORY,
            description="Checks the noise before it is smoothed: what is wrong with it, what that will do to the "
            "video, and which control fixes it. Put one after each DDIM Inverse and after the blend. The node shows "
            "the report itself and runs with nothing wired after it.",
            search_aliases=["latent statistics", "noise check", "diagnose latent", "why is my video blurry"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From DDIM Inverse or Mixed Inversion Blend: what goes to the smoother. Whatever is wired "
                    "here always runs: after DDIM Inverse (Video) the report makes the video branch run even at a "
                    "mixing_ratio of 1, where the blend skips it.",
                )
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot",
                    tooltip="The latent's frames and figures; green is healthy. The node shows it; wire Save "
                    "Image to keep it.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="What is wrong and what to change, in words, and the figures. The node shows the words.",
                ),
                io.Boolean.Output(
                    display_name="alarm",
                    tooltip="True if the video will suffer. Wire it to If/Else Switch to smooth only what is worth it: "
                    "the side that is not chosen is skipped.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def run(cls, latent: Latent) -> io.NodeOutput:
        samples = validate_samples(latent)
        check_finite(samples)
        inversion = read_inversion_info(latent)
        branch, strength = (inversion.branch, inversion.strength) if inversion else ("", 1.0)
        frames = latent_statistics.flatten_to_frames(samples.cpu())
        measured, bounds = (
            latent_statistics.measure_latent(frames),
            latent_statistics.sampling_limits(tuple(frames.shape)),
        )
        off = latent_statistics.normalized_deviation(measured, bounds)
        findings = latent_statistics.diagnose(measured, off, branch, strength)
        words, table = (
            latent_statistics.format_findings(findings, branch, strength),
            latent_statistics.format_latent_statistics(measured),
        )
        alarm = any(finding.alarming for finding in findings)
        plot = plots.plot_latent_report(frames, measured, bounds, latent_statistics.find_bad_frames(off))
        return io.NodeOutput(plot, f"{words}\n{table}", alarm, ui=_report_ui(cls, plot, words, table, not alarm))


class TemporalReport(PackNode):
    """Measures a video, and what smoothing did to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffTemporalReport",
            display_name="Temporal Report",
            category=shared_inputs.CATEGORY,
            description="Measures how steady a video is and what that cost: flicker, motion, sharpness and similarity, "
            "frame by frame and against the video before smoothing. It tells you if a video only stands still, is only "
            "blurred or only averages its frames. The node shows the report itself and runs with nothing wired after "
            "it.",
            search_aliases=["flicker", "video quality", "temporal consistency", "metrics", "compare videos"],
            inputs=[
                io.Image.Input("images", tooltip="The video, smoothed and decoded."),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="The video before smoothing, with as many frames of the same size: the result is compared "
                    "with it. Without it there are figures but no verdict.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A CLIP vision model, to measure whether consecutive frames keep showing the same thing "
                    "(frame consistency).",
                ),
                io.Image.Input(
                    "source_images",
                    optional=True,
                    tooltip="The clip that the frames were made from, with the same frames. Wire it whenever there is "
                    "one: frames drawn one by one share no motion, so flicker is measured along this clip's, and the "
                    "verdict can tell a video that stands still, is blurred or is an average of frames.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot",
                    tooltip="Every figure, frame by frame: grey before, blue after. The node shows it; wire Save "
                    "Image to keep it.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="The verdict and the figures. The node shows the verdict."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def run(
        cls,
        images: Tensor,
        reference_images: Tensor | None = None,
        clip_vision: ClipVision | None = None,
        source_images: Tensor | None = None,
    ) -> io.NodeOutput:
        frames, reference, before, source = video_metrics.validate_video(images), None, None, None
        if reference_images is not None:
            reference = video_metrics.validate_video(reference_images, like=frames)
        clip = None if source_images is None else video_metrics.validate_source(source_images, like=frames)
        videos = sum(video is not None for video in (frames, reference, clip))
        bar = comfy.utils.ProgressBar(
            video_metrics.count_frame_pairs(frames) * videos
        )  # it also stops a run that is cancelled
        on_pair = partial(bar.update, 1)
        if clip is not None:
            source = video_metrics.SourceMotion.of(clip, on_pair)
        if reference is not None:
            before = video_metrics.measure_video(
                reference, None, _embed_frames(clip_vision, reference), on_pair, source
            )
        after = video_metrics.measure_video(frames, reference, _embed_frames(clip_vision, frames), on_pair, source)
        verdict = video_metrics.judge_video(after, before, source)
        words, table = verdict.words(), video_metrics.format_metrics(after, before)
        plot = plots.plot_temporal_report(after, before, verdict.cautions)
        return io.NodeOutput(plot, f"{words}\n{table}", ui=_report_ui(cls, plot, words, table, verdict.good))


def _report_ui(cls: type[PackNode], plot: Tensor, words: str, table: str, good: bool | None) -> dict:
    """What js/reports.js shows on the node, and the figures, which a batch's reports keep."""
    return {"plot": ui.PreviewImage(plot, cls=cls).values, "words": [words], "table": [table], "good": [good]}


def _embed_frames(clip_vision: ClipVision | None, frames: Tensor) -> Tensor | None:
    """Image embeddings `[F, D]` of frames, made one by one to spare memory; None without a CLIP_VISION."""
    if clip_vision is None:
        return None
    return torch.cat([clip_vision.encode_image(frame[None])["image_embeds"] for frame in frames]).float().cpu()

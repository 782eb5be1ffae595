"""Reports: problems of a latent before smoothing, and the effect of smoothing on a video."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..bivdiff_core.host.comfy_types import VAE, ClipVision, Latent, OpticalFlow
from ..bivdiff_core.host.encoding import reconstruct_frames
from ..bivdiff_core.host.inverted_latents import InvertedLatent
from ..bivdiff_core.host.validation import validate_samples
from ..bivdiff_core.measure import latent_statistics, plots
from ..bivdiff_core.measure.cuts import find_cuts, format_frames, leave_out_cuts
from ..bivdiff_core.measure.optical_flow import Computation
from ..bivdiff_core.measure.video_metrics import (
    MeasuredClip,
    count_steps,
    find_second_frames,
    find_worst_pair,
    format_metrics,
    load_frames,
    measure_reconstruction,
    measure_video,
)
from . import latent_findings, shared_inputs
from .base import PackNode
from .video_inputs import OPTICAL_FLOW_INPUT, make_computation, validate_source, validate_video
from .video_verdict import describe_vae, judge_video

VAE_FRAMES = 9
"""Frames that are encoded and decoded to measure the VAE: whole latent frames for Wan, HunyuanVideo and LTX."""


class LatentReport(PackNode):
    """Compares an inverted latent with white noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffLatentReport",
            display_name="Inverted Latent Report",
            category=shared_inputs.CATEGORY,
            description="Checks the noise before smoothing: what is wrong with it, how that affects the video, and "
            "which control fixes it. Put one after each DDIM Inverse and after the blend. The report appears on the "
            "node, which also runs with nothing wired after it.",
            search_aliases=["latent statistics", "noise check", "diagnose latent", "why is my video blurry"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From DDIM Inverse or Mixed Inversion Blend. The report makes its input branch run: after "
                    "DDIM Inverse (Video) even at a mixing_ratio of 1, where the blend skips the video branch.",
                )
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot",
                    tooltip="The latent's frames and measurements; green marks normal values. Shown on the node; wire "
                    "Save Image to keep it.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="What is wrong and what to change, as text, and the measurements. The node shows the text.",
                ),
                io.Boolean.Output(
                    display_name="alarm",
                    tooltip="True if a frame is broken (black, static) or the latent is not noise. Wire it to If/Else "
                    "Switch to skip such latents: the side that is not chosen does not run.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def run(cls, latent: Latent) -> io.NodeOutput:
        samples = validate_samples(latent)
        info = InvertedLatent.from_latent(latent).info
        branch, strength = (info.branch, info.strength) if info else ("", 1.0)
        frames = latent_statistics.flatten_to_frames(samples.cpu())
        measured = latent_statistics.measure_latent(frames)
        bounds = latent_statistics.sampling_limits(frames.shape)
        deviations = latent_statistics.normalize_deviations(measured, bounds)
        findings = latent_findings.diagnose(measured, deviations, branch, strength)
        text = latent_findings.format_findings(findings, branch, strength)
        table = latent_statistics.format_latent_statistics(measured)
        alarm = any(finding.is_alarming for finding in findings)
        plot = plots.plot_latent_report(frames, measured, bounds, latent_statistics.find_bad_frames(deviations))
        return io.NodeOutput(plot, f"{text}\n{table}", alarm, ui=_report_ui(cls, plot, text, table, not alarm))


class TemporalReport(PackNode):
    """Measures a video, and the effect of smoothing on it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffTemporalReport",
            display_name="Temporal Report",
            category=shared_inputs.CATEGORY,
            description="Measures how much a video flickers and what was lost by smoothing: flicker, motion, sharpness "
            "and similarity, frame by frame and compared with the video before smoothing. It tells you if a video is "
            "only static, blurred or an average of frames. The report appears on the node, which also runs with "
            "nothing wired after it.",
            search_aliases=["flicker", "video quality", "temporal consistency", "metrics", "compare videos"],
            inputs=[
                io.Image.Input("images", tooltip="The smoothed video, decoded."),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="The video before smoothing, with the same size and number of frames, to compare with. "
                    "Without it there are measurements but no verdict.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A CLIP vision model. Wire one to measure whether consecutive frames keep showing the "
                    "same thing (frame consistency).",
                ),
                io.Image.Input(
                    "source_images",
                    optional=True,
                    tooltip="The clip that the frames were made from, with the same frames selected. Wire it whenever "
                    "you have one: independently generated frames share no motion, so flicker is measured along this "
                    "clip's motion, and the verdict can recognise a static, blurred or averaged video.",
                ),
                OPTICAL_FLOW_INPUT,
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE that decoded the video. Wire one to see how much sharpness it costs and how much "
                    f"it flickers by itself, measured on the first {VAE_FRAMES} frames of the source clip (without "
                    "one: of reference_images or images).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot",
                    tooltip="Every measurement, by frame: orange before smoothing, blue after. Shown on the node; "
                    "wire Save Image to keep it.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="The verdict and the measurements. The node shows the verdict."
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
        optical_flow: OpticalFlow | None = None,
        vae: VAE | None = None,
    ) -> io.NodeOutput:
        images = validate_video(images)
        videos = {"after": images}
        if reference_images is not None:
            videos["before"] = validate_video(reference_images, images, "reference_images")
        if source_images is not None:
            videos["source"] = validate_source(source_images, like=images)
        size, count = (images.shape[1], images.shape[2]), len(images)
        steadiest = list(videos)[-1]  # the source if there is one
        decoded = None if vae is None else _reconstruct(vae, videos[steadiest], size)

        embedded = 0 if clip_vision is None else count * sum(name != "source" for name in videos)
        steps = len(videos) * count_steps(count) + count * ("before" in videos) + embedded
        computation = make_computation(optical_flow, steps + (0 if decoded is None else len(decoded)))
        clips = {name: MeasuredClip.from_frames(frames, computation, size) for name, frames in videos.items()}
        source, unsmoothed = clips.get("source"), clips.get("before")
        before = None
        if unsmoothed:
            before = measure_video(unsmoothed, None, _embed_frames(clip_vision, unsmoothed, computation), source)
        embeddings = _embed_frames(clip_vision, clips["after"], computation)
        after = measure_video(clips["after"], unsmoothed, embeddings, source, computation)
        cuts = find_cuts(videos[steadiest])
        after = leave_out_cuts(after, cuts, count)
        before = before and leave_out_cuts(before, cuts, count)
        verdict = judge_video(after, before, source)
        if "following" in after:  # with a known motion; the flow of frames that flicker is partly flicker
            del after["motion"]
        worst = find_worst_flicker(after["flicker"], count)
        text = "\n".join([verdict.to_text(), *describe_cuts(cuts), *describe_worst_flicker(after["flicker"], worst)])
        table = format_metrics(after, before)
        if decoded is not None:
            reconstruction = measure_reconstruction(clips[steadiest], decoded, computation)
            text = f"{text}\n{describe_vae(reconstruction, after)}"
        plot = plots.plot_temporal_report(after, before, verdict.warnings)
        first = plots.plot_temporal_report({name: after[name] for name in FIRST_PLOTS}, before, verdict.warnings)
        shown = _report_ui(cls, first, text, table, verdict.is_good, worst)
        shown["all_plots"] = ui.PreviewImage(plot, cls=cls).values
        return io.NodeOutput(plot, f"{text}\n{table}", ui=shown)


FIRST_PLOTS = ("flicker", "sharpness")
"""Plots that the node shows at once: what smoothing is for, and what it costs most often. All are in a fold below."""
MIN_FLICKER = 1e-7
"""Flicker below this is rounding: its root is a twelfth of an 8-bit level."""


def find_worst_flicker(flicker: Tensor, frame_count: int) -> int | None:
    """The frame that differs most from the one before, along the motion; None if nothing flickers."""
    pair = find_worst_pair(flicker)
    return int(find_second_frames(len(flicker), frame_count)[pair]) if flicker[pair] > MIN_FLICKER else None


def describe_worst_flicker(flicker: Tensor, frame: int | None) -> list[str]:
    """A line that names the frame of `find_worst_flicker`, for the report."""
    if frame is None:
        return []
    return [f"Frame {frame} flickers most: {flicker[find_worst_pair(flicker)] / flicker.nanmean():.1f} times the mean."]


def describe_cuts(cuts: list[int]) -> list[str]:
    """A line that names the cuts, for the report."""
    if not cuts:
        return []
    return [
        f"The whole picture changes at {format_frames(cuts)}: flicker and motion are not measured there. Smooth each "
        "shot by itself, with Split at Cuts."
    ]


def _report_ui(
    cls: type[PackNode], plot: Tensor, text: str, table: str, is_good: bool | None, worst_frame: int | None = None
) -> dict:
    """The ui output: what js/reports.js shows, and the table, which reports of batch runs keep."""
    shown = {"words": [text], "table": [table], "good": [is_good], "worst_frame": [worst_frame]}
    return {"plot": ui.PreviewImage(plot, cls=cls).values, **shown}


def _reconstruct(vae: VAE, frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The first frames of a clip, resized, encoded and decoded."""
    return reconstruct_frames(vae, load_frames(frames, slice(VAE_FRAMES), size, torch.device("cpu")))


def _embed_frames(clip_vision: ClipVision | None, clip: MeasuredClip, computation: Computation) -> Tensor | None:
    """Image embeddings `[F, D]` of frames, encoded one at a time to save memory; None without a CLIP_VISION."""
    if clip_vision is None:
        return None
    embeddings = []
    for frame in clip.frames.split(1):
        embeddings.append(clip_vision.encode_image(frame)["image_embeds"].float().cpu())
        computation.on_step(1)
    return torch.cat(embeddings)

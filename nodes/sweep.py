"""Sweeps: lists that run the chain once per ratio, mode or solver, and a grid that compares the results."""

from __future__ import annotations

from collections.abc import Collection

from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.blend import MODES
from ..bivdiff_core.host.comfy_types import OpticalFlow
from ..bivdiff_core.measure import plots
from ..bivdiff_core.measure.cuts import find_cuts, leave_out_cuts
from ..bivdiff_core.measure.label_fonts import default_font, find_font
from ..bivdiff_core.measure.optical_flow import ON_CPU, Computation
from ..bivdiff_core.measure.video_grids import find_pareto_front, tile_videos
from ..bivdiff_core.measure.video_metrics import MeasuredClip, count_steps, measure_video
from ..bivdiff_core.node_warnings import warn
from ..bivdiff_core.solvers import SOLVERS
from . import shared_inputs
from .base import PackNode, prefix_errors
from .video_inputs import OPTICAL_FLOW_INPUT, make_computation, validate_source, validate_video
from .video_verdict import judge_video


def parse_ratios(text: str) -> list[float]:
    """Parse mixing ratios from text such as `0, 0.25 1`.

    Raises:
        ValueError: a word is not a number in 0..1, or the text is empty.
    """
    ratios = []
    for word in text.replace(",", " ").split():
        try:
            ratios.append(float(word))
        except ValueError:
            raise ValueError(
                f"expected comma-separated numbers, got {word!r}. Write ratios like 0, 0.25, 0.5, 1"
            ) from None
        if not 0 <= ratios[-1] <= 1:
            raise ValueError(f"{word} must lie between 0 (video branch) and 1 (image branch)")
    if not ratios:
        raise ValueError("there are no ratios. Write one or more, like 0, 0.25, 0.5, 1")
    return ratios


def parse_choices(text: str, choices: Collection[str]) -> list[str]:
    """Parse choices of a control from text such as `linear, slerp`, in the text's order.

    Raises:
        ValueError: a word is not one of the choices, or the text is empty.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if word not in choices:
            raise ValueError(f"{word!r} is not one of {', '.join(choices)}")
    if not words:
        raise ValueError(f"there are no choices. Write one or more of {', '.join(choices)}")
    return words


class _ListNode(PackNode):
    """Turns a text into a list; ComfyUI runs the nodes after it once per value."""

    @staticmethod
    def parse(text: str) -> list:
        """The values in the text; raises ValueError with a message for the artist."""
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **inputs: str | None) -> bool | str:
        """Parse the text before ComfyUI runs anything; a linked text is None and parsed later."""
        try:
            with prefix_errors(cls):
                return all(text is None or cls.parse(text) for text in inputs.values())
        except ValueError as error:
            return str(error)

    @classmethod
    def run(cls, **inputs: str) -> io.NodeOutput:
        (text,) = inputs.values()
        return io.NodeOutput(cls.parse(text))


class RatioList(_ListNode):
    """A list of mixing ratios."""

    @staticmethod
    def parse(text: str) -> list[float]:
        return parse_ratios(text)

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffRatioList",
            display_name="Mixing Ratio List",
            category=shared_inputs.CATEGORY,
            description="Renders a video for each of several mixing ratios in one run. Wire it to mixing_ratio of "
            "Mixed Inversion Blend and set task to custom: the inversions run once, blend and smoother once per ratio.",
            search_aliases=["ratio sweep", "xy plot", "parameter sweep", "float list"],
            inputs=[
                io.String.Input(
                    "ratios",
                    default="0, 0.25, 0.5, 0.75, 1",
                    tooltip="Weights of the image branch, comma-separated, from 0 (video branch only) to 1 (image "
                    "branch only). Each adds one smoothing run.",
                )
            ],
            outputs=[
                io.Float.Output(
                    display_name="ratios",
                    is_output_list=True,
                    tooltip="For mixing_ratio of Mixed Inversion Blend, and for ratios of Sweep Grid.",
                )
            ],
        )


class ModeList(_ListNode):
    """A list of blend modes."""

    @staticmethod
    def parse(text: str) -> list[str]:
        return parse_choices(text, MODES)

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffModeList",
            display_name="Blend Mode List",
            category=shared_inputs.CATEGORY,
            description="Renders a video for each of several blend modes in one run. Wire it to mode of Mixed "
            "Inversion Blend: the inversions run once, blend and smoother once per mode.",
            search_aliases=["mode sweep", "compare modes", "xy plot", "parameter sweep"],
            inputs=[
                io.String.Input(
                    "modes",
                    default=", ".join(MODES),
                    tooltip=f"Modes to try, of {', '.join(MODES)}; comma-separated. Each adds one smoothing run. They "
                    "differ most at a mixing_ratio near 0.5; at 0 and 1 they are the same.",
                )
            ],
            outputs=[
                io.Combo.Output(
                    display_name="modes",
                    is_output_list=True,
                    tooltip="For mode of Mixed Inversion Blend, and for labels of Sweep Grid.",
                )
            ],
        )


class SolverList(_ListNode):
    """A list of inversion solvers."""

    @staticmethod
    def parse(text: str) -> list[str]:
        return parse_choices(text, SOLVERS)

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSolverList",
            display_name="Solver List",
            category=shared_inputs.CATEGORY,
            description="Renders a video for each of several inversion solvers in one run. Wire it to solver of both "
            "DDIM Inverse nodes: the frames are generated once, inversions, blend and smoother run once per solver.",
            search_aliases=["solver sweep", "compare solvers", "xy plot", "parameter sweep"],
            inputs=[
                io.String.Input(
                    "solvers",
                    default=", ".join(SOLVERS),
                    tooltip=f"Solvers to try, of {', '.join(SOLVERS)}; comma-separated. Each adds its inversions and "
                    "one smoothing run; fixed_point takes three times as long to invert as the others.",
                )
            ],
            outputs=[
                io.Combo.Output(
                    display_name="solvers",
                    is_output_list=True,
                    tooltip="For solver of DDIM Inverse (Image) and of DDIM Inverse (Video), and for labels of Sweep "
                    "Grid.",
                )
            ],
        )


def compare_videos(
    videos: list[Tensor], reference: Tensor, source: MeasuredClip | None = None, computation: Computation = ON_CPU
) -> tuple[list[float], list[float], list[int], list[bool]]:
    """Compare videos with a reference.

    Args:
        videos: `[F, H, W, 3]` each.
        reference: one of the videos, or another one such as the video before smoothing. Flicker and motion are not
            measured across its cuts, or those of the source.
        source: the clip that the videos were generated from.
        computation: `on_step` is called for each frame and pair of frames of every video, and for each frame compared.

    Returns:
        similarity, flicker: mean of each video.
        pareto_indices: from `find_pareto_front`.
        is_degraded: whether each video lost its motion or sharpness.
    """
    unsmoothed = MeasuredClip.from_frames(reference, computation)
    cuts, count = find_cuts(reference if source is None else source.frames), len(reference)
    before = leave_out_cuts(measure_video(unsmoothed, source=source), cuts, count)
    metrics = []
    for frames in videos:
        video = unsmoothed if frames is reference else MeasuredClip.from_frames(frames, computation)
        measured = measure_video(video, unsmoothed, source=source, computation=computation)
        metrics.append(leave_out_cuts(measured, cuts, count))
    similarity = [measured["similarity"].mean().item() for measured in metrics]
    flicker = [measured["flicker"].nanmean().item() for measured in metrics]
    is_degraded = [bool(judge_video(measured, before, source).warnings) for measured in metrics]
    return similarity, flicker, find_pareto_front(similarity, flicker, is_degraded), is_degraded


class SweepGrid(PackNode):
    """All videos of a sweep side by side, and a plot of flicker against similarity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSweepGrid",
            display_name="Sweep Grid",
            category=shared_inputs.CATEGORY,
            description="Puts the videos of a Mixing Ratio List, Blend Mode List or Solver List side by side with "
            "labels, and plots the flicker of each against its similarity to the frames. A line joins the best ones.",
            search_aliases=["compare ratios", "contact sheet", "xy plot", "pareto"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="The smoothed videos, from VAE Decode: one for each item of the list."
                ),
                io.Float.Input(
                    "ratios",
                    force_input=True,
                    optional=True,
                    tooltip="The ratio of each video, from Mixing Ratio List or from ratio of Mixed Inversion Blend. "
                    "Not needed if labels is wired.",
                ),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="The frames before smoothing, which the videos should still resemble; shown first in the "
                    "grid. Without them, similarity is measured to the video with the smallest ratio, or to the first.",
                ),
                io.MultiType.Input(
                    "labels",
                    [io.Combo, io.String],
                    optional=True,
                    tooltip="Label of each video, shown instead of its ratio: wire Blend Mode List or Solver List, or "
                    "any list of texts. With neither labels nor ratios the videos are numbered.",
                ),
                io.Image.Input(
                    "source_images",
                    optional=True,
                    tooltip="The clip that the frames were made from, with the same frames selected. Wire it whenever "
                    "you have one: flicker is then measured along its motion, as in Temporal Report.",
                ),
                OPTICAL_FLOW_INPUT,
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All videos in one, for Create Video."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="Flicker against similarity. A cross marks a video with little flicker only because it is "
                    "static, blurred or an average of frames.",
                ),
            ],
        )

    @classmethod
    def run(
        cls,
        images: list[Tensor],
        ratios: list[float] | None = None,
        reference_images: list[Tensor] | None = None,
        labels: list[str] | None = None,
        source_images: list[Tensor] | None = None,
        optical_flow: list[OpticalFlow] | None = None,
    ) -> io.NodeOutput:
        reference_index = 0
        if labels:
            names = labels
        elif ratios:
            names, reference_index = [f"ratio {ratio:g}" for ratio in ratios], ratios.index(min(ratios))
        else:
            names = [f"video {i + 1}" for i in range(len(images))]
        if len(images) != len(names):
            list_name = "labels" if labels else "ratios"
            raise ValueError(
                f"{len(images)} videos arrived with {len(names)} {list_name}. Wire {list_name} to the list that the "
                "videos come from."
            )
        font = find_font("".join(["before", *names]))
        if font is None:
            warn(
                "No installed font has all characters of the labels, so the videos are numbered. Install one, such as "
                "Noto Sans CJK, or use other labels."
            )
            names = [f"video {i + 1}" for i in range(len(images))]
            font = default_font()
        first = validate_video(images[0], name="video 1 of images")
        videos = [validate_video(images[i], first, f"video {i + 1} of images") for i in range(len(images))]
        if reference_images:
            reference = validate_video(reference_images[0], first, "reference_images")
            reference_name = "the frames before"
            grid = tile_videos([reference, *videos], ["before", *names], font)
        else:
            reference, reference_name = videos[reference_index], names[reference_index]
            grid = tile_videos(videos, names, font)
        clip = validate_source(source_images[0], like=first) if source_images else None
        measured_count = len(videos) + bool(reference_images) + bool(source_images)
        steps = measured_count * count_steps(len(first)) + len(videos) * len(first)
        computation = make_computation(optical_flow[0] if optical_flow else None, steps)
        size = first.shape[1], first.shape[2]
        source = None if clip is None else MeasuredClip.from_frames(clip, computation, size)
        compared = compare_videos(videos, reference, source, computation)
        return io.NodeOutput(grid, plots.plot_trade_off(names, *compared, reference_name, font))

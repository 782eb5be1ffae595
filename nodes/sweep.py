"""Sweeps: lists that run the chain once per ratio, mode or solver, and a grid that compares the results."""

from collections.abc import Callable, Collection
from functools import partial

import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..bivdiff_core.blend import MODES
from ..bivdiff_core.measure import plots, video_grids, video_metrics
from ..bivdiff_core.solvers import SOLVERS
from . import shared_inputs
from .base import PackNode, prefix_errors


def _validate_list(
    node: type[PackNode], parse: Callable[..., list], text: str | None, *args: Collection[str]
) -> bool | str:
    """Validate a list's text before ComfyUI runs anything; a linked text is None and validated later.

    Returns:
        True, or the error message to show.
    """
    try:
        with prefix_errors(node):
            return text is None or bool(parse(text, *args))
    except ValueError as error:
        return str(error)


class RatioList(PackNode):
    """A list of mixing ratios; ComfyUI runs the nodes after it once per ratio."""

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

    @classmethod
    def validate_inputs(cls, ratios: str | None = None) -> bool | str:
        return _validate_list(cls, video_grids.parse_ratios, ratios)

    @classmethod
    def run(cls, ratios: str) -> io.NodeOutput:
        return io.NodeOutput(video_grids.parse_ratios(ratios))


class ModeList(PackNode):
    """A list of blend modes; ComfyUI runs the nodes after it once per mode."""

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

    @classmethod
    def validate_inputs(cls, modes: str | None = None) -> bool | str:
        return _validate_list(cls, video_grids.parse_choices, modes, MODES)

    @classmethod
    def run(cls, modes: str) -> io.NodeOutput:
        return io.NodeOutput(video_grids.parse_choices(modes, MODES))


class SolverList(PackNode):
    """A list of inversion solvers; ComfyUI runs the nodes after it once per solver."""

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

    @classmethod
    def validate_inputs(cls, solvers: str | None = None) -> bool | str:
        return _validate_list(cls, video_grids.parse_choices, solvers, SOLVERS)

    @classmethod
    def run(cls, solvers: str) -> io.NodeOutput:
        return io.NodeOutput(video_grids.parse_choices(solvers, SOLVERS))


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
        first = video_metrics.validate_video(images[0])
        videos = [video_metrics.validate_video(video, like=first) for video in images]
        if reference_images:
            reference = video_metrics.validate_video(reference_images[0], like=first)
            reference_name = "the frames before"
            grid = video_grids.tile_videos([reference, *videos], ["before", *names])
        else:
            reference, reference_name = videos[reference_index], names[reference_index]
            grid = video_grids.tile_videos(videos, names)
        clip = video_metrics.validate_source(source_images[0], like=first) if source_images else None
        video_count = len(videos) + bool(reference_images) + bool(source_images)
        # An update of the bar also stops a cancelled run.
        bar = comfy.utils.ProgressBar(video_metrics.count_frame_pairs(first) * video_count)
        on_pair = partial(bar.update, 1)
        source = None if clip is None else video_metrics.SourceMotion.of(clip, on_pair)
        compared = video_grids.compare_videos(videos, reference, on_pair, source)
        return io.NodeOutput(grid, plots.plot_trade_off(names, *compared, reference_name))

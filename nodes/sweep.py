"""One graph, every mixing ratio: the list that feeds the blend, and the grid that compares what comes of it."""

from comfy_api.latest import io

from ..bivdiff_core import metrics, plots, sweep
from . import controls


class RatioList(io.ComfyNode):
    """Mixing ratios, for which the host runs what follows once each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffRatioList",
            display_name="Mixing Ratio List",
            category=controls.CATEGORY,
            description="Renders a video for each of several mixing ratios in one run. Wire it to mixing_ratio of "
            "Mixed Inversion Blend with task on custom: the inversions run once, blend and smoother once per ratio.",
            search_aliases=["ratio sweep", "xy plot", "parameter sweep", "float list"],
            inputs=[
                io.String.Input(
                    "ratios",
                    default="0, 0.25, 0.5, 0.75, 1",
                    tooltip="Weights of the image branch, between 0 (video branch alone) and 1 (image branch alone), "
                    "parted by commas. Each costs one smoothing.",
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
    def validate_inputs(cls, ratios=None) -> bool | str:
        """Refuses what is no list of ratios before anything is sampled; a linked text does not arrive here."""
        try:
            return ratios is None or bool(sweep.parse_ratios(ratios, "Mixing Ratio List"))
        except ValueError as refused:
            return str(refused)

    @classmethod
    def execute(cls, ratios) -> io.NodeOutput:
        return io.NodeOutput(sweep.parse_ratios(ratios, "Mixing Ratio List"))


class SweepGrid(io.ComfyNode):
    """All videos of a sweep side by side, and what each is worth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSweepGrid",
            display_name="Sweep Grid",
            category=controls.CATEGORY,
            description="Puts the videos of a Mixing Ratio List side by side, labelled, and plots how steady each is "
            "against how much it still looks like the frames. Choose from the joined points.",
            search_aliases=["compare ratios", "contact sheet", "xy plot", "pareto"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The smoothed videos, from VAE Decode: one for each ratio."),
                io.Float.Input(
                    "ratios",
                    force_input=True,
                    tooltip="The ratio of each video, from Mixing Ratio List or from ratio of Mixed Inversion Blend.",
                ),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="The frames before smoothing, which the videos should still look like; shown first in the "
                    "grid. Without them the likeness is to the video of the smallest ratio.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="One video of all of them, for Create Video."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="Steadiness against likeness. Crosses only stand still or are only blurred.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, ratios, reference_images=None) -> io.NodeOutput:
        node = "Sweep Grid"
        if len(images) != len(ratios):
            raise ValueError(
                f"{node}: {len(images)} videos arrived with {len(ratios)} ratios. Wire ratios to the Mixing Ratio List "
                "that the videos come from."
            )
        first = metrics.check_video(images[0], node)
        videos = [metrics.check_video(video, node, like=first) for video in images]
        names = [f"ratio {ratio:g}" for ratio in ratios]
        if reference_images:
            reference, against = metrics.check_video(reference_images[0], node, like=first), "the frames before"
            grid = sweep.grid([reference, *videos], ["before", *names])
        else:
            smallest = ratios.index(min(ratios))
            reference, against = videos[smallest], names[smallest]
            grid = sweep.grid(videos, names)
        return io.NodeOutput(grid, plots.trade_off(names, *sweep.compare(videos, reference), against))

"""Compare two videos on the node."""

from comfy_api.latest import io, ui
from torch import Tensor

from ..bivdiff_core.measure.video_metrics import frame_difference
from . import shared_inputs
from .base import PackNode
from .video_inputs import validate_images


class CompareVideos(PackNode):
    """Saves two clips as temporary files for js/compare_videos.js, and their frame differences."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffCompareVideos",
            display_name="Compare Videos",
            category=shared_inputs.CATEGORY,
            description="Plays two clips in sync with a dividing line between them: drag it across the picture. The "
            "curves show how much each frame differs from the one before (mean absolute difference, 0 to 255): high "
            "values are flicker, or motion that both clips share.",
            search_aliases=["compare video", "before after", "wipe", "side by side", "flicker", "ab test"],
            inputs=[
                io.Image.Input("before", tooltip="The clip on the left: the source, or the frames before smoothing."),
                io.Image.Input(
                    "after", tooltip="The clip on the right, with the same number of frames. Its size may differ."
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=0.01,
                    max=120.0,
                    step=0.01,
                    tooltip="Frames shown per second. Wire fps of Select Frames to play at the clip's speed.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def run(cls, before: Tensor, after: Tensor, fps: float) -> io.NodeOutput:
        clips = (validate_images(before, "before"), validate_images(after, "after"))
        if len(before) != len(after):
            raise ValueError(
                f"before has {len(before)} frames and after has {len(after)}. Give both the same "
                "frames, with Select Frames."
            )
        files = [ui.PreviewImage(clip, cls=cls).values for clip in clips]
        changes = [(frame_difference(clip.float()) * 255).tolist() for clip in clips]
        return io.NodeOutput(ui={"before": files[0], "after": files[1], "changes": [changes], "fps": [fps]})

"""Compare two videos on the node."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import comfy.utils
import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..bivdiff_core.measure.audio_cuts import cut_audio
from ..bivdiff_core.measure.comparison_files import OPUS_RATE, limit_size, stack_frames, write_webm
from ..bivdiff_core.measure.video_metrics import frame_difference
from . import shared_inputs
from .base import PackNode
from .video_inputs import validate_images


class CompareVideos(PackNode):
    """Saves two clips in one temporary file for js/compare_videos.js, and their frame differences."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffCompareVideos",
            display_name="Compare Videos",
            category=shared_inputs.CATEGORY,
            description="Plays two clips in sync with a dividing line between them: drag it across the picture. The "
            "curves show how much each frame differs from the one before (mean absolute difference, in percent): high "
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
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The sound of the clips, from Select Frames. It begins muted: click the button muted "
                    "to hear it.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def run(cls, before: Tensor, after: Tensor, fps: float, audio: dict | None = None) -> io.NodeOutput:
        before, after = validate_images(before, "before"), validate_images(after, "after")
        if len(before) != len(after):
            raise ValueError(
                f"before has {len(before)} frames and after has {len(after)}. Give both the same "
                "frames, with Select Frames."
            )
        # A pair of frames at a time saves memory.
        changes = [[frame_difference(pair.float()).item() for pair in zip_adjacent(clip)] for clip in (before, after)]
        shown = {"changes": [changes], "fps": [fps], "sound": [audio is not None]}
        if len(after) == 1:
            picture = stack_frames([before[0], after[0]], (after.shape[1], after.shape[2]))
            return io.NodeOutput(ui={"compared": ui.PreviewImage(picture[None], cls=cls).values, **shown})
        return io.NodeOutput(ui={"compared": [save_video(before, after, fps, audio)], **shown})


def zip_adjacent(clip: Tensor) -> Iterator[Tensor]:
    """Each frame with the one before, `[2, H, W, C]`."""
    return (clip[i : i + 2] for i in range(len(clip) - 1))


def save_video(before: Tensor, after: Tensor, fps: float, audio: dict | None) -> dict[str, str]:
    """Write a temporary video of two clips, one above the other in the size of `after`, and return its file."""
    folder, name = Path(folder_paths.get_temp_directory()), f"bivdiff_{token_hex(8)}.webm"
    folder.mkdir(parents=True, exist_ok=True)
    height, width = limit_size(*after.shape[1:3])
    # An update of the bar also stops a cancelled run.
    bar = comfy.utils.ProgressBar(len(after))

    def stacked() -> Iterator[Tensor]:
        for pair in zip(before, after, strict=True):
            yield stack_frames(pair, (height, width))
            bar.update(1)

    waveform, rate = None, OPUS_RATE
    if audio is not None:
        rate = audio["sample_rate"]
        waveform = cut_audio(audio["waveform"][0], rate, fps, 0, len(after))
    write_webm(folder / name, stacked(), (2 * height, width), fps, waveform, rate)
    return {"filename": name, "subfolder": "", "type": "temp"}

"""Write the packaged clip: for BIVDiff Demo Clip, and as the video file that templates load by default.

    python -m research.packaged_clip

It is a clip of the toy world. The node's clip is one period of the motion; the file is enlarged for viewing and long
enough for every template's stride and count.
"""

from __future__ import annotations

from pathlib import Path

import av
from safetensors.torch import save_file

from bivdiff_core.demo.models import WEIGHTS_FOLDER
from research import toy_world
from tools.workflow_parts import PACKAGED_CLIP

ROOT = Path(__file__).resolve().parents[1]

CLIP = ROOT / "workflows" / PACKAGED_CLIP
FRAMES, RATE, SCALE = 64, 8, 8


def main() -> None:
    """Write the clip as bytes, and as H.264 that every browser plays."""
    clip = toy_world.packaged_clip(FRAMES)
    frames, period = (clip.frames * 255).round().byte(), 2 * (max(clip.times) - min(clip.times))
    save_file({"frames": frames[:period].contiguous()}, WEIGHTS_FOLDER / "clip.safetensors")
    large = frames.repeat_interleave(SCALE, dim=1).repeat_interleave(SCALE, dim=2)
    with av.open(str(CLIP), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "14"})
        stream.height, stream.width, stream.pix_fmt = *large.shape[1:3], "yuv420p"
        for picture in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy())))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()

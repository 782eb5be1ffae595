"""Two clips in one video file, one above the other, so that they cannot drift apart when it plays."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor

MAX_SIDES = 1920, 1080
"""Longer and shorter side, in pixels, that a clip has at most in the file."""

MAX_FRAME_BYTES = 160_000
"""Mean size of a frame of the file at most: 48 MB for 300 frames. Only noisy clips near `MAX_SIDES` reach it."""

VP9_OPTIONS = {"crf": "24", "deadline": "realtime", "cpu-used": "8", "row-mt": "1", "g": "24"}
"""Options of libvpx. To show any frame, a player decodes all frames since the last keyframe, at most `g` of them."""

OPUS_RATE = 48000

BT709, LIMITED_RANGE = 1, 1
"""Codes of BT.709's primaries, transfer function and matrix in ITU-T H.273, and of a luma of 16 to 235 in FFmpeg."""


def limit_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a clip in the file: within `MAX_SIDES`, and even because of VP9's chroma."""
    longer, shorter = MAX_SIDES
    scale = min(1, longer / max(height, width), shorter / min(height, width))
    return max(round(height * scale / 2), 1) * 2, max(round(width * scale / 2), 1) * 2


def stack_frames(frames: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Frames `[H, W, C]` in 0..1, resized to one height and width, one above the other: `[N * height, width, 3]`."""
    return torch.cat([_resize(frame[..., :3].float(), size) for frame in frames])


def _resize(frame: Tensor, size: tuple[int, int]) -> Tensor:
    if frame.shape[:2] == size:
        return frame
    pixels = torch.nn.functional.interpolate(
        frame.movedim(-1, 0)[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return pixels[0].movedim(0, -1)


def write_webm(
    path: Path,
    frames: Iterable[Tensor],
    size: tuple[int, int],
    fps: float,
    waveform: Tensor | None = None,
    sample_rate: int = OPUS_RATE,
) -> None:
    """Write a WebM file of VP9 and Opus, which every build of Chromium plays, unlike H.264.

    Args:
        path: the file.
        frames: `[H, W, 3]` each, in 0..1; encoded one by one.
        size: their height and width, even.
        fps: frames per second.
        waveform: sound that begins with the first frame, `[channels, samples]`; the first two channels are written.
        sample_rate: samples per second of the waveform.
    """
    rate = Fraction(fps).limit_denominator(1000)
    # With a delta of 0 the muxer interleaves sound that was encoded before the first frame with all frames.
    with av.open(str(path), "w", options={"max_interleave_delta": "0"}) as container:
        bit_rate = round(8 * MAX_FRAME_BYTES * rate)
        video = container.add_stream("libvpx-vp9", rate=rate, options={**VP9_OPTIONS, "maxrate": str(bit_rate)})
        video.height, video.width = size
        video.pix_fmt, video.bit_rate = "yuv420p", bit_rate
        codec = video.codec_context
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = LIMITED_RANGE
        if waveform is not None:
            waveform = waveform[:2].float().cpu()
            layout = "mono" if len(waveform) == 1 else "stereo"
            audio = container.add_stream("libopus", rate=OPUS_RATE, layout=layout)
            samples = av.AudioFrame.from_ndarray(waveform.contiguous().numpy(), format="fltp", layout=layout)
            samples.sample_rate = sample_rate
            container.mux(audio.encode(samples))
            container.mux(audio.encode())
        for frame in frames:
            pixels = (frame.clamp(0, 1) * 255).round().byte().cpu().numpy()
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(video.encode(picture.reformat(format="yuv420p", dst_colorspace=BT709)))
        container.mux(video.encode())

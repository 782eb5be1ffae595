"""Cut audio to a range of a clip's frames."""

from torch import Tensor
from torch.nn.functional import pad


def cut_audio(waveform: Tensor, sample_rate: int, fps: float, start: int, stop: int) -> Tensor:
    """Audio of the frames from `start` up to, but not including, `stop`, padded with silence after the sound ends.

    Each end is rounded to the nearest sample separately, so consecutive cuts join without a gap and never drift.

    Args:
        waveform: sound that begins with frame 0, `[..., samples]`.
        sample_rate: samples per second.
        fps: frames per second, constant over the clip.
        start: the first frame, counted from 0.
        stop: the frame after the last one; may lie past the end of the clip.

    Returns:
        `[..., round(stop * sample_rate / fps) - round(start * sample_rate / fps)]`.
    """
    first, end = (round(frame * sample_rate / fps) for frame in (start, stop))
    cut = waveform[..., first:end]
    return pad(cut, (0, end - first - cut.shape[-1]))

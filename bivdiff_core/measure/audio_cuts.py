"""The sound that belongs to some frames of a clip."""

from torch import Tensor
from torch.nn.functional import pad


def cut_audio(waveform: Tensor, sample_rate: int, fps: float, start: int, stop: int) -> Tensor:
    """Cut out what sounds while the frames from `start` to before `stop` are shown, silence where there is nothing.

    Both ends are rounded to the nearest sample on their own: consecutive cuts join without a gap and never drift.

    Args:
        waveform: sound that begins with frame 0, `[..., samples]`.
        sample_rate: samples a second.
        fps: frames a second, the same throughout the clip.
        start: the first frame, counted from 0.
        stop: the frame after the last one, within the clip or past it.

    Returns:
        `[..., round(stop * sample_rate / fps) - round(start * sample_rate / fps)]`.
    """
    first, end = (round(frame * sample_rate / fps) for frame in (start, stop))
    cut = waveform[..., first:end]
    return pad(cut, (0, end - first - cut.shape[-1]))

"""Audio cut to frames, on waveforms whose samples hold their own index."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from bivdiff_core.measure.audio_cuts import cut_audio

RATES = [(44100, 24.0), (48000, 30000 / 1001), (22050, 7.3), (8000, 24000 / 1001)]

rates = pytest.mark.parametrize(("sample_rate", "fps"), RATES)


def sample_numbers(count: int, *shape: int) -> Tensor:
    """A waveform whose samples are their indices, counted from 1, so that 0 is silence."""
    return torch.arange(1, count + 1, dtype=torch.float64).expand(*shape, count)


@rates
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 4), (7, 40), (33, 35)])
def test_a_cut_matches_the_frames_time_within_half_a_sample(sample_rate, fps, start, stop):
    cut = cut_audio(sample_numbers(10 * sample_rate, 1, 1), sample_rate, fps, start, stop).flatten()
    assert torch.equal(cut.diff(), torch.ones(len(cut) - 1))
    first, end = (Fraction(int(sample)) for sample in (cut[0] - 1, cut[-1]))
    for frame, sample in ((start, first), (stop, end)):
        assert abs(frame / Fraction(fps) - sample / sample_rate) * sample_rate <= Fraction(1, 2)


@rates
def test_consecutive_cuts_join_to_the_original_sound(sample_rate, fps):
    frames = 150
    sound = sample_numbers(30 * sample_rate, 1, 2)
    cuts = [cut_audio(sound, sample_rate, fps, start, start + 3) for start in range(0, frames, 3)]
    joined = torch.cat(cuts, dim=-1)
    assert torch.equal(joined, sound[..., : joined.shape[-1]])
    assert abs(joined.shape[-1] / sample_rate - frames / fps) <= 0.5 / sample_rate


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2), (2, 6)])
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1500, 1999, 2000, 9000])
def test_silence_is_padded_after_the_sound_ends(shape, count):
    sound = sample_numbers(count, *shape)
    cut = cut_audio(sound, sample_rate=1000, fps=10.0, start=10, stop=20)
    assert cut.shape == (*shape, 1000)
    sound_length = max(0, min(count, 2000) - 1000)
    assert torch.equal(cut[..., :sound_length], sound[..., 1000 : 1000 + sound_length])
    assert not cut[..., sound_length:].any()


def test_sound_that_begins_after_the_frames_is_not_heard():
    sound = sample_numbers(3000, 1, 2) * (torch.arange(3000) >= 2000)
    cut = cut_audio(sound, sample_rate=1000, fps=10.0, start=10, stop=20)
    assert cut.shape == (1, 2, 1000) and not cut.any()

"""What the latent report sees: white noise passes at any size, each fault is named, and chance is no fault."""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from bivdiff_core.measure import latent_statistics

SHAPE = (8, 4, 32, 32)


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def smeared(noise: Tensor) -> Tensor:
    """Noise with structure in it, still of unit variance."""
    soft = noise + 0.5 * noise.roll(1, -1) + 0.5 * noise.roll(1, -2)
    return soft / soft.std()


def failures(latent: Tensor, branch: str = "image", strength: float = 1.0) -> list[str]:
    return [finding.failure for finding in findings(latent, branch, strength)]


def findings(latent: Tensor, branch: str = "image", strength: float = 1.0) -> list[latent_statistics.Finding]:
    frames = latent_statistics.flatten_to_frames(latent)
    measured = latent_statistics.measure_latent(frames)
    off = latent_statistics.normalized_deviation(measured, latent_statistics.sampling_limits(tuple(frames.shape)))
    found = latent_statistics.diagnose(measured, off, branch, strength)
    if found and "not an inverted latent" not in found[0].failure:
        assert found[0].alarming == (latent_statistics.alarm_severity(off, strength) > 1)
    return found


def patterned(seed: int) -> Tensor:
    """A clip of 64x64 with patches, reduced to latent pixels, of noise's std."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angles, phases = (2 * math.pi * torch.rand(2, 4, 8, 1, 1, generator=generator)).unbind()
    waves = torch.sin(2 * math.pi / 22 * (angles.cos() * x + angles.sin() * y) + phases).sum(dim=1)
    level = torch.nn.functional.avg_pool2d(torch.tanh(1.5 * waves), 8)
    return (level / level.std(dim=(-2, -1), keepdim=True)).expand(8, -1, -1, -1)


def test_patterns_as_fine_as_a_latent_holds_are_not_white():
    assert all(latent_statistics.is_white_noise(white(8, 4, 8, 8, seed=seed)) for seed in range(20))
    assert not any(latent_statistics.is_white_noise(patterned(seed)) for seed in range(20))
    unrelated = [abs(latent_statistics.noise_statistics(patterned(seed))[1]) < 0.1 for seed in range(20)]
    assert any(unrelated), "neighbours tell of none"


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (8, 4, 8, 8), (1, 16, 5, 8, 12), (3, 16, 1, 16, 16), (1, 4, 16, 16)])
def test_white_noise_passes_at_any_size(shape):
    alarms = [bool(findings(white(*shape, seed=seed))) for seed in range(1, 21)]
    assert sum(alarms) <= 2  # five figures with two bounds each, the worst of 256 draws: 4 in 100 by chance


def test_what_chance_does_to_a_small_latent_is_no_fault():
    low, high = latent_statistics.HEALTHY_RANGES["std"]
    draws = [white(1, 4, 8, 8, seed=seed) for seed in range(1, 31)]
    unlucky = [draw for draw in draws if not low < draw.std() < high]
    assert len(unlucky) > 1
    assert sum("variance" in name for draw in unlucky for name in failures(draw)) <= 1


def test_bounds_of_a_large_latent_are_those_of_health():
    found = latent_statistics.sampling_limits((16, 4, 64, 64))
    for name in ("std", "spatial", "bands"):
        assert found[name] == latent_statistics.HEALTHY_RANGES[name]


def test_bounds_are_always_the_same_and_leave_other_noise_alone():
    shape = (3, 4, 8, 8)
    first, state = latent_statistics.sampling_limits(shape), torch.random.get_rng_state()
    latent_statistics.sampling_limits.cache_clear()
    assert latent_statistics.sampling_limits(shape) == first
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("scale", "failure"), [(0.85, "lost variance"), (1.2, "too much variance")])
def test_noise_std(scale, failure):
    (found,) = findings(scale * white())
    assert found.failure == failure and f"{scale:.2f}" in found.seen and "fireflow" in found.fixes[0]


def test_a_little_lost_is_no_alarm_and_much_is():
    """Good videos came from latents at 0.8; what lies further off than any of them stops a graph."""
    for scale, headline in ((0.8, "No alarm, but lost variance"), (0.6, "Alarm: lost variance")):
        found = findings(scale * white())
        assert latent_statistics.summarize_findings(found, 1.0) == headline


def test_what_is_alarming_comes_first():
    latent = 0.8 * white()
    latent[2] *= 0.5
    found = findings(latent)
    assert [finding.failure for finding in found] == ["one bad frame", "lost variance"]
    assert latent_statistics.summarize_findings(found, 1.0) == "Alarm: one bad frame"


def test_variance_lost_in_the_mix_is_fixed_in_the_blend():
    (found,) = findings(0.8 * white(), branch="mix")
    assert "variance_preserving" in found.fixes[0]
    assert "variance_preserving" not in "".join(findings(0.8 * white(), branch="video")[0].fixes)


def test_structure_is_named_and_nothing_else():
    assert failures(smeared(white())) == ["structure left in the noise"]


@pytest.mark.parametrize("spoil", [lambda frame: 0.6 * frame, smeared], ids=["weak", "smeared"])
def test_a_bad_frame_is_named_by_its_number(spoil):
    latent = white(16, 4, 32, 32)
    latent[5] = spoil(latent[5])
    (found,) = findings(latent)
    assert found.failure == "one bad frame" and found.seen.endswith(": 5")


def test_what_all_frames_have_is_the_fault_of_none():
    assert failures(0.8 * white()) == ["lost variance"]


@pytest.mark.parametrize("frames", [2, 8])
def test_frames_that_are_alike_are_no_fault(frames):
    latent = white(1, 4, 32, 32).expand(frames, -1, -1, -1)
    assert latent_statistics.measure_latent(latent)["temporal"].tolist() == pytest.approx([1] * (frames - 1))
    assert not findings(latent)


@pytest.mark.parametrize(
    "latent",
    [torch.zeros(SHAPE), 5 * white(), torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)],
    ids=["empty", "of another scale", "smooth"],
)
def test_what_was_never_inverted_is_said_to_be_so(latent):
    (found,) = findings(latent, branch="")
    assert found.failure == "not an inverted latent" and "DDIM Inverse" in found.fixes[0]


def test_what_says_that_it_was_inverted_is_believed():
    """Inversions of smooth footage stay as smooth as this at any number of steps."""
    smooth = torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)
    assert failures(smooth, branch="video") == ["structure left in the noise"]


def test_below_full_strength_only_bad_frames_count():
    latent = 0.8 * smeared(white())
    assert failures(latent, strength=0.6) == []
    latent[2] *= 0.5
    assert failures(latent, strength=0.6) == ["one bad frame"]


def test_a_video_latent_is_its_frames():
    latent = white(6, 4, 16, 16)
    for other in (latent.transpose(0, 1)[None], latent.unsqueeze(2)):
        assert torch.equal(latent_statistics.flatten_to_frames(other), latent)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (32, 20)])
def test_bands_equal_those_counted_one_by_one(size):
    noise = white(2, 3, *size)
    power = (np.abs(np.fft.fft2(noise.numpy())) ** 2 / (size[0] * size[1])).mean(axis=1)
    bands = [[], [], [], []]
    for i, y in enumerate(np.fft.fftfreq(size[0])):
        for j, x in enumerate(np.fft.fftfreq(size[1])):
            radius = 2 * (x * x + y * y) ** 0.5
            bands[sum(radius > edge + 1e-6 for edge in (0.25, 0.5, 0.75))].append(power[:, i, j])
    expected = torch.tensor(np.array([np.mean(band, axis=0) for band in bands]).T, dtype=torch.float32)
    torch.testing.assert_close(latent_statistics.band_power(noise), expected)


def test_each_pattern_lies_in_its_band():
    x = torch.arange(32)
    coarse = torch.cos(2 * torch.pi * x / 16).expand(32, 32)
    checkerboard = (-1.0) ** (x[:, None] + x)
    found = latent_statistics.band_power(torch.stack([coarse, checkerboard])[:, None])
    assert (found > 0.01).tolist() == [[True, False, False, False], [False, False, False, True]]


def test_the_words_say_what_to_do_and_say_it_once():
    found = findings(0.6 * smeared(white()), "mix")
    said = latent_statistics.format_findings(found, "mix", 1.0)
    assert said.startswith("Alarm: lost variance, structure left in the noise.")
    sentences = re.split(r"(?<=\.)\s", said)
    assert len(set(sentences)) == len(sentences) and {fix for each in found for fix in each.fixes} <= set(sentences)
    healthy = latent_statistics.format_findings([], "", 0.6)
    assert healthy.startswith("No bad frames") and "strength 0.6" in healthy and "does not say where" in healthy
    assert latent_statistics.summarize_findings([], 1.0).startswith("Healthy")


def test_the_table_holds_the_figures():
    assert "noise std: 0.6" in latent_statistics.format_latent_statistics(
        latent_statistics.measure_latent(0.6 * white())
    )


def test_structure_in_the_mix_is_fixed_by_the_whiter_branch():
    assert "mixing_ratio" in findings(smeared(white()), branch="mix")[0].fixes[0]
    assert "mixing_ratio" not in "".join(findings(smeared(white()), branch="image")[0].fixes)

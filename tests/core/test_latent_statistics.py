"""The latent report: white noise passes at any size, each problem is named, and sampling variance is no problem."""

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
    """Noise with spatial structure, scaled to unit variance."""
    soft = noise + 0.5 * noise.roll(1, -1) + 0.5 * noise.roll(1, -2)
    return soft / soft.std()


def problems(latent: Tensor, branch: str = "image", strength: float = 1.0) -> list[str]:
    return [finding.problem for finding in findings(latent, branch, strength)]


def findings(latent: Tensor, branch: str = "image", strength: float = 1.0) -> list[latent_statistics.Finding]:
    frames = latent_statistics.flatten_to_frames(latent)
    measured = latent_statistics.measure_latent(frames)
    bounds = latent_statistics.sampling_limits(tuple(frames.shape))
    deviations = latent_statistics.normalized_deviation(measured, bounds)
    found = latent_statistics.diagnose(measured, deviations, branch, strength)
    if found and "not an inverted latent" not in found[0].problem:
        assert found[0].alarming == bool(latent_statistics.find_bad_frames(deviations))
    return found


def patterned(seed: int) -> Tensor:
    """A 64x64 clip with patches, downscaled to latent size and scaled to unit std."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    angles, phases = (2 * math.pi * torch.rand(2, 4, 8, 1, 1, generator=generator)).unbind()
    waves = torch.sin(2 * math.pi / 22 * (angles.cos() * x + angles.sin() * y) + phases).sum(dim=1)
    level = torch.nn.functional.avg_pool2d(torch.tanh(1.5 * waves), 8)
    return (level / level.std(dim=(-2, -1), keepdim=True)).expand(8, -1, -1, -1)


def test_very_fine_patterns_are_not_white_noise():
    assert all(latent_statistics.is_white_noise(white(8, 4, 8, 8, seed=seed)) for seed in range(20))
    assert not any(latent_statistics.is_white_noise(patterned(seed)) for seed in range(20))
    uncorrelated = [abs(latent_statistics.noise_statistics(patterned(seed))[1]) < 0.1 for seed in range(20)]
    assert any(uncorrelated), "the correlation of adjacent values rejects them all"


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (8, 4, 8, 8), (1, 16, 5, 8, 12), (3, 16, 1, 16, 16), (1, 4, 16, 16)])
def test_white_noise_passes_at_any_size(shape):
    found = [bool(findings(white(*shape, seed=seed))) for seed in range(1, 21)]
    assert sum(found) <= 2


def test_sampling_variance_of_a_small_latent_is_no_problem():
    low, high = latent_statistics.HEALTHY_RANGES["std"]
    samples = [white(1, 4, 8, 8, seed=seed) for seed in range(1, 31)]
    outliers = [sample for sample in samples if not low < sample.std() < high]
    assert len(outliers) > 1
    assert sum("variance" in name for sample in outliers for name in problems(sample)) <= 1


def test_bounds_of_a_large_latent_are_the_healthy_ranges():
    found = latent_statistics.sampling_limits((16, 4, 64, 64))
    for name in ("std", "spatial", "bands"):
        assert found[name] == latent_statistics.HEALTHY_RANGES[name]


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (8, 4, 8, 8), (3, 16, 4, 12), (1, 4, 16, 16)])
def test_bounds_have_the_width_of_the_sampling_distribution(monkeypatch, shape):
    """Against 1000 samples: hardly any lies outside, and many lie outside of bounds of one standard deviation."""
    monkeypatch.setattr(latent_statistics, "HEALTHY_RANGES", dict.fromkeys(latent_statistics.HEALTHY_RANGES, (1, 0)))
    samples = [latent_statistics.measure_latent(white(*shape, seed=seed)) for seed in range(1000)]
    limits = latent_statistics.sampling_limits(shape)
    monkeypatch.setattr(latent_statistics, "SAMPLING_Z", 1.0)
    narrow = latent_statistics.sampling_limits(shape)
    for name in latent_statistics.HEALTHY_RANGES:
        values = torch.cat([sample[name].flatten() for sample in samples])
        if name.startswith("odd") and shape[0] == 1:
            assert values.eq(1).all()
            continue
        outside = [((values < low) | (values > high)).float().mean() for low, high in (limits[name], narrow[name])]
        assert outside[0] < 0.003 and outside[1] > 0.04, name


@pytest.mark.parametrize(("scale", "problem"), [(0.85, "lost variance"), (1.2, "too much variance")])
def test_noise_std(scale, problem):
    (found,) = findings(scale * white())
    assert found.problem == problem and f"{scale:.2f}" in found.observation and "fireflow" in found.fixes[0]


@pytest.mark.parametrize("latent", [0.6 * white(), 2 * white(), smeared(white())], ids=["weak", "strong", "smeared"])
def test_only_broken_frames_and_what_is_not_noise_raise_the_alarm(latent):
    """Good videos came from latents with lost variance and from latents with structure."""
    found = findings(latent)
    assert found and latent_statistics.summarize_findings(found, 1.0).startswith("No alarm, but ")


def test_alarming_findings_come_first():
    latent = 0.8 * white()
    latent[2] *= 0.5
    found = findings(latent)
    assert [finding.problem for finding in found] == ["one bad frame", "lost variance"]
    assert latent_statistics.summarize_findings(found, 1.0) == "Alarm: one bad frame"


def test_variance_lost_in_the_mix_is_fixed_in_the_blend():
    (found,) = findings(0.8 * white(), branch="mix")
    assert "variance_preserving" in found.fixes[0]
    assert "variance_preserving" not in "".join(findings(0.8 * white(), branch="video")[0].fixes)


def test_structure_is_the_only_problem_named():
    assert problems(smeared(white())) == ["structure left in the noise"]


@pytest.mark.parametrize("damage", [lambda frame: 0.6 * frame, smeared], ids=["weak", "smeared"])
def test_a_bad_frame_is_named_by_its_number(damage):
    latent = white(16, 4, 32, 32)
    latent[5] = damage(latent[5])
    (found,) = findings(latent)
    assert found.problem == "one bad frame" and found.observation.endswith(": 5")


def test_a_problem_of_all_frames_makes_no_bad_frame():
    assert problems(0.8 * white()) == ["lost variance"]


@pytest.mark.parametrize("frames", [2, 8])
def test_identical_frames_are_no_problem(frames):
    latent = white(1, 4, 32, 32).expand(frames, -1, -1, -1)
    assert latent_statistics.measure_latent(latent)["temporal"].tolist() == pytest.approx([1] * (frames - 1))
    assert not findings(latent)


@pytest.mark.parametrize(
    "latent",
    [torch.zeros(SHAPE), 5 * white(), torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)],
    ids=["empty", "another scale", "smooth"],
)
def test_a_latent_that_was_not_inverted_is_reported(latent):
    (found,) = findings(latent, branch="")
    assert found.problem == "not an inverted latent" and "DDIM Inverse" in found.fixes[0]


def test_a_latent_with_an_inversion_record_is_accepted():
    """Inversions of smooth footage are this smooth at any number of steps."""
    smooth = torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)
    assert problems(smooth, branch="video") == ["structure left in the noise"]


def test_below_full_strength_only_bad_frames_count():
    latent = 0.8 * smeared(white())
    assert problems(latent, strength=0.6) == []
    latent[2] *= 0.5
    assert problems(latent, strength=0.6) == ["one bad frame"]


def test_a_video_latent_is_flattened_to_frames():
    latent = white(6, 4, 16, 16)
    for other in (latent.transpose(0, 1)[None], latent.unsqueeze(2)):
        assert torch.equal(latent_statistics.flatten_to_frames(other), latent)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (32, 20)])
def test_band_power_equals_a_sum_over_single_frequencies(size):
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


def test_the_report_states_each_fix_once():
    found = findings(0.6 * smeared(white()), "mix")
    report = latent_statistics.format_findings(found, "mix", 1.0)
    assert report.startswith("No alarm, but lost variance, structure left in the noise.")
    sentences = re.split(r"(?<=\.)\s", report)
    assert len(set(sentences)) == len(sentences) and {fix for each in found for fix in each.fixes} <= set(sentences)
    healthy = latent_statistics.format_findings([], "", 0.6)
    assert healthy.startswith("No bad frames") and "strength 0.6" in healthy and "does not say where" in healthy
    assert latent_statistics.summarize_findings([], 1.0).startswith("Healthy")


def test_the_table_contains_the_figures():
    assert "noise std: 0.6" in latent_statistics.format_latent_statistics(
        latent_statistics.measure_latent(0.6 * white())
    )


def test_structure_in_a_mix_is_fixed_by_more_of_the_image_branch():
    assert "mixing_ratio" in findings(smeared(white()), branch="mix")[0].fixes[0]
    assert "mixing_ratio" not in "".join(findings(smeared(white()), branch="image")[0].fixes)

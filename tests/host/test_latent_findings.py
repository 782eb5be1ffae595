"""The latent report: white noise passes at any size, each problem is named, and sampling variance is no problem."""

import re

import pytest
import torch
from fixtures.sample_latents import SHAPE, smeared, white
from torch import Tensor

from bivdiff_core.measure import latent_statistics


@pytest.fixture(scope="module")
def latent_findings(pack):
    return pack.import_module("nodes.latent_findings")


@pytest.fixture(scope="module")
def findings(latent_findings):
    """Finds the problems of a latent."""

    def find(latent: Tensor, branch: str = "image", strength: float = 1.0) -> list:
        frames = latent_statistics.flatten_to_frames(latent)
        measured = latent_statistics.measure_latent(frames)
        bounds = latent_statistics.sampling_limits(tuple(frames.shape))
        deviations = latent_statistics.normalize_deviations(measured, bounds)
        found = latent_findings.diagnose(measured, deviations, branch, strength)
        if found and "not an inverted latent" not in found[0].problem:
            assert found[0].is_alarming == bool(latent_statistics.find_bad_frames(deviations))
        return found

    return find


@pytest.fixture(scope="module")
def problems(findings):
    """Names the problems of a latent."""
    return lambda *latent, **inversion: [finding.problem for finding in findings(*latent, **inversion)]


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (8, 4, 8, 8), (1, 16, 5, 8, 12), (3, 16, 1, 16, 16), (1, 4, 16, 16)])
def test_white_noise_passes_at_any_size(findings, shape):
    found = [bool(findings(white(*shape, seed=seed))) for seed in range(1, 21)]
    assert sum(found) <= 2


def test_sampling_variance_of_a_small_latent_is_no_problem(problems):
    low, high = latent_statistics.HEALTHY_RANGES["std"]
    samples = [white(1, 4, 8, 8, seed=seed) for seed in range(1, 31)]
    outliers = [sample for sample in samples if not low < sample.std() < high]
    assert len(outliers) > 1
    assert sum("variance" in name for sample in outliers for name in problems(sample)) <= 1


@pytest.mark.parametrize(("scale", "problem"), [(0.85, "lost variance"), (1.2, "too much variance")])
def test_noise_std(findings, scale, problem):
    (found,) = findings(scale * white())
    assert found.problem == problem and f"{scale:.2f}" in found.observation and "fireflow" in found.fixes[0]


@pytest.mark.parametrize("latent", [0.6 * white(), 2 * white(), smeared(white())], ids=["weak", "strong", "smeared"])
def test_only_broken_frames_and_what_is_not_noise_raise_the_alarm(latent_findings, findings, latent):
    """Good videos came from latents with lost variance and from latents with structure."""
    found = findings(latent)
    assert found and latent_findings.summarize_findings(found, 1.0).startswith("No alarm, but ")


def test_alarming_findings_come_first(latent_findings, findings):
    latent = 0.8 * white()
    latent[2] *= 0.5
    found = findings(latent)
    assert [finding.problem for finding in found] == ["one bad frame", "lost variance"]
    assert latent_findings.summarize_findings(found, 1.0) == "Alarm: one bad frame"


def test_variance_lost_in_the_mix_is_fixed_in_the_blend(findings):
    (found,) = findings(0.8 * white(), branch="mix")
    assert "variance_preserving" in found.fixes[0]
    assert "variance_preserving" not in "".join(findings(0.8 * white(), branch="video")[0].fixes)


def test_structure_is_the_only_problem_named(problems):
    assert problems(smeared(white())) == ["structure left in the noise"]


@pytest.mark.parametrize("damage", [lambda frame: 0.6 * frame, smeared], ids=["weak", "smeared"])
def test_a_bad_frame_is_named_by_its_number(findings, damage):
    latent = white(16, 4, 32, 32)
    latent[5] = damage(latent[5])
    (found,) = findings(latent)
    assert found.problem == "one bad frame" and found.observation.endswith(": 5")


def test_a_problem_of_all_frames_makes_no_bad_frame(problems):
    assert problems(0.8 * white()) == ["lost variance"]


@pytest.mark.parametrize("frames", [2, 8])
def test_identical_frames_are_no_problem(findings, frames):
    latent = white(1, 4, 32, 32).expand(frames, -1, -1, -1)
    assert latent_statistics.measure_latent(latent)["temporal"].tolist() == pytest.approx([1] * (frames - 1))
    assert not findings(latent)


@pytest.mark.parametrize(
    "latent",
    [torch.zeros(SHAPE), 5 * white(), torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)],
    ids=["empty", "another scale", "smooth"],
)
def test_a_latent_that_was_not_inverted_is_reported(findings, latent):
    (found,) = findings(latent, branch="")
    assert found.problem == "not an inverted latent" and "DDIM Inverse" in found.fixes[0]


def test_a_latent_with_an_inversion_record_is_accepted(problems):
    """Inversions of smooth footage are this smooth at any number of steps."""
    smooth = torch.nn.functional.interpolate(white(8, 4, 8, 8), scale_factor=4)
    assert problems(smooth, branch="video") == ["structure left in the noise"]


def test_below_full_strength_only_bad_frames_count(problems):
    latent = 0.8 * smeared(white())
    assert problems(latent, strength=0.6) == []
    latent[2] *= 0.5
    assert problems(latent, strength=0.6) == ["one bad frame"]


def test_the_report_states_each_fix_once(latent_findings, findings):
    found = findings(0.6 * smeared(white()), "mix")
    text = latent_findings.format_findings(found, "mix", 1.0)
    assert text.startswith("No alarm, but lost variance, structure left in the noise.")
    sentences = re.split(r"(?<=\.)\s", text)
    assert len(set(sentences)) == len(sentences) and {fix for each in found for fix in each.fixes} <= set(sentences)
    healthy = latent_findings.format_findings([], "", 0.6)
    assert healthy.startswith("No bad frames") and "strength 0.6" in healthy and "does not say where" in healthy
    assert latent_findings.summarize_findings([], 1.0).startswith("Healthy")


def test_structure_in_a_mix_is_fixed_by_more_of_the_image_branch(findings):
    assert "mixing_ratio" in findings(smeared(white()), branch="mix")[0].fixes[0]
    assert "mixing_ratio" not in "".join(findings(smeared(white()), branch="image")[0].fixes)

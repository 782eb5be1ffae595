"""Noise levels compared with diffusers' scheduler and the values published with the method."""

import math
import re

import pytest
import torch
from fixtures.released_loops import make_released_scheduler, to_sigmas

from bivdiff_core import grids

MODEL_SIGMAS = to_sigmas(make_released_scheduler(50).alphas_cumprod)


def test_sd_sigma_equals_diffusers_schedule():
    ours = torch.tensor([grids.sd_sigma(t) for t in range(1000)], dtype=torch.float64)
    torch.testing.assert_close(ours, MODEL_SIGMAS, rtol=3e-5, atol=0)


@pytest.mark.parametrize(("t", "sigma"), [(0, 0.0292), (1, 0.0413), (981, 13.120), (998, 14.526), (999, 14.6146)])
def test_sd_sigma_known_values(t, sigma):
    assert grids.sd_sigma(t) == pytest.approx(sigma, abs=5e-4 if sigma > 1 else 5e-5)


def test_sd_sigma_between_and_beyond_timesteps():
    assert grids.sd_sigma(500.5) == pytest.approx(math.sqrt(grids.sd_sigma(500) * grids.sd_sigma(501)))
    assert grids.sd_sigma(1000) == grids.sd_sigma(999)


@pytest.mark.parametrize("sigma", [0.0292, 1.0, 14.6146])
def test_unit_scale_gives_unit_variance(sigma):
    """Unit-variance data plus noise of std sigma, divided by the scale, has unit variance."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 100_000, generator=generator)
    assert ((x0 + sigma * noise) / grids.unit_scale(sigma)).std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("steps", [7, 10, 25, 50, 999])
def test_reference_grids_are_the_released_loops(steps):
    scheduler = make_released_scheduler(steps)
    timesteps = scheduler.timesteps
    assert torch.equal(grids.reference_timesteps(steps), timesteps.flip(0))
    up = grids.reference_inversion_grid(MODEL_SIGMAS, steps)
    down = grids.reference_denoising_grid(MODEL_SIGMAS, steps)
    assert len(up) == len(down) == steps + 1
    torch.testing.assert_close(down[:-1], to_sigmas(scheduler.alphas_cumprod[timesteps]))
    torch.testing.assert_close(down[-1], to_sigmas(scheduler.final_alpha_cumprod))
    torch.testing.assert_close(up[:-1], down[:-1].flip(0))
    assert up[-1] == MODEL_SIGMAS[min(998, int(timesteps[0]) + 1000 // steps)]  # the released loop's last target


def test_the_reference_grid_rescales_the_latent_between_inversion_and_denoising():
    """Inversion ends at t = 998, denoising treats the result as t = 981: a factor of .9037 in k-space."""
    up = grids.reference_inversion_grid(MODEL_SIGMAS, 50)[-1].item()
    down = grids.reference_denoising_grid(MODEL_SIGMAS, 50)[0].item()
    assert grids.unit_scale(down) / grids.unit_scale(up) == pytest.approx(0.9037, abs=1e-4)


def decreasing(*levels: float) -> torch.Tensor:
    return torch.tensor(levels)


def inversion_grid(levels: torch.Tensor, flow: bool, strength: float = 1.0) -> torch.Tensor:
    return grids.matched_inversion_grid(levels, grids.Schedule(len(levels) - 1, "bong_tangent", strength), flow)


def test_truncate_levels_cuts_the_schedule_at_sigma():
    schedule = decreasing(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert grids.truncate_levels(schedule, 2.0).tolist() == pytest.approx([2.0, 1.0, 0.3, 0.0])
    assert grids.truncate_levels(schedule, 3.0).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert grids.truncate_levels(schedule, 3.0 * (1 + 1e-7)).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert torch.equal(grids.truncate_levels(schedule, 99.0), schedule)


def test_matched_grid_is_the_denoising_schedule_backwards():
    schedule = decreasing(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert torch.equal(inversion_grid(schedule, flow=False), schedule.flip(0))


def test_strength_is_the_same_level_for_every_model():
    """SD's sigma at t = 1000 * strength, also for a model with another schedule."""
    plain, shifted = decreasing(14.6, 3.0, 0.4, 0.0), decreasing(25.1, 2.0, 0.3, 0.0)
    end_sigmas = [inversion_grid(s, flow=False, strength=0.5)[-1].item() for s in (plain, shifted)]
    assert end_sigmas == pytest.approx([MODEL_SIGMAS[500].item()] * 2, rel=1e-4)
    flow = inversion_grid(decreasing(1.0, 0.7, 0.3, 0.0), flow=True, strength=0.5)
    assert flow.tolist() == pytest.approx([0.0, 0.3, 0.5])


def test_below_full_strength_a_flow_schedule_need_not_reach_1():
    grid = inversion_grid(decreasing(0.987, 0.4, 0.1, 0.0), flow=True, strength=0.6)
    assert grid.tolist() == pytest.approx([0.0, 0.1, 0.4, 0.6])


def test_rounding_at_the_top_of_a_flow_schedule_is_no_error():
    assert inversion_grid(decreasing(0.99999994, 0.5, 0.0), flow=True)[-1] > 0.9999


def test_a_flow_schedule_that_does_not_reach_1_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.987")) as refusal:
        inversion_grid(decreasing(0.987, 0.4, 0.0), flow=True)
    assert "Set scheduler to simple, normal or beta" in str(refusal.value)


def test_a_too_large_first_step_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.86")) as refusal:
        inversion_grid(decreasing(14.6, 0.86, 0.0), flow=False)
    assert "Raise steps" in str(refusal.value) and "ddim_uniform" in str(refusal.value)
    inversion_grid(decreasing(14.6, 0.49, 0.0), flow=False)
    inversion_grid(decreasing(1.0, 0.86, 0.0), flow=True)  # the velocity of flow models is nearly constant: no limit


def test_signal_fraction_is_the_latents_correlation_with_the_image():
    """The weight of x0 in the unit-variance latent equals the latent's correlation with x0."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 200_000, generator=generator)
    for sigma in (0.5, 3.0):
        z = (x0 + sigma * noise) / grids.unit_scale(sigma)
        assert torch.corrcoef(torch.stack([x0, z]))[0, 1].item() == pytest.approx(
            grids.signal_fraction(sigma, False), abs=0.01
        )
    assert grids.signal_fraction(0.25, flow=True) == 0.75
    assert grids.signal_fraction(0.0, flow=False) == grids.signal_fraction(0.0, flow=True) == 1


@pytest.mark.parametrize("flow", [False, True])
def test_schedules_that_end_below_the_requested_level_are_refused(flow):
    with pytest.raises(ValueError, match="bong_tangent tops out at sigma") as refusal:
        inversion_grid(decreasing(0.9, 0.4, 0.1, 0.0), flow)
    assert "Set scheduler" in str(refusal.value)
    with pytest.raises(ValueError, match="tops out at sigma 0.9, short of sigma"):
        inversion_grid(decreasing(0.9, 0.4, 0.1, 0.0), flow, strength=0.97)
    assert inversion_grid(decreasing(0.9, 0.4, 0.1, 0.0), flow, strength=0.2)[-1] <= 0.9


@pytest.mark.parametrize("sigma_max", [13.1, 25.1, 2.93])
def test_sigma_max_of_other_models_and_of_few_steps_counts_as_full_noise(sigma_max):
    """ddim_uniform with 50 steps, AnimateDiff, ddim_uniform with 3 steps."""
    assert inversion_grid(decreasing(sigma_max, 1.0, 0.3, 0.0), flow=False)[-1].item() == pytest.approx(sigma_max)


def test_denoising_starts_at_the_latents_level_or_is_refused():
    levels = decreasing(13.1, 4.0, 1.0, 0.3, 0.0)
    assert grids.denoising_grid(levels, "normal", flow=False, start_sigma=2.0).tolist() == pytest.approx(
        [2.0, 1.0, 0.3, 0.0]
    )
    with pytest.raises(ValueError, match="scheduler short tops out at sigma 1, short of sigma 2"):
        grids.denoising_grid(decreasing(1.0, 0.3, 0.0), "short", flow=False, start_sigma=2.0)

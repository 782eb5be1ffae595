"""Noise levels against diffusers' own scheduler and the values published with the method."""

import math
import re

import pytest
import torch
from released import released_scheduler, sigmas_of

from bivdiff_core import grids

MODEL_SIGMAS = sigmas_of(released_scheduler(50).alphas_cumprod)


def test_sd_sigma_is_the_schedule():
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
    """Unit-variance data plus sigma of noise, divided by the scale."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 100_000, generator=generator)
    assert ((x0 + sigma * noise) / grids.unit_scale(sigma)).std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("steps", [7, 10, 25, 50, 999])
def test_reference_grids_are_the_released_loops(steps):
    scheduler = released_scheduler(steps)
    falling = scheduler.timesteps
    assert torch.equal(grids.reference_timesteps(steps), falling.flip(0))
    up = grids.reference_inversion_grid(MODEL_SIGMAS, steps)
    down = grids.reference_denoising_grid(MODEL_SIGMAS, steps)
    assert len(up) == len(down) == steps + 1
    torch.testing.assert_close(down[:-1], sigmas_of(scheduler.alphas_cumprod[falling]))
    torch.testing.assert_close(down[-1], sigmas_of(scheduler.final_alpha_cumprod))
    torch.testing.assert_close(up[:-1], down[:-1].flip(0))
    assert up[-1] == MODEL_SIGMAS[min(998, int(falling[0]) + 1000 // steps)]  # the released loop's last target


def test_reference_hand_over_rescales_the_latent():
    """The inversion ends at t = 998, the denoiser takes its result for t = 981: in k-space a factor of .9037."""
    up = grids.reference_inversion_grid(MODEL_SIGMAS, 50)[-1].item()
    down = grids.reference_denoising_grid(MODEL_SIGMAS, 50)[0].item()
    assert grids.unit_scale(down) / grids.unit_scale(up) == pytest.approx(0.9037, abs=1e-4)


def falling(*levels: float) -> torch.Tensor:
    return torch.tensor(levels)


def test_levels_up_to_cuts_the_schedule_at_sigma():
    schedule = falling(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert grids.levels_up_to(schedule, 2.0).tolist() == pytest.approx([2.0, 1.0, 0.3, 0.0])
    assert grids.levels_up_to(schedule, 3.0).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert grids.levels_up_to(schedule, 3.0 * (1 + 1e-7)).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert torch.equal(grids.levels_up_to(schedule, 99.0), schedule)


def test_matched_grid_is_the_denoising_schedule_backwards():
    schedule = falling(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert torch.equal(grids.matched_inversion_grid(schedule, flow=False), schedule.flip(0))


def test_strength_is_the_same_level_for_every_model():
    """SD's sigma at t = 1000 * strength, also on a model whose own schedule goes elsewhere."""
    plain, shifted = falling(14.6, 3.0, 0.4, 0.0), falling(25.1, 2.0, 0.3, 0.0)
    tops = [grids.matched_inversion_grid(s, flow=False, strength=0.5)[-1].item() for s in (plain, shifted)]
    assert tops == pytest.approx([MODEL_SIGMAS[500].item()] * 2, rel=1e-4)
    flow = grids.matched_inversion_grid(falling(1.0, 0.7, 0.3, 0.0), flow=True, strength=0.5)
    assert flow.tolist() == pytest.approx([0.0, 0.3, 0.5])


def test_strength_lets_a_flow_schedule_stop_short_of_noise():
    """Only a full inversion must reach 1."""
    grid = grids.matched_inversion_grid(falling(0.987, 0.4, 0.1, 0.0), flow=True, strength=0.6)
    assert grid.tolist() == pytest.approx([0.0, 0.1, 0.4, 0.6])


def test_rounding_at_the_top_of_a_flow_schedule_is_no_error():
    assert grids.matched_inversion_grid(falling(0.99999994, 0.5, 0.0), flow=True)[-1] > 0.9999


def test_flow_schedule_that_stops_short_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.987")) as refusal:
        grids.matched_inversion_grid(falling(0.987, 0.4, 0.0), flow=True)
    assert "Choose scheduler simple, normal or beta" in str(refusal.value)


def test_blind_first_step_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.86")) as refusal:
        grids.matched_inversion_grid(falling(14.6, 0.86, 0.0), flow=False)
    assert "Raise steps" in str(refusal.value) and "ddim_uniform" in str(refusal.value)
    grids.matched_inversion_grid(falling(14.6, 0.49, 0.0), flow=False)
    grids.matched_inversion_grid(falling(1.0, 0.86, 0.0), flow=True)  # flow velocity is near constant: no limit

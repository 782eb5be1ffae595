"""Noise levels against diffusers' own scheduler and the values published with the method."""

import math
import re

import pytest
import torch
from fixtures.released_loops import make_released_scheduler, to_sigmas

from bivdiff_core import grids

MODEL_SIGMAS = to_sigmas(make_released_scheduler(50).alphas_cumprod)


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
    scheduler = make_released_scheduler(steps)
    falling = scheduler.timesteps
    assert torch.equal(grids.reference_timesteps(steps), falling.flip(0))
    up = grids.reference_inversion_grid(MODEL_SIGMAS, steps)
    down = grids.reference_denoising_grid(MODEL_SIGMAS, steps)
    assert len(up) == len(down) == steps + 1
    torch.testing.assert_close(down[:-1], to_sigmas(scheduler.alphas_cumprod[falling]))
    torch.testing.assert_close(down[-1], to_sigmas(scheduler.final_alpha_cumprod))
    torch.testing.assert_close(up[:-1], down[:-1].flip(0))
    assert up[-1] == MODEL_SIGMAS[min(998, int(falling[0]) + 1000 // steps)]  # the released loop's last target


def test_reference_hand_over_rescales_the_latent():
    """The inversion ends at t = 998, the denoiser takes its result for t = 981: in k-space a factor of .9037."""
    up = grids.reference_inversion_grid(MODEL_SIGMAS, 50)[-1].item()
    down = grids.reference_denoising_grid(MODEL_SIGMAS, 50)[0].item()
    assert grids.unit_scale(down) / grids.unit_scale(up) == pytest.approx(0.9037, abs=1e-4)


def falling(*levels: float) -> torch.Tensor:
    return torch.tensor(levels)


def inverted(levels: torch.Tensor, flow: bool, strength: float = 1.0) -> torch.Tensor:
    return grids.matched_inversion_grid(levels, grids.Schedule(len(levels) - 1, "bong_tangent", strength), flow)


def test_levels_up_to_cuts_the_schedule_at_sigma():
    schedule = falling(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert grids.truncate_levels(schedule, 2.0).tolist() == pytest.approx([2.0, 1.0, 0.3, 0.0])
    assert grids.truncate_levels(schedule, 3.0).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert grids.truncate_levels(schedule, 3.0 * (1 + 1e-7)).tolist() == pytest.approx([3.0, 1.0, 0.3, 0.0])
    assert torch.equal(grids.truncate_levels(schedule, 99.0), schedule)


def test_matched_grid_is_the_denoising_schedule_backwards():
    schedule = falling(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert torch.equal(inverted(schedule, flow=False), schedule.flip(0))


def test_strength_is_the_same_level_for_every_model():
    """SD's sigma at t = 1000 * strength, also on a model whose own schedule goes elsewhere."""
    plain, shifted = falling(14.6, 3.0, 0.4, 0.0), falling(25.1, 2.0, 0.3, 0.0)
    tops = [inverted(s, flow=False, strength=0.5)[-1].item() for s in (plain, shifted)]
    assert tops == pytest.approx([MODEL_SIGMAS[500].item()] * 2, rel=1e-4)
    flow = inverted(falling(1.0, 0.7, 0.3, 0.0), flow=True, strength=0.5)
    assert flow.tolist() == pytest.approx([0.0, 0.3, 0.5])


def test_strength_lets_a_flow_schedule_stop_short_of_noise():
    """Only a full inversion must reach 1."""
    grid = inverted(falling(0.987, 0.4, 0.1, 0.0), flow=True, strength=0.6)
    assert grid.tolist() == pytest.approx([0.0, 0.1, 0.4, 0.6])


def test_rounding_at_the_top_of_a_flow_schedule_is_no_error():
    assert inverted(falling(0.99999994, 0.5, 0.0), flow=True)[-1] > 0.9999


def test_flow_schedule_that_stops_short_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.987")) as refusal:
        inverted(falling(0.987, 0.4, 0.0), flow=True)
    assert "Set scheduler to simple, normal or beta" in str(refusal.value)


def test_blind_first_step_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.86")) as refusal:
        inverted(falling(14.6, 0.86, 0.0), flow=False)
    assert "Raise steps" in str(refusal.value) and "ddim_uniform" in str(refusal.value)
    inverted(falling(14.6, 0.49, 0.0), flow=False)
    inverted(falling(1.0, 0.86, 0.0), flow=True)  # flow velocity is near constant: no limit


def test_image_share_is_what_is_left_of_the_image():
    """The weight of x0 in the unit-variance latent, which correlates with x0 by just that."""
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
def test_schedules_that_stop_far_below_noise_are_refused(flow):
    """By the level that they reach, whatever strength was asked for."""
    with pytest.raises(ValueError, match="bong_tangent tops out at sigma") as refusal:
        inverted(falling(0.9, 0.4, 0.1, 0.0), flow)
    assert "Set scheduler" in str(refusal.value)
    with pytest.raises(ValueError, match="tops out at sigma 0.9, short of sigma"):
        inverted(falling(0.9, 0.4, 0.1, 0.0), flow, strength=0.97)
    assert inverted(falling(0.9, 0.4, 0.1, 0.0), flow, strength=0.2)[-1] <= 0.9


@pytest.mark.parametrize("top", [13.1, 25.1, 2.93])
def test_tops_of_any_model_and_of_few_steps_count_as_noise(top):
    """ddim_uniform's with 50 steps, AnimateDiff's, ddim_uniform's with 3 steps."""
    assert inverted(falling(top, 1.0, 0.3, 0.0), flow=False)[-1].item() == pytest.approx(top)


def test_smoothing_begins_at_the_latents_level_or_not_at_all():
    levels = falling(13.1, 4.0, 1.0, 0.3, 0.0)
    assert grids.denoising_grid(levels, "normal", flow=False, top=2.0).tolist() == pytest.approx([2.0, 1.0, 0.3, 0.0])
    with pytest.raises(ValueError, match="scheduler short tops out at sigma 1, short of sigma 2"):
        grids.denoising_grid(falling(1.0, 0.3, 0.0), "short", flow=False, top=2.0)

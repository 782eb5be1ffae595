"""Noise levels compared with diffusers' scheduler and the values published with the method."""

import math
import re

import pytest
import torch
from fixtures.gaussian_mixture import GaussianMixture, rms, solve_ode
from fixtures.released_loops import make_released_scheduler, to_sigmas

from bivdiff_core import grids
from bivdiff_core.solvers import ddim

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


def simple_levels(top: float = 14.6146) -> grids.Scheduler:
    """Evenly spaced levels from `top` to 0."""
    return lambda steps: torch.linspace(top, 0, steps + 1)


def fixed_levels(*levels: float) -> grids.Scheduler:
    """The same levels for any number of steps."""
    return lambda steps: torch.tensor(levels)


def denoising_levels(scheduler: grids.Scheduler, steps: int, flow: bool, sigma: float | None) -> torch.Tensor:
    return grids.denoising_levels(grids.Schedule(steps, "bong_tangent"), scheduler, flow, sigma)


def inversion_levels(scheduler: grids.Scheduler, flow: bool, strength: float = 1.0, steps: int = 5) -> torch.Tensor:
    return grids.inversion_levels(grids.Schedule(steps, "bong_tangent", strength), scheduler, flow)


def test_an_inversion_takes_the_denoising_levels_backwards():
    scheduler = fixed_levels(14.6, 7.0, 3.0, 1.0, 0.3, 0.0)
    assert torch.equal(inversion_levels(scheduler, flow=False), scheduler(5).flip(0))


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("sigma", [1.1, 2.0, 14.0])
def test_steps_are_the_steps_from_the_latents_level_to_0(steps, sigma):
    """The levels are those of the shortest schedule with that many steps below the latent's level."""
    scheduler = simple_levels()
    levels = denoising_levels(scheduler, steps, False, sigma)
    assert len(levels) == steps + 1 and levels[0] == torch.tensor(sigma) and levels[-1] == 0
    lengths = [n for n in range(steps, 1001) if (scheduler(n) < sigma).sum() == steps]
    assert torch.equal(levels[1:], scheduler(lengths[0])[-steps:])


def test_16_steps_at_strength_03_are_those_of_a_50_step_schedule():
    """`simple` has 15 of its 50 levels below t = 300."""
    levels = inversion_levels(simple_from(MODEL_SIGMAS), flow=False, strength=0.3, steps=16)
    assert torch.equal(levels[:-1], simple_from(MODEL_SIGMAS)(50)[-16:].flip(0))
    assert levels[-1].item() == pytest.approx(grids.sd_sigma(300))


def test_levels_are_interpolated_if_no_schedule_has_that_many_steps(caplog):
    """Here only schedules with an even number of steps below the start exist."""

    def only_even(steps: int) -> torch.Tensor:
        return torch.linspace(1, 0, 4 * math.ceil(steps / 2) + 1)

    assert len(denoising_levels(only_even, 4, True, 0.5)) == 5 and not caplog.messages
    levels = denoising_levels(only_even, 5, True, 0.5)
    torch.testing.assert_close(levels, torch.linspace(0.5, 0, 6))
    assert "has exactly 5 steps below sigma 0.5" in caplog.text


def test_very_many_steps_are_worth_a_warning(caplog):
    denoising_levels(simple_levels(), 200, False, None)
    assert not caplog.messages
    denoising_levels(simple_levels(), 1000, False, None)
    assert "takes 1000 steps, where the paper takes 50" in caplog.text


def test_levels_are_interpolated_if_1000_steps_are_too_few():
    levels = denoising_levels(simple_levels(1.0), 30, True, 0.01)
    torch.testing.assert_close(levels, torch.linspace(0.01, 0, 31))


def test_the_first_level_is_the_latents_even_if_the_schedule_starts_a_little_lower():
    scheduler = fixed_levels(13.1, 4.0, 1.0, 0.3, 0.0)
    assert denoising_levels(scheduler, 4, False, 14.6).tolist() == pytest.approx([14.6, 4.0, 1.0, 0.3, 0.0])
    assert torch.equal(denoising_levels(scheduler, 4, False, 13.1), scheduler(4))
    assert torch.equal(denoising_levels(scheduler, 4, False, None), scheduler(4))


def test_strength_is_the_same_level_for_every_model():
    """SD's sigma at t = 1000 * strength, also for a model with another schedule."""
    ends = [inversion_levels(simple_levels(top), flow=False, strength=0.5)[-1].item() for top in (14.6, 25.1)]
    assert ends == pytest.approx([MODEL_SIGMAS[500].item()] * 2, rel=1e-4)
    assert inversion_levels(simple_levels(1.0), flow=True, strength=0.5)[-1].item() == 0.5


def test_below_full_strength_a_flow_schedule_need_not_reach_1():
    assert inversion_levels(simple_levels(0.987), flow=True, strength=0.6)[-1].item() == pytest.approx(0.6)


def test_rounding_at_the_top_of_a_flow_schedule_is_no_error():
    assert inversion_levels(fixed_levels(0.99999994, 0.5, 0.2, 0.0), flow=True)[-1] > 0.9999


def test_a_flow_schedule_that_does_not_reach_1_is_refused():
    with pytest.raises(ValueError, match=re.escape("0.987")) as refusal:
        inversion_levels(fixed_levels(0.987, 0.4, 0.0), flow=True)
    assert "Set scheduler to simple, normal or beta" in str(refusal.value)


@pytest.mark.parametrize(("flow", "sigma"), [(False, 0.2), (False, 14.6), (True, 0.1), (True, 0.9)])
def test_path_fraction_and_its_inverse(flow, sigma):
    """The fraction is 0 for an image, 1 for noise, and a half where both have the same weight."""
    assert grids.path_sigma(grids.path_fraction(sigma, flow), flow) == pytest.approx(sigma)
    assert grids.path_fraction(0.5 if flow else 1.0, flow) == pytest.approx(0.5)
    assert grids.path_fraction(0.0, flow) == 0 and grids.path_fraction(1.0, flow=True) == 1


@pytest.mark.parametrize(("flow", "first"), [(False, 0.86), (False, 3.0), (True, 0.42), (True, 0.73)])
def test_a_too_large_first_step_is_divided(caplog, flow, first):
    top = 1.0 if flow else 14.6
    levels = inversion_levels(fixed_levels(top, first, 0.0), flow)
    fractions = [grids.path_fraction(level, flow) for level in levels.tolist()]
    added = len(levels) - 3
    assert added > 0 and torch.equal(levels[-2:], torch.tensor([first, top]))
    steps = torch.tensor(fractions[:-1]).diff()
    assert steps.max() <= grids.MAX_FIRST_STEP + 1e-6
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert f"divided into {added + 1} steps" in caplog.text


@pytest.mark.parametrize(("flow", "first"), [(False, 0.41), (True, 0.29)])
def test_other_first_steps_stay(caplog, flow, first):
    assert len(inversion_levels(fixed_levels(1.0 if flow else 14.6, first, 0.0), flow)) == 3
    assert not caplog.messages


def simple_flow_levels(shift: float) -> grids.Scheduler:
    """ComfyUI's `simple` scheduler of a flow model with this shift."""
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return simple_from(shift * t / (1 + (shift - 1) * t))


def simple_from(sigmas: torch.Tensor) -> grids.Scheduler:
    def scheduler(steps: int) -> torch.Tensor:
        picked = sigmas[[-(1 + int(i * len(sigmas) / steps)) for i in range(steps)]]
        return torch.cat([picked, torch.zeros(1, dtype=torch.float64)])

    return scheduler


@pytest.mark.floats
def test_the_bound_of_the_first_step_is_where_an_added_level_begins_to_help():
    """On an analytic denoiser: error of a ddim inversion with one level more in the first step, over that without."""
    mixture = GaussianMixture()
    x0 = mixture.sample(4)
    cases = [(False, simple_from(MODEL_SIGMAS), 0.0292)]
    cases += [(True, simple_flow_levels(shift), shift / (1000 + shift - 1)) for shift in (1, 3, 5, 8)]
    long, short = [], []
    for flow, scheduler, sigma_min in cases:
        model = mixture.flow if flow else mixture.eps
        truth = solve_ode(model, x0, scheduler(4)[0].item(), sigma_min, steps=400)
        for steps in (4, 8, 12, 20, 50):
            levels = scheduler(steps).flip(0)
            fraction = grids.path_fraction(levels[1].item(), flow)
            more = torch.cat([levels[:1], levels.new_tensor([grids.path_sigma(fraction / 2, flow)]), levels[1:]])
            errors = [rms(ddim(model, x0, grid, disable=True, sigma_min=sigma_min) - truth) for grid in (levels, more)]
            (long if fraction > grids.MAX_FIRST_STEP else short).append(1 - errors[1] / errors[0])
    assert min(long) > 0.24 and max(long) < 0.48
    assert max(short) < 0.27


def test_wired_sigmas_replace_steps_and_scheduler(caplog):
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.25, 0.0])
    schedule = grids.Schedule(50, "simple", sigmas=sigmas)
    assert torch.equal(grids.denoising_levels(schedule, simple_levels(1.0), True, 1.0), sigmas)
    assert torch.equal(grids.inversion_levels(schedule, simple_levels(1.0), True), sigmas.flip(0))
    assert not caplog.messages
    half = grids.denoising_levels(schedule, simple_levels(1.0), True, 0.6)
    assert half.tolist() == pytest.approx([0.6, 0.5, 0.25, 0.0])
    assert not caplog.messages
    assert len(grids.denoising_levels(schedule, simple_levels(1.0), True, 0.3)) == 3
    assert "Only 2 steps of the schedule wired to sigmas lie below sigma 0.3" in caplog.text


@pytest.mark.parametrize("sigmas", [[], [1.0], [0.0, 0.5, 1.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0]])
def test_wired_sigmas_must_decrease_to_0(sigmas):
    with pytest.raises(ValueError, match="sigmas is a schedule of .*, expected levels that decrease to 0"):
        schedule = grids.Schedule(50, "simple", sigmas=torch.tensor(sigmas))
        grids.denoising_levels(schedule, simple_levels(1.0), True, 1.0)


def test_wired_sigmas_that_start_too_low_are_refused():
    schedule = grids.Schedule(50, "simple", sigmas=torch.tensor([0.5, 0.3, 0.1, 0.0]))
    with pytest.raises(ValueError, match="the schedule wired to sigmas reaches only sigma 0.5, below sigma 0.8"):
        grids.denoising_levels(schedule, simple_levels(1.0), True, 0.8)


@pytest.mark.parametrize("is_inversion", [False, True])
def test_levels_are_split_at_the_boundary(is_inversion):
    """The level nearest the boundary moves onto it, so the number of steps stays."""
    levels = torch.tensor([1.0, 0.95, 0.85, 0.5, 0.2, 0.0])
    above, below = grids.split_levels(levels.flip(0) if is_inversion else levels, 0.875)
    if is_inversion:
        above, below = above.flip(0), below.flip(0)
    assert above.tolist() == pytest.approx([1.0, 0.95, 0.875])
    assert below.tolist() == pytest.approx([0.875, 0.5, 0.2, 0.0])


def test_a_run_on_one_side_of_the_boundary_is_not_split():
    levels = torch.tensor([0.8, 0.4, 0.0])
    above, below = grids.split_levels(levels, 0.875)
    assert len(above) == 0 and torch.equal(below, levels)
    above, below = grids.split_levels(levels, 0.0)
    assert torch.equal(above, levels) and len(below) == 0


def test_a_single_step_across_the_boundary_becomes_two():
    above, below = grids.split_levels(torch.tensor([1.0, 0.0]), 0.875)
    assert above.tolist() == [1.0, 0.875] and below.tolist() == [0.875, 0.0]


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
def test_schedules_that_start_below_the_requested_level_are_refused(flow):
    scheduler = fixed_levels(0.9, 0.4, 0.1, 0.0)
    with pytest.raises(ValueError, match="scheduler bong_tangent reaches only sigma") as refusal:
        inversion_levels(scheduler, flow)
    assert "Set scheduler" in str(refusal.value)
    with pytest.raises(ValueError, match="reaches only sigma 0.9, below sigma"):
        inversion_levels(scheduler, flow, strength=0.97)
    assert inversion_levels(scheduler, flow, strength=0.2)[-1] <= 0.9


@pytest.mark.parametrize("sigma_max", [13.1, 25.1, 2.93])
def test_sigma_max_of_other_models_and_of_few_steps_counts_as_full_noise(sigma_max):
    """ddim_uniform with 50 steps, AnimateDiff, ddim_uniform with 3 steps."""
    levels = inversion_levels(fixed_levels(sigma_max, 1.0, 0.3, 0.0), flow=False)
    assert levels[-1].item() == pytest.approx(sigma_max)

"""The inversion solvers on a denoiser with a known formula."""

import math

import pytest
import torch
from fixtures.gaussian_mixture import CallRecorder, Denoiser, GaussianMixture, euler_denoise, rms, solve_ode
from torch import Tensor

from bivdiff_core.grids import sd_sigma, unit_scale
from bivdiff_core.solvers import FIXED_POINT_ITERATIONS, SOLVERS

pytestmark = pytest.mark.floats

MIXTURE = GaussianMixture()
SD_SIGMAS = torch.tensor([sd_sigma(t) for t in range(1000)], dtype=torch.float64)
SIGMA_RANGES = {"eps": (0.0292, 14.6146), "v": (0.0292, 14.6146), "flow": (0.001, 1.0)}
ORDERS = {"ddim": 1, "uni_inv": 1, "fireflow": 2, "fixed_point": 1}


def invert(solver: str, model: Denoiser, x: Tensor, sigmas: Tensor, sigma_min: float) -> Tensor:
    return SOLVERS[solver](model, x, sigmas, disable=True, sigma_min=sigma_min)


def leading_grid(steps: int) -> Tensor:
    """0 and Stable Diffusion's levels at t = 1, 1 + 1000 / steps, ..."""
    return torch.cat([torch.zeros(1), SD_SIGMAS[1 :: 1000 // steps][:steps]]).double()


def simple_grid(steps: int) -> Tensor:
    """0 and the levels of ComfyUI's `simple` scheduler, whose lowest level is far above the model's."""
    return torch.cat([torch.zeros(1), SD_SIGMAS[1000 // steps - 1 :: 1000 // steps]]).double()


@pytest.fixture(scope="module", params=SIGMA_RANGES)
def family(request: pytest.FixtureRequest) -> tuple[Denoiser, float, float, Tensor, Tensor]:
    """A prediction type: denoiser, sigma_min, sigma_max, clean latent, exact end of the ODE."""
    sigma_min, sigma_max = SIGMA_RANGES[request.param]
    model = getattr(MIXTURE, request.param)
    x0 = MIXTURE.sample(4)
    return model, sigma_min, sigma_max, x0, solve_ode(model, x0, sigma_max, sigma_min)


@pytest.mark.parametrize("solver", SOLVERS)
def test_order(family, solver):
    """Twice the steps halve the error of a first-order solver and quarter that of a second-order solver."""
    model, sigma_min, sigma_max, x0, truth = family
    errors = []
    for steps in (80, 160, 320):
        sigmas = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2 * sigma_max
        errors.append(rms(invert(solver, model, x0, sigmas, sigma_min) - truth))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.18)


@pytest.mark.parametrize("steps", [20, 50])
def test_rank_of_ode_error(family, steps):
    """fireflow is by far closest to the ODE; ddim shrinks the latent, uni_inv and fixed_point inflate it."""
    model, sigma_min, sigma_max, x0, _ = family
    sigmas = leading_grid(steps) if sigma_max > 1 else torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    truth = solve_ode(model, x0, sigmas[-1].item(), sigma_min, steps=500)
    inverted = {solver: invert(solver, model, x0, sigmas, sigma_min) for solver in SOLVERS}
    error = {solver: rms(x - truth) for solver, x in inverted.items()}
    size = {solver: rms(x) / rms(truth) for solver, x in inverted.items()}
    assert min(error[s] for s in error if s != "fireflow") > 5 * error["fireflow"]
    assert size["ddim"] < 0.98 and size["fixed_point"] > 1.02
    assert size["ddim"] < size["fireflow"] < size["uni_inv"] < size["fixed_point"]
    assert abs(size["fireflow"] - 1) < 0.01


@pytest.mark.parametrize("steps", [50, 500])
def test_a_model_of_one_step_inverts_to_half_of_the_noise(steps):
    """A distilled model predicts the end of the ODE; here its exact end for data of std 1, which exact noise keeps."""
    x0 = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = leading_grid(steps)
    ratio = invert("fireflow", lambda x, sigma: x / (1 + sigma[0] ** 2) ** 0.5, x0, eps, SD_SIGMAS[0].item()) / x0
    top = (1 + eps[-1] ** 2).sqrt()
    assert rms(ratio / top) == pytest.approx(((1 + top) / (2 * top)).item(), rel=1e-3)

    flow = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    end = invert("fireflow", lambda x, sigma: x / ((1 - sigma[0]) ** 2 + sigma[0] ** 2) ** 0.5, x0, flow, 1e-3)
    assert rms(end / x0) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("steps", [20, 50])
def test_rank_of_round_trip_error(steps):
    """Invert with the solver, denoise with DDIM: fixed_point has the smallest error, then uni_inv, fireflow, ddim."""
    x0, sigmas, sigma_min = MIXTURE.sample(4), leading_grid(steps), 0.0292
    error = {
        solver: rms(
            euler_denoise(MIXTURE.eps, invert(solver, MIXTURE.eps, x0, sigmas, sigma_min), sigmas, sigma_min) - x0
        )
        for solver in SOLVERS
    }
    assert error["fixed_point"] < error["uni_inv"] < error["fireflow"] < error["ddim"]
    assert error["uni_inv"] < error["ddim"] / 8


def test_fewer_steps_shrink_ddim_more():
    std = [
        rms(invert("ddim", MIXTURE.eps, MIXTURE.sample(4), leading_grid(n), 0.0292)) / unit_scale(leading_grid(n)[-1])
        for n in (10, 20, 50)
    ]
    assert std[0] < std[1] - 0.03 < std[2] - 0.06


def test_inversion_begins_at_zero():
    """Treating the clean latent as the schedule's lowest level instead makes the solvers inaccurate."""
    x0, sigmas, sigma_min = MIXTURE.sample(4), simple_grid(20), 0.0292
    truth = solve_ode(MIXTURE.eps, x0, sigmas[-1].item(), sigma_min, steps=500)

    def ode_error(grid: Tensor) -> float:
        return rms(invert("fireflow", MIXTURE.eps, x0, grid, sigma_min) - truth)

    def round_trip_error(grid: Tensor) -> float:
        inverted = invert("fixed_point", MIXTURE.eps, x0, grid, sigma_min)
        return rms(euler_denoise(MIXTURE.eps, inverted, sigmas, sigma_min) - x0)

    assert ode_error(sigmas[1:]) > 8 * ode_error(sigmas)
    assert round_trip_error(sigmas[1:]) > 4 * round_trip_error(sigmas)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_sigmas_of_model_calls(solver):
    """As published: at the current level, at the next level or halfway between; never below sigma_min."""
    model, sigma_min = CallRecorder(MIXTURE.eps), 0.03
    sigmas = torch.tensor([0.0, 0.04, 1.0, 5.0], dtype=torch.float64)
    invert(solver, model, MIXTURE.sample(2), sigmas, sigma_min)
    expected = {
        "ddim": [0.03, 0.04, 1.0],
        "uni_inv": [0.03, 0.04, 1.0, 5.0],
        "fireflow": [0.03, 0.03, 0.52, 3.0],
        "fixed_point": [s for s in (0.04, 1.0, 5.0) for _ in range(FIXED_POINT_ITERATIONS)],
    }
    assert model.sigmas == pytest.approx(expected[solver])


@pytest.mark.parametrize(("solver", "calls"), {"ddim": 7, "uni_inv": 8, "fireflow": 8, "fixed_point": 21}.items())
def test_one_callback_per_step_and_calls_per_step(solver, calls):
    """AnimateDiff-Evolved advances its windows in the callback, so fixed_point's inner iterations must not call it."""
    model, reports = CallRecorder(MIXTURE.eps), []
    sigmas = leading_grid(10)[:8]
    x0 = MIXTURE.sample(2)
    out = SOLVERS[solver](model, x0, sigmas, callback=reports.append, disable=True, sigma_min=0.0292)
    assert len(model.sigmas) == calls
    assert [report["i"] for report in reports] == list(range(7))
    assert [float(report["sigma"]) for report in reports] == sigmas[1:].tolist()
    assert torch.equal(reports[-1]["x"], out)
    assert all(report["denoised"].shape == x0.shape for report in reports)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inputs_are_not_modified(solver):
    x0, sigmas = MIXTURE.sample(2), leading_grid(10)
    before = x0.clone(), sigmas.clone()
    invert(solver, MIXTURE.eps, x0, sigmas, 0.0292)
    assert torch.equal(x0, before[0]) and torch.equal(sigmas, before[1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_extra_args_reach_the_model(solver):
    """Conditioning is passed in extra_args, as in k-diffusion."""
    x0, sigmas = MIXTURE.sample(2), leading_grid(10)

    def scaled(x: Tensor, sigma: Tensor, *, shrink: float) -> Tensor:
        return shrink * MIXTURE.eps(x, sigma)

    got = SOLVERS[solver](scaled, x0, sigmas, {"shrink": 0.5}, disable=True, sigma_min=0.0292)
    want = invert(solver, lambda x, sigma: 0.5 * MIXTURE.eps(x, sigma), x0, sigmas, 0.0292)
    assert torch.equal(got, want)


@pytest.mark.parametrize("solver", SOLVERS)
def test_frames_are_independent(solver):
    """A frame inverted alone equals the same frame inverted in its clip."""
    x0, sigmas = MIXTURE.sample(3), leading_grid(10)
    together = invert(solver, MIXTURE.eps, x0, sigmas, 0.0292)
    alone = torch.cat([invert(solver, MIXTURE.eps, frame, sigmas, 0.0292) for frame in x0.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)

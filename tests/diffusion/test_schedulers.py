"""Noise schedules as tables, and the samplers of diffusers on the cascade's process."""

from __future__ import annotations

import inspect
import math
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from satcascade.diffusion.guidance import dynamic_threshold
from satcascade.diffusion.process import (
    add_noise,
    alpha_sigma,
    cosine_log_snr,
    shifted_cosine_log_snr,
    trained_betas,
)
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import (
    check_scheduler,
    log_snr_at,
    make_scheduler,
    set_steps,
    step_log_snrs,
    swap_scheduler,
)
from satcascade.diffusion.solvers import SOLVERS
from satcascade.errors import UsageError

# diffusers calls NumPy in ways that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STOCHASTIC = {"dpm++sde", "ddpm", "euler-a", "rsdiff"}
X0 = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
SHARED = make_scheduler()
FIRST_NOISE = torch.randn(X0.shape, generator=torch.Generator().manual_seed(6))
EPS = torch.finfo(torch.float32).eps
LARGEST_NOISE = float(FIRST_NOISE.abs().max())
# Schedulers keep alpha^2 in float32. At the lowest noise of the table sigma^2 is what is missing from 1,
# known to half a unit in the last place below 1: so far sigma may be off, as a share of itself.
LOWEST_SIGMA = float(alpha_sigma(torch.tensor(12.0, dtype=torch.float64))[1])
SIGMA_ERROR = EPS / 4 / LOWEST_SIGMA**2 / 2
# The noise that a network sees, where sigma is off by that.
NOISE_ERROR = SIGMA_ERROR * LARGEST_NOISE
# The image at the end. Euler's and Heun's methods work on x / alpha, exp(6) of the noise at first: its
# rounding too.
IMAGE_ERROR = NOISE_ERROR * LOWEST_SIGMA + EPS * math.exp(6) * LARGEST_NOISE


def run_with_perfect_network(scheduler, steps, on_call=lambda noise, log_snr: None):
    """A network that knows x_0 samples; ``on_call`` is told what noise it sees and which level it is told."""
    log_snrs = set_steps(scheduler, steps)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(7)} if takes_generator else {}
    x = FIRST_NOISE * scheduler.init_noise_sigma
    for timestep, log_snr in zip(scheduler.timesteps, log_snrs, strict=True):
        x_t = scheduler.scale_model_input(x, timestep)
        alpha, sigma = alpha_sigma(log_snr)
        noise = (x_t - alpha * X0) / sigma
        on_call(noise, log_snr)
        x = scheduler.step(alpha * noise - sigma * X0, timestep, x, **options).prev_sample
    return x


@given(shift=st.floats(-3, 3), low=st.floats(-15, -5), high=st.floats(5, 12), timesteps=st.integers(2, 1200))
def test_betas_reproduce_the_curve_they_were_made_from(shift, low, high, timesteps):
    curve = partial(shifted_cosine_log_snr, shift=shift, low=low, high=high)
    betas = torch.tensor(trained_betas(curve, timesteps), dtype=torch.float64)
    assert ((betas > 0) & (betas < 1)).all()
    found = torch.logit(torch.cumprod(1 - betas, 0))
    expected = curve(torch.linspace(0, 1, timesteps, dtype=torch.float64))
    # What is missing from 1 is exact to float64's last place, and each beta is rounded to 12 digits: what
    # both are of 1 - beta adds up in the product, and counts in log-SNR by how little that misses of 1.
    digits = 10.0 ** (betas.log10().floor() - 11) / 2
    places = torch.finfo(torch.float64).eps / torch.sigmoid(expected)
    product = torch.cumsum(digits / (1 - betas) + places, 0)
    assert ((found - expected).abs() <= 2 * product / torch.sigmoid(-expected)).all()


@pytest.mark.parametrize("curve", [lambda t: t, lambda t: -torch.log(t), lambda t: torch.zeros_like(t)])
def test_a_curve_that_does_not_fall_or_is_infinite_is_refused(curve):
    with pytest.raises(ValueError, match="finite and fall"):
        trained_betas(curve, 100)


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_goes_from_pure_noise_to_the_clean_image(name, steps):
    scheduler = make_scheduler(name)
    result = run_with_perfect_network(scheduler, steps)
    first = -33.9 if name == "rsdiff" else -12
    assert step_log_snrs(scheduler)[0] == pytest.approx(first, abs=0.01)
    # DEIS ends at the lowest noise of its table, RSDiff's sampler at that of its curve, instead of at none.
    left = 1.2 * LOWEST_SIGMA * LARGEST_NOISE if name in ("deis", "rsdiff") else 0.0
    torch.testing.assert_close(result, X0, atol=left + IMAGE_ERROR, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_network_is_told_the_noise_level_it_sees(name):
    def check(noise, log_snr):
        if name in STOCHASTIC:
            assert noise.std() == pytest.approx(1, abs=0.03), log_snr
        else:
            # On the exact path of a deterministic solver the noise is the first one at every level.
            torch.testing.assert_close(noise, FIRST_NOISE, atol=NOISE_ERROR, rtol=0)

    run_with_perfect_network(make_scheduler(name), 10, check)


@pytest.mark.parametrize(
    "name", ["LMSDiscreteScheduler", "DPMSolverSinglestepScheduler", "KDPM2DiscreteScheduler"]
)
def test_other_schedulers_of_diffusers_fit_through_their_configuration(name):
    scheduler = getattr(diffusers, name).from_config(make_scheduler().config)
    check_scheduler(scheduler, "v_prediction")
    result = run_with_perfect_network(
        scheduler,
        6,
        lambda noise, _: torch.testing.assert_close(noise, FIRST_NOISE, atol=NOISE_ERROR, rtol=0),
    )
    torch.testing.assert_close(result, X0, atol=IMAGE_ERROR, rtol=0)


def test_karras_spacing_tells_exact_noise_levels_although_its_timesteps_are_rounded():
    scheduler = make_scheduler("dpm++", use_karras_sigmas=True)
    run_with_perfect_network(
        scheduler,
        8,
        lambda noise, _: torch.testing.assert_close(noise, FIRST_NOISE, atol=NOISE_ERROR, rtol=0),
    )


@given(timestep=st.floats(0, 999))
def test_log_snr_of_a_timestep_is_linear_between_table_entries(timestep):
    table = torch.logit(SHARED.alphas_cumprod.double())
    below, part = int(timestep), timestep % 1
    above = min(below + 1, 999)
    expected = float(table[below] * (1 - part) + table[above] * part)
    assert float(log_snr_at(SHARED, timestep)) == pytest.approx(expected, abs=1e-4)


def test_log_snr_takes_tensors_of_timesteps():
    levels = log_snr_at(SHARED, torch.tensor([[0, 999], [10, 20]]))
    assert levels.shape == (2, 2)
    assert levels[0, 0] == pytest.approx(12, abs=0.05)
    assert levels[0, 1] == pytest.approx(-12, abs=0.05)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_swapped_sampler_is_the_one_made_directly(name):
    swapped = swap_scheduler(make_scheduler("dpm++sde", shift=1.0), name)
    made = make_scheduler(name, shift=1.0)
    assert type(swapped) is type(made)
    assert torch.equal(run_with_perfect_network(swapped, 7), run_with_perfect_network(made, 7))


def test_a_resolution_shift_moves_all_levels_but_the_ends_to_more_noise():
    plain, shifted = (set_steps(make_scheduler(shift=shift), 10) for shift in (0.0, -1.4))
    assert shifted[0] == plain[0]
    assert (shifted[1:] < plain[1:]).all()


def test_schedule_survives_saving(tmp_path: Path):
    scheduler = make_scheduler("unipc", "epsilon", shift=-1.0, low=-9.0)
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)
    assert again.config.prediction_type == "epsilon"
    assert torch.equal(set_steps(again, 9), set_steps(scheduler, 9))


# RSDiff's own sampler


def test_rsdiff_visits_the_times_of_its_curve():
    scheduler = RSDiffScheduler()
    for steps in (1, 7, 1000, 999):
        levels = set_steps(scheduler, steps)
        assert torch.equal(levels, cosine_log_snr(torch.linspace(1, 0, steps + 1))[:-1])
        assert levels.isfinite().all()
    # 999 steps meet every entry of the table but the first.
    torch.testing.assert_close(log_snr_at(scheduler, scheduler.timesteps), levels, atol=0.005, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_other_samplers_take_over_rsdiffs_schedule_and_give_it_back(name, caplog):
    scheduler = RSDiffScheduler()
    swapped = swap_scheduler(scheduler, name)
    table = torch.logit(swapped.alphas_cumprod.double())
    # The same cosine, from log-SNR -12: both its ends, and the levels between them.
    times = torch.linspace(0, 1, 1000, dtype=torch.float64)
    if name != "rsdiff":
        start = math.atan(math.exp(6)) * 2 / math.pi * 1.008 - 0.008
        torch.testing.assert_close(table, cosine_log_snr(times * start), atol=1e-3, rtol=0)
        assert swapped.config.timestep_spacing == "trailing"
        plain = type(swapped).from_config(scheduler.config)
        assert torch.equal(plain.alphas_cumprod, swapped.alphas_cumprod)
    check_scheduler(swapped, "epsilon")
    back = swap_scheduler(swapped, "rsdiff")
    assert torch.equal(set_steps(back, 50), set_steps(scheduler, 50))
    again = swap_scheduler(back, "ddim")
    assert torch.equal(again.alphas_cumprod, swap_scheduler(scheduler, "ddim").alphas_cumprod)
    assert "not expected" not in caplog.text


def test_rsdiff_keeps_a_foreign_table_for_the_sampler_after_it():
    made = make_scheduler("ddim", shift=-1.0)
    back = swap_scheduler(swap_scheduler(made, "rsdiff"), "ddim")
    assert torch.equal(back.alphas_cumprod, made.alphas_cumprod)
    assert back.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("trained_betas", [None, [0.1] * 1000])
def test_rsdiff_survives_saving(tmp_path: Path, trained_betas):
    scheduler = RSDiffScheduler(trained_betas=trained_betas)
    scheduler.save_pretrained(tmp_path)
    again = RSDiffScheduler.from_pretrained(tmp_path)
    assert again.config.trained_betas == scheduler.config.trained_betas
    assert torch.equal(set_steps(again, 5), set_steps(scheduler, 5))


def test_rsdiff_thresholds_draws_for_each_image_and_ends_without_noise():
    scheduler = RSDiffScheduler()
    levels = set_steps(scheduler, 4)
    alpha, sigma = alpha_sigma(levels[2])
    x_t = alpha * X0 + sigma * FIRST_NOISE
    far = (x_t - alpha * 3 * X0) / sigma

    def step(index: int, seeds: tuple[int, ...], rows: slice = slice(None)):
        set_steps(scheduler, 4)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return scheduler.step(far[rows], scheduler.timesteps[index], x_t[rows], generator=generators)

    found = step(2, (1, 2))
    expected = dynamic_threshold(3 * X0)
    torch.testing.assert_close(found.pred_original_sample, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(step(2, (2,), slice(1, 2)).prev_sample, found.prev_sample[1:])
    assert not torch.allclose(step(2, (1, 3)).prev_sample[1], found.prev_sample[1])
    assert torch.equal(step(3, (1, 2)).prev_sample, step(3, (3, 4)).prev_sample)


def sample_gaussian(name: str, steps: int, mean: float = 0.1, std: float = 0.2) -> tuple[Tensor, Tensor]:
    """First noise and sample, with the exact prediction for data whose pixels are normal."""
    scheduler = swap_scheduler(RSDiffScheduler(), name)
    log_snrs = set_steps(scheduler, steps)
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(7)} if stochastic else {}
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    x = noise * scheduler.init_noise_sigma
    for timestep, log_snr in zip(scheduler.timesteps, log_snrs, strict=True):
        x_t = scheduler.scale_model_input(x, timestep)
        alpha, sigma = alpha_sigma(log_snr)
        epsilon = sigma * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        x = scheduler.step(epsilon, timestep, x, **options).prev_sample
    return noise, x


@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - STOCHASTIC))
def test_solvers_on_rsdiffs_schedule_end_where_its_exact_path_does(name):
    errors = []
    for steps in (10, 250):
        noise, found = sample_gaussian(name, steps)
        errors.append(float((found - (0.1 + 0.2 * noise)).square().mean().sqrt()) / 0.2)
    # DEIS stops short of the last bit of noise.
    assert errors[1] < (0.03 if name in ("deis", "euler", "ddim") else 0.01)
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_samplers_that_draw_noise_end_in_the_distribution_of_the_data(name):
    noise, found = sample_gaussian(name, 250)
    assert float(found.mean()) == pytest.approx(0.1, abs=0.01)
    assert float(found.std()) == pytest.approx(0.2, abs=0.01)
    # Fresh noise has replaced the first.
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), found.flatten()]))[0, 1])) < 0.1


def test_epsilon_networks_are_served_too():
    scheduler = make_scheduler("ddim", "epsilon", low=-9.0)
    log_snrs = set_steps(scheduler, 10)
    x = add_noise(X0, FIRST_NOISE, log_snrs[:1])
    for timestep in scheduler.timesteps:
        x = scheduler.step(FIRST_NOISE, timestep, x).prev_sample
    torch.testing.assert_close(x, X0, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "variance-preserving"),
        (diffusers.EDMEulerScheduler(), "variance-preserving"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "variance-preserving"),
        (diffusers.DDIMScheduler(prediction_type="epsilon"), "expects epsilon"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused_by_name(scheduler, reason):
    with pytest.raises(UsageError, match=reason) as refusal:
        check_scheduler(scheduler, "v_prediction")
    assert type(scheduler).__name__ in str(refusal.value)


def test_unknown_sampler_is_refused_with_the_list():
    with pytest.raises(UsageError, match=r"unknown scheduler 'magic': choose one of dpm\+\+, "):
        make_scheduler("magic")
    with pytest.raises(UsageError, match="unknown scheduler 'magic'"):
        swap_scheduler(SHARED, "magic")


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(UsageError, match="give 1 to 1000"):
        set_steps(make_scheduler(), steps)

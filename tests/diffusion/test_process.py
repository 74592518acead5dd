"""Properties that the diffusion mathematics must keep, whatever the numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.diffusion import process as diffusion

KINDS = ("epsilon", "v_prediction", "sample")
log_snrs = st.floats(-8, 8)


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(value: float, count: int = 2) -> torch.Tensor:
    return torch.full((count,), value)


@given(log_snrs)
def test_process_preserves_variance(log_snr):
    alpha, sigma = diffusion.alpha_sigma(level(log_snr))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert math.isclose(float(torch.log(alpha**2 / sigma**2)[0]), log_snr, abs_tol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@given(log_snr=log_snrs, seed=st.integers(0, 1000))
def test_perfect_prediction_gives_back_image_and_noise(kind, log_snr, seed):
    x0, noise, levels = images(seed), images(seed + 1), level(log_snr)
    x_t = diffusion.add_noise(x0, noise, levels)
    target = diffusion.training_target(x0, noise, levels, kind)
    scale = math.exp(abs(log_snr) / 2)  # dividing by a small alpha or sigma magnifies rounding
    assert (diffusion.to_x0(target, x_t, levels, kind) - x0).abs().max() < 1e-5 * scale
    assert (diffusion.to_epsilon(target, x_t, levels, kind) - noise).abs().max() < 1e-5 * scale
    assert (diffusion.from_x0(x0, x_t, levels, kind) - target).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("weighting", ["min_snr", "sigmoid", "edm", "v"])
@given(log_snr=log_snrs, seed=st.integers(0, 1000))
def test_loss_does_not_depend_on_the_prediction_type(weighting, log_snr, seed):
    """The same guess at x_0 has the same weighted error, stated as epsilon, v or x_0."""
    x0, noise, guess, levels = images(seed), images(seed + 1), images(seed + 2), level(log_snr)
    x_t = diffusion.add_noise(x0, noise, levels)
    alpha, sigma = diffusion.alpha_sigma(levels)
    losses = []
    for kind in KINDS:
        guessed_noise = (x_t - alpha * guess) / sigma
        prediction = diffusion.training_target(guess, guessed_noise, levels, kind)
        error = (prediction - diffusion.training_target(x0, noise, levels, kind)).square().mean((1, 2, 3))
        losses.append(error * diffusion.loss_weight(levels, kind, weighting))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-4, atol=0)


def test_min_snr_weight_on_epsilon_is_the_published_one():
    log_snr = torch.tensor([-3.0, 0.0, 4.0])
    snr = log_snr.exp()
    expected = snr.clamp(max=5) / snr
    torch.testing.assert_close(diffusion.loss_weight(log_snr, "epsilon", "min_snr"), expected)


@given(log_snrs)
def test_weighting_v_is_the_plain_error_of_v(log_snr):
    levels = level(log_snr)
    torch.testing.assert_close(diffusion.loss_weight(levels, "v_prediction", "v"), torch.ones(2))
    torch.testing.assert_close(diffusion.loss_weight(levels, "sample", "v"), 1 + levels.exp())


@pytest.mark.parametrize("kind", KINDS)
@given(log_snr=log_snrs, sigma_data=st.floats(0.1, 1.5))
def test_preconditioned_network_has_unit_variance_input_and_target(kind, log_snr, sigma_data):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(4, 3, 64, 64, generator=generator) * sigma_data
    noise = torch.randn(4, 3, 64, 64, generator=generator)
    levels = level(log_snr, 4)
    x_t = diffusion.add_noise(x0, noise, levels)
    c_skip, c_out, c_in = diffusion.preconditioning(levels, sigma_data, kind)
    target = (diffusion.training_target(x0, noise, levels, kind) - c_skip * x_t) / c_out
    assert abs(float((c_in * x_t).std()) - 1) < 0.03
    assert abs(float(target.std()) - 1) < 0.03
    # What is left for the network is not predictable by a linear map of its input.
    assert abs(float((target * c_in * x_t).mean())) < 0.03


@pytest.mark.parametrize("schedule", [diffusion.cosine_log_snr, diffusion.linear_log_snr])
def test_published_schedules_fall(schedule):
    values = schedule(torch.linspace(0, 1, 200, dtype=torch.float64))
    assert (values.diff() < 0).all()


@given(st.floats(-3, 3))
def test_shifted_cosine_has_the_ends_asked_for(shift):
    values = diffusion.shifted_cosine_log_snr(
        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), shift, -9, 11
    )
    torch.testing.assert_close(values[[0, 2]], torch.tensor([11.0, -9.0], dtype=torch.float64))
    wide = diffusion.shifted_cosine_log_snr(torch.tensor(0.5, dtype=torch.float64), shift, -60, 60)
    assert abs(float(wide) - shift) < 1e-6


def test_normal_log_snr_has_the_mean_and_spread_asked_for():
    u = (torch.arange(10_000) + 0.5) / 10_000
    values = diffusion.normal_log_snr(u, 0.7, 2.5)
    assert abs(float(values.mean()) - 0.7) < 0.01
    assert abs(float(values.std()) - 2.5) < 0.02


@given(st.integers(0, 1000), st.booleans())
def test_guidance_of_one_is_the_conditional_prediction(seed, projected):
    conditional, null = images(seed), images(seed + 1)
    torch.testing.assert_close(diffusion.guide(conditional, null, 1.0, projected), conditional)


@given(st.integers(0, 1000), st.floats(1.5, 10))
def test_projected_guidance_moves_at_a_right_angle(seed, scale):
    conditional, null = images(seed), images(seed + 1)
    move = diffusion.guide(conditional, null, scale, projected=True) - conditional
    assert (move * conditional).sum((1, 2, 3)).abs().max() < 1e-8
    plain = diffusion.guide(conditional, null, scale) - conditional
    torch.testing.assert_close(plain, (scale - 1) * (conditional - null))


@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_dynamic_threshold_keeps_images_in_range(seed, scale):
    x0 = images(seed) * scale
    result = diffusion.dynamic_threshold(x0)
    assert result.abs().max() <= 1 + 1e-9
    inside = x0.clamp(-1, 1)
    torch.testing.assert_close(diffusion.dynamic_threshold(inside), inside)


def test_unknown_names_are_refused():
    x = images(0)
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.to_x0(x, x, level(0.0), "score")
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.training_target(x, x, level(0.0), "score")
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.from_x0(x, x, level(0.0), "score")
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.preconditioning(level(0.0), 0.5, "score")
    with pytest.raises(ValueError, match="weighting"):
        diffusion.loss_weight(level(0.0), "epsilon", "none")

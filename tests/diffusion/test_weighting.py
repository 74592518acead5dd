"""Loss weights and preconditioning mean the same whatever a network predicts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.diffusion import process
from satcascade.diffusion.weighting import loss_weight, preconditioning

KINDS = ("epsilon", "v_prediction", "sample")
log_snrs = st.floats(-8, 8)
# Images are float64, alpha, sigma and weights float32: what their few roundings make is allowed.
EPS = torch.finfo(torch.float32).eps


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(value: float, count: int = 2) -> torch.Tensor:
    return torch.full((count,), value)


@pytest.mark.parametrize("weighting", ["min_snr", "sigmoid", "edm", "v"])
@given(log_snr=log_snrs, seed=st.integers(0, 1000))
def test_loss_does_not_depend_on_the_prediction_type(weighting, log_snr, seed):
    """The same guess at x_0 has the same weighted error, stated as epsilon, v or x_0."""
    x0, noise, guess, levels = images(seed), images(seed + 1), images(seed + 2), level(log_snr)
    x_t = process.add_noise(x0, noise, levels)
    alpha, sigma = process.alpha_sigma(levels)
    losses = []
    for kind in KINDS:
        guessed_noise = (x_t - alpha * guess) / sigma
        prediction = process.training_target(guess, guessed_noise, levels, kind)
        error = (prediction - process.training_target(x0, noise, levels, kind)).square().mean((1, 2, 3))
        losses.append(error * loss_weight(levels, kind, weighting))
    torch.testing.assert_close(losses[0], losses[1], rtol=64 * EPS, atol=0)
    torch.testing.assert_close(losses[0], losses[2], rtol=64 * EPS, atol=0)


def test_min_snr_weight_on_epsilon_is_the_published_one():
    log_snr = torch.tensor([-3.0, 0.0, 4.0])
    snr = log_snr.exp()
    expected = snr.clamp(max=5) / snr
    torch.testing.assert_close(loss_weight(log_snr, "epsilon", "min_snr"), expected)


@given(log_snrs)
def test_weighting_v_is_the_plain_error_of_v(log_snr):
    levels = level(log_snr)
    torch.testing.assert_close(loss_weight(levels, "v_prediction", "v"), torch.ones(2))
    torch.testing.assert_close(loss_weight(levels, "sample", "v"), 1 + levels.exp())


@pytest.mark.parametrize("kind", KINDS)
@given(log_snr=log_snrs, sigma_data=st.floats(0.1, 1.5))
def test_preconditioned_network_has_unit_variance_input_and_target(kind, log_snr, sigma_data):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(4, 3, 64, 64, generator=generator) * sigma_data
    noise = torch.randn(4, 3, 64, 64, generator=generator)
    levels = level(log_snr, 4)
    x_t = process.add_noise(x0, noise, levels)
    c_skip, c_out, c_in = preconditioning(levels, sigma_data, kind)
    target = (process.training_target(x0, noise, levels, kind) - c_skip * x_t) / c_out
    assert abs(float((c_in * x_t).std()) - 1) < 0.03
    assert abs(float(target.std()) - 1) < 0.03
    # What is left for the network is not predictable by a linear map of its input.
    assert abs(float((target * c_in * x_t).mean())) < 0.03


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="prediction type"):
        preconditioning(level(0.0), 0.5, "score")
    with pytest.raises(ValueError, match="weighting"):
        loss_weight(level(0.0), "epsilon", "none")

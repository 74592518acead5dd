"""Properties that the diffusion mathematics must keep, whatever the numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from satcascade.diffusion import process as diffusion

KINDS = ("epsilon", "v_prediction", "sample")
log_snrs = st.floats(-8, 8)
# Images are float64, alpha and sigma float32: what their few roundings make, and nothing else, is allowed.
EPS = torch.finfo(torch.float32).eps


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(value: float, count: int = 2) -> torch.Tensor:
    return torch.full((count,), value)


@given(log_snrs)
def test_process_preserves_variance(log_snr):
    alpha, sigma = diffusion.alpha_sigma(level(log_snr))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert math.isclose(float(torch.log(alpha**2 / sigma**2)[0]), log_snr, abs_tol=32 * EPS)


@pytest.mark.parametrize("kind", KINDS)
@given(log_snr=log_snrs, seed=st.integers(0, 1000))
def test_perfect_prediction_gives_back_image_and_noise(kind, log_snr, seed):
    x0, noise, levels = images(seed), images(seed + 1), level(log_snr)
    x_t = diffusion.add_noise(x0, noise, levels)
    target = diffusion.training_target(x0, noise, levels, kind)
    scale = math.exp(abs(log_snr) / 2)  # dividing by a small alpha or sigma magnifies rounding
    assert (diffusion.to_x0(target, x_t, levels, kind) - x0).abs().max() < 32 * EPS * scale
    assert (diffusion.to_epsilon(target, x_t, levels, kind) - noise).abs().max() < 32 * EPS * scale
    assert (diffusion.from_x0(x0, x_t, levels, kind) - target).abs().max() < 32 * EPS * scale


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


def test_unknown_names_are_refused():
    x = images(0)
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.to_x0(x, x, level(0.0), "score")
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.training_target(x, x, level(0.0), "score")
    with pytest.raises(ValueError, match="prediction type"):
        diffusion.from_x0(x, x, level(0.0), "score")

"""The mathematics of variance-preserving diffusion, as pure functions on tensors.

Everything is written in log-SNR, ``lambda``: x_t = alpha x_0 + sigma eps with alpha^2 = sigmoid(lambda) and
sigma^2 = sigmoid(-lambda) (Kingma et al. 2021, "Variational diffusion models"). Images are (B, C, H, W) in
[-1, 1], log-SNR is (B,), and results have the shape of the images unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scale at a log-SNR of shape (B,), each (B, 1, 1, 1) to multiply images with."""
    log_snr = log_snr.float().reshape(-1, 1, 1, 1)
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def add_noise(x0: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma eps, a draw of the forward process at ``log_snr`` (B,)."""
    alpha, sigma = alpha_sigma(log_snr)
    return alpha * x0 + sigma * noise


def cosine_log_snr(t: Tensor, s: float = 0.008) -> Tensor:
    """The cosine schedule (Nichol and Dhariwal 2021) as RSDiff's networks see it.

    log-SNR(t) = -log(max(cos((t + s) / (1 + s) * pi / 2)^-2 - 1, 1e-5)), for t in [0, 1].
    """
    return -torch.log((torch.cos((t + s) / (1 + s) * math.pi / 2) ** -2 - 1).clamp(min=1e-5))


def linear_log_snr(t: Tensor) -> Tensor:
    """The linear-beta schedule (Ho et al. 2020), continuous: -log(expm1(1e-4 + 10 t^2)), t in [0, 1]."""
    return -torch.log(torch.expm1(1e-4 + 10 * t**2))


def shifted_cosine_log_snr(t: Tensor, shift: float = 0.0, low: float = -15.0, high: float = 15.0) -> Tensor:
    """The cosine schedule moved by ``shift`` in log-SNR (Hoogeboom et al. 2023, "simple diffusion", eq. 4-5).

    A larger image keeps more of its content under the same noise, so its schedule is moved to more noise:
    ``shift = 2 log(64 / size)``. The result runs from ``high`` at t = 0 to ``low`` at t = 1, both included.
    """
    t_min, t_max = (math.atan(math.exp(-0.5 * (end - shift))) for end in (high, low))
    return -2 * torch.log(torch.tan(t_min + t * (t_max - t_min))) + shift


def normal_log_snr(u: Tensor, mean: float, std: float) -> Tensor:
    """log-SNR of training samples: normal, drawn by its quantile function at ``u`` in (0, 1).

    With mean -2m and std 2s this is the logit-normal(m, s) time of rectified flow (Esser et al. 2024) and
    the log-normal noise level of EDM (Karras et al. 2022) up to the scale of the data.
    """
    return mean + std * torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6)).to(u.dtype)


def trained_betas(schedule: Callable[[Tensor], Tensor], timesteps: int) -> list[float]:
    """The betas whose cumulative product follows a log-SNR curve: a table for discrete schedulers.

    Args:
        schedule: log-SNR of t in [0, 1], falling, finite at both ends; takes and returns a tensor.
        timesteps: T, the length of the table.

    Returns:
        T numbers in (0, 1) with prod_{j <= k} (1 - beta_j) = sigmoid(schedule(k / (T - 1))).

    Raises:
        ValueError: the curve does not fall, or is not finite.
    """
    log_snr = schedule(torch.linspace(0, 1, timesteps, dtype=torch.float64)).double()
    if not torch.isfinite(log_snr).all() or (log_snr.diff() >= 0).any():
        raise ValueError("a noise schedule must be finite and fall from t = 0 to t = 1")
    alphas_cumprod = torch.sigmoid(log_snr)
    # 1 - a/b written as (b - a)/b from the complements: exact where both are close to 1.
    complement = torch.sigmoid(-log_snr)
    later = complement.diff() / alphas_cumprod[:-1]
    # More digits than matter would only lengthen the JSON.
    return [float(f"{beta:.12g}") for beta in torch.cat([complement[:1], later]).tolist()]


def to_x0(prediction: Tensor, x_t: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
    """The clean image that a network's prediction at ``x_t`` amounts to.

    Raises:
        ValueError: unknown prediction type.
    """
    alpha, sigma = alpha_sigma(log_snr)
    if kind == "epsilon":
        return (x_t - sigma * prediction) / alpha
    if kind == "v_prediction":
        return alpha * x_t - sigma * prediction
    if kind == "sample":
        return prediction
    raise ValueError(f"unknown prediction type '{kind}'")


def to_epsilon(prediction: Tensor, x_t: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
    """The noise that a network's prediction at ``x_t`` amounts to.

    Raises:
        ValueError: unknown prediction type.
    """
    alpha, sigma = alpha_sigma(log_snr)
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return sigma * x_t + alpha * prediction
    return (x_t - alpha * to_x0(prediction, x_t, log_snr, kind)) / sigma


def from_x0(x0: Tensor, x_t: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
    """The prediction at ``x_t`` that amounts to a clean image: the inverse of :func:`to_x0`.

    Raises:
        ValueError: unknown prediction type.
    """
    alpha, sigma = alpha_sigma(log_snr)
    if kind == "epsilon":
        return (x_t - alpha * x0) / sigma
    if kind == "v_prediction":
        return (alpha * x_t - x0) / sigma
    if kind == "sample":
        return x0
    raise ValueError(f"unknown prediction type '{kind}'")


def training_target(x0: Tensor, noise: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
    """What the network ought to answer: eps, v = alpha eps - sigma x_0 (Salimans and Ho 2022), or x_0.

    Raises:
        ValueError: unknown prediction type.
    """
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        alpha, sigma = alpha_sigma(log_snr)
        return alpha * noise - sigma * x0
    if kind == "sample":
        return x0
    raise ValueError(f"unknown prediction type '{kind}'")


def posterior(x_t: Tensor, x0: Tensor, log_snr: Tensor, next_log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_s given x_t and x_0, at the higher log-SNR of s.

    With c = 1 - SNR_t / SNR_s: mean alpha_s ((1 - c) x_t / alpha_t + c x_0), variance c sigma_s^2 (Ho et al.
    2020, eq. 7; Kingma et al. 2021, eq. 25 ff.). The deviation is (B, 1, 1, 1).
    """
    alpha, _ = alpha_sigma(log_snr)
    next_alpha, next_sigma = alpha_sigma(next_log_snr)
    log_ratio = (log_snr - next_log_snr).float().reshape(-1, 1, 1, 1)
    c = -torch.expm1(log_ratio)
    # As RSDiff's networks are sampled, with the rounding of 1 - c and of the logarithm.
    mean = next_alpha * (x_t * (1 - c) / alpha + c * x0)
    return mean, (0.5 * (next_sigma**2 * c).clamp(min=1e-20).log()).exp()

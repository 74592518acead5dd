"""What a network is left to predict at a noise level, and how much its error counts there."""

from __future__ import annotations

import torch
from torch import Tensor

from satcascade.diffusion.process import Prediction, alpha_sigma


def loss_weight(
    log_snr: Tensor,
    kind: Prediction,
    weighting: str,
    *,
    sigma_data: float | Tensor = 0.5,
    gamma: float = 5.0,
    bias: float = -1.0,
) -> Tensor:
    """Factor (B,) on the squared error of a prediction of type ``kind``.

    A weight on the squared error of x_0 is turned into one for the prediction by their exact ratio:
    |d x_0|^2 = |d eps|^2 / SNR = |d v|^2 sigma^2.

    * ``min_snr``: min(SNR, gamma) on x_0 (Hang et al. 2023); min(SNR, gamma) / SNR on eps.
    * ``sigmoid``: SNR sigmoid(bias - log-SNR) on x_0, a sigmoid on eps (Kingma and Gao 2023).
    * ``edm``: 1 / c_out^2 of EDM with data of standard deviation ``sigma_data``, one number or (B,): the
      network's own output has unit weight at every noise level.
    * ``v``: 1 on the squared error of v, 1 + SNR on that of x_0, whatever the network predicts. The velocity
      of flow matching has (alpha + sigma)^2 of it, between 1 and 2 times as much.
    * ``uniform``: 1 on the prediction itself.

    Raises:
        ValueError: unknown weighting or prediction type.
    """
    log_snr = log_snr.float()
    if weighting == "uniform":
        return torch.ones_like(log_snr)
    if weighting == "min_snr":
        on_x0 = log_snr.exp().clamp(max=gamma)
    elif weighting == "sigmoid":
        on_x0 = log_snr.exp() * torch.sigmoid(bias - log_snr)
    elif weighting == "edm":
        on_x0 = (1 + sigma_data**2 * log_snr.exp()) / sigma_data**2
    elif weighting == "v":
        on_x0 = 1 + log_snr.exp()
    else:
        raise ValueError(f"unknown loss weighting '{weighting}'")
    if kind == "sample":
        return on_x0
    if kind == "epsilon":
        return on_x0 * (-log_snr).exp()
    if kind == "v_prediction":
        return on_x0 * torch.sigmoid(-log_snr)
    raise ValueError(f"unknown prediction type '{kind}'")


def preconditioning(
    log_snr: Tensor, sigma_data: float | Tensor, kind: Prediction = "v_prediction"
) -> tuple[Tensor, Tensor, Tensor]:
    """EDM's scaling (Karras et al. 2022, table 1), restated for predictions on the VP process.

    With data of standard deviation s = ``sigma_data`` and F a network of unit-variance input and output, a
    prediction is c_skip x_t + c_out F(c_in x_t): the best linear guess is made outside the network, which
    so learns only what is left. With d = alpha^2 s^2 + sigma^2, c_in is d^(-1/2), and

    =========  ==========================  ==================
    predicts   c_skip                      c_out
    =========  ==========================  ==================
    v          alpha sigma (1 - s^2) / d   s d^(-1/2)
    epsilon    sigma / d                   alpha s d^(-1/2)
    x_0        alpha s^2 / d               -sigma s d^(-1/2)
    =========  ==========================  ==================

    With the same F, all three amount to the same clean image.

    Args:
        log_snr: (B,).
        sigma_data: s; or one an image, (B, 1, 1, 1).
        kind: what is predicted.

    Returns:
        c_skip, c_out, c_in, each (B, 1, 1, 1).

    Raises:
        ValueError: unknown prediction type.
    """
    alpha, sigma = alpha_sigma(log_snr)
    variance = alpha**2 * sigma_data**2 + sigma**2
    c_in = variance.rsqrt()
    if kind == "v_prediction":
        return alpha * sigma * (1 - sigma_data**2) / variance, sigma_data * c_in, c_in
    if kind == "epsilon":
        return sigma / variance, alpha * sigma_data * c_in, c_in
    if kind == "sample":
        return alpha * sigma_data**2 / variance, -sigma * sigma_data * c_in, c_in
    raise ValueError(f"unknown prediction type '{kind}'")


def shift_prediction(prediction: Tensor, mean: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
    """The prediction at x_t that one at x_t - alpha m amounts to: the clean images differ by m.

    Args:
        prediction: of type ``kind``, (B, C, H, W).
        mean: m, the same shape.
        log_snr: (B,).
        kind: what is predicted.
    """
    if kind == "epsilon":
        return prediction
    return prediction + mean if kind == "sample" else prediction - alpha_sigma(log_snr)[1] * mean


def low_res_estimate(
    low_res_log_snr: Tensor, sigma_data: float, sigma_residual: float
) -> tuple[Tensor, Tensor]:
    """The best linear guess at an image from its noised low-resolution version.

    That is y = a l + b eps, with a^2 and b^2 the sigmoids of plus and minus ``low_res_log_snr``, of a
    low-resolution image l with root mean square s. The image is l plus a residual of root mean square r. So
    the guess is y a s^2 / (a^2 s^2 + b^2), and what it leaves has variance r^2 + b^2 s^2 / (a^2 s^2 + b^2).

    Args:
        low_res_log_snr: (B,).
        sigma_data: s.
        sigma_residual: r.

    Returns:
        The factor on y and the standard deviation of what is left, each (B, 1, 1, 1).
    """
    alpha, sigma = alpha_sigma(low_res_log_snr)
    variance = alpha**2 * sigma_data**2 + sigma**2
    left = sigma_residual**2 + (sigma * sigma_data) ** 2 / variance
    return alpha * sigma_data**2 / variance, left.sqrt()

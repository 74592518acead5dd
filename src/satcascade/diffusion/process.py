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


def moved(prediction: Tensor, mean: Tensor, log_snr: Tensor, kind: Prediction) -> Tensor:
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


def guide(conditional: Tensor, unconditional: Tensor, scale: float, projected: bool = False) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022).

    conditional + (scale - 1)(conditional - unconditional).

    Args:
        conditional: prediction for the caption, (B, C, H, W).
        unconditional: prediction for the null caption.
        scale: 1 is no guidance.
        projected: drop the part of the update that is parallel to ``conditional``, over all pixels of an
            image and in float64 (Sadat et al. 2024, "Eliminating oversaturation"; imagen-pytorch's default).
    """
    update = conditional - unconditional
    if projected:
        axis = torch.nn.functional.normalize(conditional.double().flatten(1), dim=1).view_as(conditional)
        wide = update.double()
        parallel = (wide * axis).sum(dim=(1, 2, 3), keepdim=True) * axis
        update = (wide - parallel).to(update.dtype)
    return conditional + (scale - 1) * update


def dynamic_threshold(x0: Tensor, percentile: float = 0.95) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022): clamp each image to s and divide by it.

    s is the ``percentile`` of |x_0| within the image, at least 1, so that images in range stay as they are.
    """
    limit = torch.quantile(x0.float().flatten(1).abs(), percentile, dim=1).clamp(min=1.0).view(-1, 1, 1, 1)
    limit = limit.to(x0.dtype)
    return x0.clamp(-limit, limit) / limit

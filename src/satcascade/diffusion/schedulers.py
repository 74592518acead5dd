"""How the cascade's continuous log-SNR process meets the discrete schedulers of ``diffusers``.

The networks are told a log-SNR, lambda; ``diffusers`` counts timesteps 0 ... T-1 on a table of betas. A
log-SNR curve over t in [0, 1] becomes such a table by fixing alpha_bar_k = sigmoid(lambda(k / (T - 1)))
(:func:`satcascade.diffusion.process.trained_betas`), and every timestep of a scheduler is turned back into
the log-SNR that its table has there (:func:`log_snr_at`, :func:`step_log_snrs`). Schedulers that work on
sigma = sqrt((1 - alpha_bar) / alpha_bar) scale the network's input down to the same variance-preserving
process themselves.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from satcascade.diffusion.process import shifted_cosine_log_snr, trained_betas
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.solvers import SOLVERS, Solver, check_solver
from satcascade.errors import UsageError

TRAIN_TIMESTEPS = 1000


def make_scheduler(
    name: str = "dpm++",
    prediction_type: str = "v_prediction",
    *,
    shift: float = 0.0,
    low: float = -12.0,
    high: float = 12.0,
    **options: Any,
) -> Any:
    """A ``diffusers`` scheduler on the (shifted) cosine schedule.

    Steps are spaced so that the first one starts at the lowest log-SNR (pure noise) and the last one ends
    at the clean image ("trailing", Lin et al. 2023).

    Args:
        name: one of :data:`satcascade.diffusion.solvers.SOLVERS`.
        prediction_type: what the network predicts: ``v_prediction``, ``epsilon`` or ``sample``.
        shift: of the cosine in log-SNR, see :func:`satcascade.diffusion.process.shifted_cosine_log_snr`.
        low: log-SNR of the noisiest timestep.
        high: log-SNR of the cleanest timestep.
        options: further arguments of the scheduler's class, such as ``use_karras_sigmas=True``.

    Raises:
        UsageError: unknown name.
    """
    solver = SOLVERS[check_solver(name)]
    family = _family(solver)
    curve = partial(shifted_cosine_log_snr, shift=shift, low=low, high=high)
    # The pipeline clips predictions for every scheduler alike.
    clipping = {"clip_sample": False} if name in ("ddpm", "ddim") else {}
    return family(
        num_train_timesteps=TRAIN_TIMESTEPS,
        trained_betas=trained_betas(curve, TRAIN_TIMESTEPS),
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        **{**clipping, **solver.options, **options},
    )


def swap_scheduler(current: Any, name: str) -> Any:
    """Another sampler on the noise schedule, prediction type and spacing of ``current``.

    Args:
        current: a scheduler of ``diffusers``; it is left as it is.
        name: one of :data:`satcascade.diffusion.solvers.SOLVERS`.

    Raises:
        UsageError: unknown name.
    """
    solver = SOLVERS[check_solver(name)]
    family = _family(solver)
    clipping = {"clip_sample": current.config.get("clip_sample", False)} if name in ("ddpm", "ddim") else {}
    return family.from_config(current.config, **clipping, **solver.options)


def solver_name(scheduler: Any) -> str:
    """The short name that a scheduler goes by, or that of its class where it has none."""
    for name, solver in SOLVERS.items():
        options = {key: scheduler.config.get(key) for key in solver.options}
        if type(scheduler).__name__ == solver.scheduler and options == dict(solver.options):
            return name
    return type(scheduler).__name__


def check_scheduler(scheduler: Any, prediction_type: str) -> None:
    """Refuse a scheduler that cannot sample this cascade.

    Args:
        scheduler: any scheduler of ``diffusers``.
        prediction_type: what the network predicts.

    Raises:
        UsageError: it is not on a variance-preserving process (flow matching, EDM), it draws its noise for
            the whole batch at once, or it expects another prediction.
    """
    name = type(scheduler).__name__
    config = scheduler.config
    compatible = ", ".join(sorted({solver.scheduler for solver in SOLVERS.values()}))
    if not hasattr(scheduler, "alphas_cumprod") or config.get("use_flow_sigmas"):
        raise UsageError(f"{name} is not on a variance-preserving noise schedule: use one of {compatible}")
    if "noise_sampler_seed" in config:
        raise UsageError(
            f"{name} draws one noise for the whole batch, not one an image: use one of {compatible}"
        )
    if config.prediction_type != prediction_type:
        raise UsageError(
            f"{name} expects {config.prediction_type}, the network's prediction type is {prediction_type}: "
            f"make it with {name}.from_config(pipeline.scheduler.config)"
        )


def log_snr_at(scheduler: Any, timestep: float | Tensor) -> Tensor:
    """The log-SNR of a timestep.

    Args:
        scheduler: with a table ``alphas_cumprod`` of length T.
        timestep: in [0, T - 1], of any shape; between two entries of the table, log-SNR is linear.

    Returns:
        float32 of the same shape, on the CPU.
    """
    table = _log_snr_table(scheduler)
    position = torch.as_tensor(timestep, dtype=torch.float64, device="cpu").clamp(0, len(table) - 1)
    below = position.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[below], table[below + 1], position - below).float()


def step_log_snrs(scheduler: Any) -> Tensor:
    """The log-SNR of every network call that the scheduler is set to make.

    Args:
        scheduler: after ``set_timesteps``.

    Returns:
        float32, one number for each of ``scheduler.timesteps``, on the CPU.
    """
    calls = len(scheduler.timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    # Where the scheduler holds its own noise levels they are exact; its timesteps may have been rounded.
    # KDPM2's levels interleave with a second list, so that only its timesteps say which one is meant.
    if sigmas is None or len(sigmas) != calls + 1 or hasattr(scheduler, "sigmas_interpol"):
        return log_snr_at(scheduler, scheduler.timesteps)
    return -2 * sigmas[:-1].cpu().double().log().float()


def set_steps(scheduler: SchedulerMixin, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Set a scheduler to ``steps`` steps from pure noise.

    Returns:
        :func:`step_log_snrs` of it.

    Raises:
        UsageError: not at least 1 step, or more than its table has.
    """
    most = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise UsageError(f"{steps} sampling steps are not possible: give 1 to {most}")
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        # Spares a search for the timestep at each start, and is right even where two timesteps are equal.
        scheduler.set_begin_index(0)
    return step_log_snrs(scheduler)


def _family(solver: Solver) -> Any:
    return RSDiffScheduler if solver.scheduler == "RSDiffScheduler" else getattr(diffusers, solver.scheduler)


def _log_snr_table(scheduler: Any) -> Tensor:
    # A table rescaled to zero terminal SNR ends at alpha_bar = 0; RSDiff's own ends at log-SNR -34.
    smallest = math.exp(-40)
    alphas_cumprod = scheduler.alphas_cumprod.cpu().double().clamp(smallest, 1 - 1e-9)
    return torch.logit(alphas_cumprod)

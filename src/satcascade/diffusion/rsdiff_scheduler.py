"""RSDiff's own sampler as a scheduler of ``diffusers``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from satcascade.diffusion.guidance import dynamic_threshold
from satcascade.diffusion.process import (
    cosine_log_snr,
    posterior,
    shifted_cosine_log_snr,
    to_x0,
    trained_betas,
)


class RSDiffScheduler(SchedulerMixin, ConfigMixin):
    """Ancestral sampling (Ho et al. 2020) in continuous time, as RSDiff and imagen-pytorch sample.

    T steps visit the times 1, 1 - 1/T, ..., 0 of the cosine schedule
    (:func:`satcascade.diffusion.process.cosine_log_snr`). Each takes the estimate of the clean image through
    dynamic thresholding (Saharia et al. 2022) and draws from the Gaussian posterior at the next time; the
    last one takes its mean.

    Args:
        num_train_timesteps: N; timesteps run from N - 1 (time 1, noise) to 0, and T is at most N.
        trained_betas: noise table of another scheduler that is made from this one's configuration. By
            default the same cosine, between log-SNR -12 and its own end: other solvers need levels that
            float32 can tell from pure noise. This scheduler itself does not use it.
        prediction_type: what the network predicts.
        timestep_spacing: likewise only for other schedulers.

    Attributes:
        timesteps: (T,) float32, falling.
        sigmas: (T + 1,) float64 on the CPU, sqrt((1 - alpha_bar) / alpha_bar) of each step and of the end.
        alphas_cumprod: (N,) float64, alpha_bar of the timesteps N - 1, ..., 0 in rising order.
    """

    _compatibles = [entry.name for entry in KarrasDiffusionSchedulers]  # noqa: RUF012 (a plain list there)
    order = 1
    init_noise_sigma = 1.0

    timesteps: Tensor

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "trailing",
    ):
        if trained_betas is None:
            trained_betas = other_solvers_betas(num_train_timesteps)
        # A value that is marked as a default is not passed on to a scheduler made from this configuration.
        self.register_to_config(trained_betas=list(trained_betas), _use_default_values=[])
        log_snrs = cosine_log_snr(torch.linspace(0, 1, num_train_timesteps))
        self.alphas_cumprod = torch.sigmoid(log_snrs.double())
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Set the scheduler to T steps from pure noise."""
        times = torch.linspace(1, 0, num_inference_steps + 1)
        # In float32 on the CPU, as the networks were trained: at time 1 this is -33.9, not minus infinity.
        log_snrs = cosine_log_snr(times)
        self.sigmas = torch.exp(-0.5 * log_snrs.double())
        self.timesteps = (times[:-1] * (self.config.num_train_timesteps - 1)).to(device)
        self._log_snrs = log_snrs.to(device)
        self._step_index: int | None = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample as it is: it already is on the networks' variance-preserving process."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """From the sample at a timestep to the one at the next.

        Args:
            model_output: the network's prediction for ``sample``, (B, 3, S, S).
            timestep: one of ``timesteps``; after the first call they are taken in order.
            sample: x_t, (B, 3, S, S).
            generator: one, or B of them for an image each.
            return_dict: otherwise a tuple with the new sample alone.

        Returns:
            ``prev_sample``, and ``pred_original_sample``, the thresholded estimate of the clean image.
        """
        if self._step_index is None:
            self._step_index = int((self.timesteps == timestep).nonzero()[0])
        log_snr, next_log_snr = self._log_snrs[self._step_index : self._step_index + 2].to(sample.device)
        x0 = dynamic_threshold(to_x0(model_output, sample, log_snr, self.config.prediction_type))
        previous, std = posterior(sample, x0, log_snr, next_log_snr)
        # Drawn at the last step too, where it is not used: the original's sequence of draws.
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        self._step_index += 1
        if self._step_index < len(self.timesteps):
            previous = previous + std * noise
        previous = previous.to(sample.dtype)
        if not return_dict:
            return (previous,)
        return DDPMSchedulerOutput(prev_sample=previous, pred_original_sample=x0)


def other_solvers_betas(timesteps: int) -> list[float]:
    """The table of betas on which solvers of ``diffusers`` sample RSDiff's networks."""
    high = float(cosine_log_snr(torch.zeros(())))
    return trained_betas(partial(shifted_cosine_log_snr, low=-12.0, high=high), timesteps)

"""A stage of a cascade, set to its steps: denoiser, codec, scheduler and settings."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from satcascade.config.stage_settings import StageName
from satcascade.diffusion.guidance import Guidance
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import check_scheduler, set_steps
from satcascade.models.codec import Codec
from satcascade.models.denoiser import Denoiser

Clipping = bool | Literal["dynamic"]
# To which a low-resolution image is noised, if nothing else is said.
LOW_RES_LOG_SNR = 3.0


class Sampler(NamedTuple):
    """How a stage samples, with nothing left open.

    Attributes:
        scheduler: on the stage's noise schedule.
        steps: of the scheduler, which may call the network several times in each.
        guidance: by the caption.
    """

    scheduler: Any
    steps: int
    guidance: Guidance


@dataclass(frozen=True)
class Step:
    """One network call of a sampler.

    Attributes:
        timestep: as the scheduler counts.
        log_snr: noise level of the sample that the network is given.
        guided: whether the prediction is guided.
    """

    timestep: Tensor
    log_snr: float
    guided: bool


@dataclass(frozen=True)
class SamplingStage:
    """One stage, ready to sample.

    Attributes:
        name: ``base`` or ``sr``.
        denoiser: its network.
        codec: what stands between images and what it diffuses.
        scheduler: set to ``steps``, and used by this stage alone.
        steps: the network calls, in order.
        guidance: by the caption.
        clip_x0: how the estimate of the clean image is bounded at every step.
        low_res_log_snr: noise level to which a low-resolution image is taken.
    """

    name: StageName
    denoiser: Denoiser
    codec: Codec
    scheduler: Any
    steps: list[Step]
    guidance: Guidance
    clip_x0: Clipping
    low_res_log_snr: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of what it diffuses."""
        size = int(self.denoiser.config.sample_size)
        return self.codec.channels, size, size

    @property
    def image_size(self) -> int:
        """Pixels a side of its images."""
        return self.shape[-1] * self.codec.factor


def prepare_stage(
    name: StageName,
    denoiser: Denoiser,
    codec: Codec,
    sampler: Sampler,
    *,
    clip_x0: Clipping,
    low_res_log_snr: float,
    device: torch.device,
) -> SamplingStage:
    """Set a stage to its steps.

    The arguments are what :class:`SamplingStage` says of them, but for these: the stage has a copy of the
    scheduler of ``sampler``; ``device`` is where the networks run.

    Raises:
        UsageError: the scheduler does not fit.
    """
    scheduler, steps, guidance = sampler
    check_scheduler(scheduler, denoiser.prediction_type)
    # Setting its steps gives the copy a state of its own: both stages, or two threads, may share one.
    own = copy.copy(scheduler)
    if denoiser.prediction_type == "sample":
        # Some schedulers take no clean image, all take v.
        own.register_to_config(prediction_type="v_prediction")
    log_snrs = set_steps(own, steps, device).tolist()
    # RSDiff's scheduler does it itself, and at its first step, where alpha is 4e-8, a clean image would not
    # survive as a prediction. Latents have no bounds.
    bounded = codec.bounded and not isinstance(own, RSDiffScheduler)
    return SamplingStage(
        name=name,
        denoiser=denoiser,
        codec=codec,
        scheduler=own,
        steps=[
            Step(timestep, level, guidance.applies(level))
            for timestep, level in zip(own.timesteps, log_snrs, strict=True)
        ],
        guidance=guidance,
        clip_x0=clip_x0 if bounded else False,
        low_res_log_snr=low_res_log_snr,
    )


def takes_generator(scheduler: Any) -> bool:
    """Whether a scheduler draws noise at its steps."""
    return "generator" in inspect.signature(scheduler.step).parameters

"""Editing an image: which steps of a stage are taken, from what, and what of the image stays as it is.

Image to image (Meng et al. 2022, "SDEdit") noises the image to a level on the way and takes the steps from
there. Inpainting keeps a known region at each noise level (Lugmayr et al. 2022, "RePaint"): at every step the
network's estimate of the clean image is replaced by the image itself in that region, so that a solver, of
whatever order, takes the known region along its own path x_t = alpha x_0 + sigma eps. With an ancestral
sampler that is a draw of q(x_s | x_t, x_0), the known image's own posterior. RePaint's jumps take stretches
of the steps several times, with noise added in between, so that what is made and what is known settle.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from satcascade.diffusion.process import add_noise, alpha_sigma
from satcascade.diffusion.rsdiff_scheduler import RSDiffScheduler
from satcascade.diffusion.schedulers import set_steps
from satcascade.sampling.stage import SamplingStage

# RePaint jumps back by 10 of 250 steps. Solvers of higher order start anew after a jump: of few steps,
# stretches shorter than this would leave them no order to speak of.
_STRETCHES, _SHORTEST = 25, 4


@dataclass(frozen=True)
class StageEdit:
    """What a stage makes of images, rather than of pure noise.

    Attributes:
        known: (B, C, S, S) what the stage would diffuse of the images.
        remade: (B, 1, S, S) bool, False where the images stay; None where they may change everywhere.
        strength: 0 to 1, the share of the steps that is taken; at 1 the images count only where they stay.
        resampling: how often each stretch of the steps is taken.
    """

    known: Tensor
    remade: Tensor | None = None
    strength: float = 1.0
    resampling: int = 1

    def keep(self, x0: Tensor) -> Tensor:
        """An estimate of the clean images (B, C, S, S), with the known ones where they stay; needs a mask."""
        assert self.remade is not None
        return torch.where(self.remade, x0, self.known)


def stretches(stage: SamplingStage, strength: float, resampling: int = 1) -> list[range]:
    """The network calls of an edit, by their numbers in ``stage.steps``, stretch by stretch.

    Args:
        stage: set to its steps.
        strength: 0 to 1; the last int(strength T) of T steps are taken, but for 0 at least one.
        resampling: how often each stretch is taken; 1 makes one stretch of all steps.
    """
    # Schedulers of order 2 call the network twice a step.
    order = getattr(stage.scheduler, "order", 1)
    count = math.ceil(len(stage.steps) / order)
    taken = max(int(count * strength + 1e-6), int(strength > 0))
    length = max(count // _STRETCHES, _SHORTEST) if resampling > 1 else count
    return [
        range(first * order, min((first + length) * order, len(stage.steps)))
        for first in range(count - taken, count, length)
        for _ in range(resampling)
    ]


def count_calls(stage: SamplingStage, strength: float = 1.0, resampling: int = 1) -> int:
    """How many network calls a stage makes; by default those of a new image."""
    return sum(map(len, stretches(stage, strength, resampling)))


def part_of(stage: SamplingStage, calls: range) -> SamplingStage:
    """A stage of some of the network calls of another, with a scheduler of its own that begins there."""
    own = copy.copy(stage.scheduler)
    set_steps(own, getattr(own, "num_inference_steps", None) or len(own.timesteps), own.timesteps.device)
    if hasattr(own, "set_begin_index"):
        own.set_begin_index(calls.start)
    part = replace(stage, scheduler=own, steps=stage.steps[calls.start : calls.stop])
    if isinstance(own, RSDiffScheduler):
        # It thresholds by what is in the whole image, known region and all. Where that has been done before
        # the known region is put in, it does nothing more; and it takes a clean image as it is.
        own.register_to_config(prediction_type="sample")
        part = replace(part, clip_x0="dynamic")
    return part


def start(stage: SamplingStage, known: Tensor, noise: Tensor, call: int) -> Tensor:
    """What the scheduler holds (B, C, S, S) of known images before a network call; noise at the first."""
    if call == 0:
        return noise * stage.scheduler.init_noise_sigma
    log_snr = torch.full((len(known),), _log_snr(stage, call), device=known.device)
    return add_noise(known, noise, log_snr) / _input_scale(stage, call)


def noised_back(stage: SamplingStage, x: Tensor, noise: Tensor, call: int, earlier: int) -> Tensor:
    """What the scheduler holds before one network call, taken back to an earlier and noisier one.

    A draw of q(x_t | x_s): (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) eps.
    """
    x = x * _input_scale(stage, call)
    levels = [torch.full((len(x),), _log_snr(stage, at), device=x.device) for at in (earlier, call)]
    (alpha, sigma), (cleaner_alpha, cleaner_sigma) = map(alpha_sigma, levels)
    ratio = alpha / cleaner_alpha
    std = (sigma**2 - ratio**2 * cleaner_sigma**2).clamp(min=0).sqrt()
    return (ratio * x + std * noise) / _input_scale(stage, earlier)


def _log_snr(stage: SamplingStage, call: int) -> float:
    """The noise level before a network call; that after the last one is none."""
    return stage.steps[call].log_snr if call < len(stage.steps) else math.inf


def _input_scale(stage: SamplingStage, call: int) -> float:
    """What turns the scheduler's x before a network call into the variance-preserving x_t."""
    if call == len(stage.steps):
        return 1.0
    fresh = part_of(stage, range(call, call + 1))
    timestep = fresh.steps[0].timestep
    return float(fresh.scheduler.scale_model_input(torch.ones(1, device=timestep.device), timestep))

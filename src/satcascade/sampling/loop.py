"""The sampling loop: from noise to what a stage diffuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from satcascade.diffusion.guidance import dynamic_threshold
from satcascade.diffusion.process import Prediction, from_x0, to_x0
from satcascade.errors import SatcascadeError
from satcascade.hardware.precision import autocast
from satcascade.models.text import TextEmbeddings
from satcascade.sampling.condition import Condition, noised_low_res
from satcascade.sampling.edit import StageEdit, noised_back, part_of, start, stretches
from satcascade.sampling.stage import Clipping, SamplingStage, Step, takes_generator

OnStep = Callable[[int, Tensor], Tensor]
Keep = Callable[[Tensor], Tensor]
# From x_t, scaled as the network takes it, and its step to what the scheduler is to step by.
Predictor = Callable[[Tensor, Step], Tensor]


def denoise(
    stage: SamplingStage,
    condition: Condition,
    x: Tensor,
    generators: list[torch.Generator],
    on_step: OnStep,
    predictor: Predictor | None = None,
) -> Tensor:
    """Take x through the steps of a stage.

    Args:
        stage: set to its steps.
        condition: captions and low-resolution images of B images.
        x: (B, C, S, S) at the noise level of the first step, scaled as the scheduler has it.
        generators: B of them, for the noise that stochastic schedulers add.
        on_step: given the number of each step and x after it, returns the x of the next step.
        predictor: what to step by instead of :func:`predict_step` of the stage and its condition.

    Returns:
        x after the last step, float32.
    """
    options = {"generator": generators} if takes_generator(stage.scheduler) else {}
    predictor = predictor or partial(predict_step, stage, condition)
    for number, step in enumerate(stage.steps):
        x_t = stage.scheduler.scale_model_input(x, step.timestep)
        prediction = predictor(x_t, step)
        x = stage.scheduler.step(prediction, step.timestep, x, return_dict=False, **options)[0]
        x = on_step(number, x)
    return x


def predict_step(
    stage: SamplingStage, condition: Condition, x_t: Tensor, step: Step, keep: Keep | None = None
) -> Tensor:
    """What a stage's scheduler is to step by at x_t (B, C, S, S): guided, of its type, and bounded.

    ``keep``, given each estimate of the clean images, returns it with what is known of them put in.
    """
    log_snr = torch.full((len(x_t),), step.log_snr, device=x_t.device)
    prediction = predict(stage, condition, x_t, log_snr, step.guided)
    given, wanted = stage.denoiser.prediction_type, stage.scheduler.config.prediction_type
    return convert(prediction, x_t, log_snr, given, wanted, clip_x0=stage.clip_x0, keep=keep)


def predict(stage: SamplingStage, condition: Condition, x_t: Tensor, log_snr: Tensor, guided: bool) -> Tensor:
    """The prediction (B, C, S, S) for x_t at ``log_snr`` (B,), with classifier-free guidance or without."""
    network = stage.denoiser
    if not guided:
        return network(x_t, log_snr, **condition.captioned()).float()
    if network.guides_in_one_batch(x_t.device):
        both = network(torch.cat([x_t, x_t]), torch.cat([log_snr, log_snr]), **condition.both())
        conditional, unconditional = both.float().chunk(2)
    else:
        conditional = network(x_t, log_snr, **condition.captioned()).float()
        unconditional = network(x_t, log_snr, **condition.null()).float()
    return stage.guidance(conditional, unconditional)


def convert(
    prediction: Tensor,
    x_t: Tensor,
    log_snr: Tensor,
    given: Prediction,
    wanted: Prediction,
    *,
    clip_x0: Clipping = False,
    keep: Keep | None = None,
) -> Tensor:
    """A prediction of type ``given`` at x_t as one of type ``wanted``, its clean image bounded on the way.

    Args:
        prediction: (B, C, S, S), for x_t at ``log_snr`` (B,).
        x_t: the noised sample.
        log_snr: its noise level.
        given: what ``prediction`` is.
        wanted: what is returned.
        clip_x0: clamp the clean image to [-1, 1], or (``dynamic``) to its 95th percentile and rescale it.
        keep: what is put into the clean image after that, as :func:`predict_step` takes it.
    """
    if given == wanted and not clip_x0 and keep is None:
        return prediction
    x0 = to_x0(prediction, x_t, log_snr, given)
    if clip_x0:
        x0 = dynamic_threshold(x0) if clip_x0 == "dynamic" else x0.clamp(-1, 1)
    if keep is not None:
        x0 = keep(x0)
    return from_x0(x0, x_t, log_snr, wanted)


def sample_stage(
    stage: SamplingStage,
    text: TextEmbeddings,
    generators: list[torch.Generator],
    images: Tensor | None,
    dtype: torch.dtype,
    on_step: OnStep,
    negative: TextEmbeddings | None = None,
    edit: StageEdit | None = None,
) -> Tensor:
    """Run a stage, from pure noise or from images to edit.

    Args:
        stage: set to its steps.
        text: embeddings of B captions, on the device of the networks.
        generators: B of them, which draw in this order: the noise on the low-resolution image, the first
            noise, the noise of the steps (and that of jumps back, where an edit has these).
        images: (B, 3, h, w) in [-1, 1], which super-resolution enlarges; None in a base stage.
        dtype: what the network computes in.
        on_step: as :func:`denoise` takes it.
        negative: embeddings of B captions in the place of the null caption of guidance.
        edit: what is made of images; None makes new ones.

    Returns:
        (B, C, S, S) float32, for the stage's codec to decode.
    """
    device = text.embeddings.device
    draw = partial(randn_tensor, (len(text), *stage.shape), generator=generators, device=device)
    low_res = None if images is None else noised_low_res(stage, images, draw())
    noise = draw()
    # One context for the whole stage: it keeps the weights it has cast. The solver's state stays float32.
    with autocast(dtype, device):
        condition = Condition.of(stage, text, low_res, negative)
        if edit is None:
            x = noise * stage.scheduler.init_noise_sigma
            return denoise(stage, condition, x, generators, on_step)
        return _edited(stage, condition, edit, noise, draw, generators, on_step)


def check_finite(diffused: Tensor, what: str) -> None:
    """Refuse what a stage has made of damaged weights, or in too low a precision.

    Args:
        diffused: as :func:`sample_stage` returns it.
        what: the stage, for the message.

    Raises:
        SatcascadeError: a number is not finite.
    """
    if not torch.isfinite(diffused).all():
        raise SatcascadeError(
            f"{what} produced numbers that are not finite: its weights are damaged, or the precision is too "
            "low (try float32)"
        )


def _edited(
    stage: SamplingStage,
    condition: Condition,
    edit: StageEdit,
    noise: Tensor,
    draw: Callable[[], Tensor],
    generators: list[torch.Generator],
    on_step: OnStep,
) -> Tensor:
    """The images of an edit after its steps; with none they are as they were."""
    x, reached = edit.known, None
    keep = None if edit.remade is None else edit.keep
    for calls in stretches(stage, edit.strength, edit.resampling):
        if reached is None:
            x = start(stage, edit.known, noise, calls.start)
        elif reached != calls.start:
            x = noised_back(stage, x, draw(), reached, calls.start)

        def after(number: int, x: Tensor, first: int = calls.start) -> Tensor:
            return on_step(first + number, x)

        part = part_of(stage, calls)
        x = denoise(part, condition, x, generators, after, partial(predict_step, part, condition, keep=keep))
        reached = calls.stop
    return x

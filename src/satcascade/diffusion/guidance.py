"""What sampling does to a prediction: guidance by the caption, and thresholding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from satcascade.errors import UsageError


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a stage: how strong, of which kind, and at which noise levels.

    Attributes:
        scale: 1 is none.
        projected: as :func:`guide` takes it.
        rescale: as :func:`guide` takes it, in [0, 1].
        interval: lowest and highest log-SNR at which it applies (Kynkaanniemi et al. 2024); None is all.

    Raises:
        UsageError: a number is out of range.
    """

    scale: float = 1.0
    projected: bool = False
    rescale: float = 0.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise UsageError(
                f"guidance scale {self.scale} is negative: 1 is none, larger follows the caption more"
            )
        if not 0 <= self.rescale <= 1:
            raise UsageError(f"guidance_rescale {self.rescale} is out of range: 0 is none, 1 all of it")

    def applies(self, log_snr: float) -> bool:
        """Whether there is any at a noise level."""
        return self.scale != 1 and (self.interval is None or self.interval[0] <= log_snr <= self.interval[1])

    def __call__(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """The guided prediction (B, C, H, W)."""
        return guide(conditional, unconditional, self.scale, self.projected, self.rescale)


def guide(
    conditional: Tensor, unconditional: Tensor, scale: float, projected: bool = False, rescale: float = 0.0
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022).

    conditional + (scale - 1)(conditional - unconditional).

    Args:
        conditional: prediction for the caption, (B, C, H, W).
        unconditional: prediction for the null caption.
        scale: 1 is no guidance.
        projected: drop the part of the update that is parallel to ``conditional``, over all pixels of an
            image and in float64 (Sadat et al. 2024, "Eliminating oversaturation"; imagen-pytorch's default).
        rescale: phi in [0, 1] of Lin et al. (2023), "Common diffusion noise schedules", eq. 15-16: how far
            the deviation of each image's prediction is brought back to that of its conditional one.
    """
    update = conditional - unconditional
    if projected:
        axis = torch.nn.functional.normalize(conditional.double().flatten(1), dim=1).view_as(conditional)
        wide = update.double()
        parallel = (wide * axis).sum(dim=(1, 2, 3), keepdim=True) * axis
        update = (wide - parallel).to(update.dtype)
    guided = conditional + (scale - 1) * update
    if not rescale:
        return guided
    ratio = _deviation(conditional) / _deviation(guided)
    return guided * (1 + rescale * (ratio - 1))


def _deviation(prediction: Tensor) -> Tensor:
    """Of each image's numbers, (B, 1, 1, 1)."""
    return prediction.std(dim=(1, 2, 3), keepdim=True)


def dynamic_threshold(x0: Tensor, percentile: float = 0.95) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022): clamp each image to s and divide by it.

    s is the ``percentile`` of |x_0| within the image, at least 1, so that images in range stay as they are.
    """
    limit = torch.quantile(x0.float().flatten(1).abs(), percentile, dim=1).clamp(min=1.0).view(-1, 1, 1, 1)
    limit = limit.to(x0.dtype)
    return x0.clamp(-limit, limit) / limit

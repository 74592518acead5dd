"""What sampling does to a prediction: guidance by the caption, and thresholding."""

from __future__ import annotations

import torch
from torch import Tensor


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

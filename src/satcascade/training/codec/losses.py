"""What the decoder is trained on: pixels, edges, and how much texture there is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.config.codec import DecoderTraining

# Texture is compared with pictures averaged down by these (no decoder has the finest detail), over windows of
# this side, every half of it.
_SCALES = (2, 4, 8)
_WINDOW = 8
# Smallest side of which the first scale leaves a window of differences.
LEAST_TEXTURED = _SCALES[0] * (_WINDOW + 1)
# Mean squared differences far below this are no texture: two levels of 255.
_LEAST = 2e-4


def decoder_loss(decoded: Tensor, real: Tensor, pictures: Tensor | None, settings: DecoderTraining) -> Tensor:
    """The errors of decoded pictures against real ones, and against a teacher's.

    Args:
        decoded: (B, 3, H, W) in [-1, 1] or a little beyond; H and W at least 16.
        real: the same shape.
        pictures: (B, 3, h, w), what the teacher decodes; h divides H. Decoded ones are averaged down to it.
        settings: weights of the errors.
    """
    loss = settings.pixel_weight * reconstruction_loss(decoded, real, settings.gradient_weight)
    if settings.texture_weight:
        loss = loss + settings.texture_weight * texture_error(decoded, real)
    if pictures is None:
        return loss
    reduced = F.avg_pool2d(decoded, decoded.shape[-1] // pictures.shape[-1])
    taught = reconstruction_loss(reduced, pictures, settings.gradient_weight)
    return loss + settings.teacher_pictures * taught


def reconstruction_loss(decoded: Tensor, real: Tensor, gradient_weight: float) -> Tensor:
    """Mean absolute errors of pixels and of differences between neighbours.

    Args:
        decoded: (B, 3, H, W) in [-1, 1] or a little beyond; H and W at least 16.
        real: the same shape.
        gradient_weight: of the second error.
    """
    error = decoded - real
    loss = error.abs().mean()
    if gradient_weight:
        steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = loss + gradient_weight * steps / 2
    return loss


def texture_error(decoded: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error of the logarithm of how much neighbours differ, window by window.

    A decoder that minimises errors of pixels leaves out what it cannot know of a texture, and blurs it. This
    error does not ask where the details are, only that there are as many: at half, quarter and an eighth of
    the resolution, across and down. Of the logarithm, since the faint texture of water or a meadow counts as
    much to the eye as that of a town.

    Args:
        decoded: (B, 3, H, W) in [-1, 1] or a little beyond; H and W at least
            :data:`LEAST_TEXTURED`. Scales that leave no window of differences are left out.
        real: the same shape.
    """
    errors = []
    for scale in _SCALES:
        if min(decoded.shape[-2:]) < scale * (_WINDOW + 1):
            break
        pictures = [F.avg_pool2d(picture, scale) for picture in (decoded, real)]
        for dim in (-1, -2):
            amounts = [
                (F.avg_pool2d(picture.diff(dim=dim).square(), _WINDOW, _WINDOW // 2) + _LEAST).log()
                for picture in pictures
            ]
            errors.append((amounts[0] - amounts[1]).abs().mean() / 2)
    return torch.stack(errors).mean()

"""Joins without a seam: what is made is shifted so that its colours meet those of what is there.

Poisson image editing (Perez et al. 2003): of what is made only the gradients count, and at its edge it takes
the values of what it is put into. That is the same as adding a membrane to it: the difference that is known
at the edge, spread smoothly over the inside. Here the membrane falls with the distance from the edge, so
that what is far from it keeps its colours however much differs there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# How far colours are shifted, as a share of the side of a model's images.
REACH = 1 / 16
# Of a residual, times the reach: the result is then within a level or so of 255 wherever all of it differs.
_TOLERANCE = 4e-3
# Of a residual that comes from rounding: not worth an iteration.
_NOTHING = 1e-5
_MOST_ITERATIONS = 500
# Sides of the coarsest grid, at most twice this.
_COARSEST = 8


def joined(made: Tensor, known: Tensor, free: Tensor, reach: float) -> Tensor:
    """What is known, and around it what is made, shifted to meet it.

    Args:
        made: (B, C, H, W) in [-1, 1]; where the images are known, what the model makes of the same place.
        known: (B, C, H, W) in [-1, 1]; arbitrary, but finite, where nothing is known.
        free: (B, 1, H, W) bool, False where the images are known.
        reach: as :func:`membrane` takes it; 0 shifts nothing.

    Returns:
        (B, C, H, W) in [-1, 1]: ``known`` where it is known, exactly.
    """
    if reach > 0:
        made = (made + membrane(known - made, free, reach)).clamp(-1, 1)
    return torch.where(free, made, known)


def membrane(values: Tensor, free: Tensor, reach: float) -> Tensor:
    """Spread values at the edge of a region over its inside.

    The result u has the smallest sum of |grad u|^2 + (u / reach)^2 of all that have the values around the
    region (a screened Laplace equation): no value is larger than the largest around it, and away from a
    straight edge it falls to 1 / e over ``reach`` pixels. The border of the picture holds nothing.

    Args:
        values: (B, C, H, W); they count in the pixels beside the region only.
        free: (B, 1, H, W) bool, the region.
        reach: in pixels, more than 0.

    Returns:
        (B, C, H, W) of the type of ``values``: 0 outside of the region, and everywhere where all is free.
    """
    around = torch.where(free, 0, values)
    height, width = values.shape[-2:]
    first = torch.zeros_like(around)
    if min(height, width) >= 2 * _COARSEST and reach > 1:
        # From a grid of half the side: far fewer iterations, which carry values a pixel each.
        share = F.avg_pool2d((~free).to(values.dtype), 2, ceil_mode=True)
        mean = F.avg_pool2d(around, 2, ceil_mode=True) / share.clamp(min=0.1)
        coarse = membrane(mean, share == 0, reach / 2)
        first = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return _conjugate_gradients(around, free, reach, torch.where(free, first, 0))


def _conjugate_gradients(around: Tensor, free: Tensor, reach: float, u: Tensor) -> Tensor:
    """The membrane, from a first guess ``u``; an image's does not depend on what else is in the batch."""
    weight = _neighbours(torch.ones_like(around[:1, :1])) + reach**-2

    def operator(x: Tensor) -> Tensor:
        return torch.where(free, weight * x - _neighbours(x), 0)

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dim=(-2, -1), keepdim=True)

    residual = torch.where(free, _neighbours(around), 0) - operator(u)
    largest = around.abs().amax(dim=(-2, -1), keepdim=True)
    enough = (_TOLERANCE / reach * largest).clamp(min=_NOTHING)
    direction, square = residual, dot(residual, residual)
    for _ in range(_MOST_ITERATIONS):
        left = residual.abs().amax(dim=(-2, -1), keepdim=True) > enough
        if not left.any():
            break
        moved = operator(direction)
        step = torch.where(left, square / dot(direction, moved), 0)
        u = u + step * direction
        residual = residual - step * moved
        before, square = square, torch.where(left, dot(residual, residual), square)
        direction = torch.where(left, residual + square / before * direction, direction)
    return u


def _neighbours(x: Tensor) -> Tensor:
    """The sum of the four neighbours of each pixel."""
    padded = F.pad(x, (1, 1, 1, 1))
    across = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return across + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]

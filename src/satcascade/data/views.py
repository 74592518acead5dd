"""Views of prepared images: averaged down, cut out, turned, with other colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.models.levels import from_levels

# How many symmetries the square has: an overhead image has no up.
SYMMETRIES = 8
# Of these the one that exchanges left and right.
MIRRORED = 7


def to_float(images: Tensor, size: int) -> Tensor:
    """Images as the networks see them.

    Args:
        images: uint8 (B, H, H, 3).
        size: a divisor of H; images are averaged down to it.

    Returns:
        float32 (B, 3, size, size) in [-1, 1].
    """
    planes = from_levels(images.permute(0, 3, 1, 2).contiguous())
    pixels = images.shape[1] // size
    return planes if pixels == 1 else F.avg_pool2d(planes, pixels)


def dihedral(image: Tensor, symmetry: int) -> Tensor:
    """One of the eight symmetries of the square.

    Args:
        image: (..., S, S).
        symmetry: 0 to 3 are quarter turns; 4 to 7 the same after a transposition.
    """
    if symmetry >= 4:
        image = image.transpose(-1, -2)
    return torch.rot90(image, symmetry % 4, dims=(-2, -1))


def cut(views: list[Tensor], corner: Tensor, symmetry: Tensor, side: int) -> list[Tensor]:
    """Cut a square out of each image and turn it; the same in all views.

    Args:
        views: each (B, C, S, S).
        corner: (B, 2) int64, top and left.
        symmetry: (B,) int64, see :func:`dihedral`.
        side: of the square.

    Returns:
        Each view as (B, C, side, side).
    """
    size = views[0].shape[-1]
    grid = torch.arange(side, device=corner.device)[:, None] * size + torch.arange(side, device=corner.device)
    turned = torch.stack([dihedral(grid, number) for number in range(8)]).flatten(1)
    index = turned[symmetry] + (corner[:, :1] * size + corner[:, 1:])
    return [
        view.flatten(2).gather(2, index[:, None].expand(-1, view.shape[1], -1)).unflatten(2, (side, side))
        for view in views
    ]


def jittered(images: Tensor, change: Tensor) -> Tensor:
    """Change saturation, contrast and brightness of each image, clipped to the range of values.

    Args:
        images: (B, 3, S, S) in [-1, 1].
        change: (B, 3), each in (-1, 1): of the factors on distances from grey and from medium grey, and of
            the shift in units of half the range of values.

    Returns:
        (B, 3, S, S) in [-1, 1].
    """
    saturation, contrast, brightness = change.to(images.dtype)[..., None, None, None].unbind(1)
    grey = images.mean(dim=1, keepdim=True)
    coloured = torch.lerp(grey, images, 1 + saturation)
    return (coloured * (1 + contrast) + brightness).clamp(-1, 1)

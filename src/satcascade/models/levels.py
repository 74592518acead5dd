"""Pictures as networks take them, in [-1, 1], and as files hold them, in levels of 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def to_levels(pictures: Tensor) -> Tensor:
    """Levels of pictures, uint8 of the same shape: -1 is 0 and 1 is 255, rounded half to even.

    Args:
        pictures: in [-1, 1].
    """
    return ((pictures + 1) * 127.5).round().to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Pictures in [-1, 1], float32, of levels (uint8) of the same shape: the reverse of :func:`to_levels`."""
    return levels.float().div_(127.5).sub_(1)

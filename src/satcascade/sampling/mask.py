"""Masks of what is to be remade: at the size of a stage, and with a soft edge."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def mask_at(mask: Tensor, size: int) -> Tensor:
    """A mask as a stage of another resolution takes it: all positions that any marked pixel lies in.

    Args:
        mask: (B, 1, S, S) bool.
        size: positions a side.

    Returns:
        (B, 1, size, size) bool.
    """
    if mask.shape[-1] == size:
        return mask
    # Windows of adaptive pooling cover all pixels, also where the sizes do not divide.
    return F.adaptive_max_pool2d(mask.float(), size) > 0


def feathered(mask: Tensor, width: int) -> Tensor:
    """The weight of what is remade: 0 outside of the mask, rising to 1 over some pixels inside of its edge.

    Distances are the larger of both coordinates', and the border of the image is no edge. Where the mask is
    too thin for that width, the ramp reaches 1 in the middle.

    Args:
        mask: (B, 1, S, S) bool.
        width: pixels of the ramp; 0 leaves a hard edge.

    Returns:
        (B, 1, S, S) float32 in [0, 1].
    """
    left = mask.float()
    depth = left.clone()
    for _ in range(width):
        # One pixel off all edges; max_pool2d pads with what is no edge.
        left = 1 - F.max_pool2d(1 - left, 3, stride=1, padding=1)
        depth += left
    window = 2 * width + 1
    deepest = F.max_pool2d(depth, (window, 1), stride=1, padding=(width, 0))
    deepest = F.max_pool2d(deepest, (1, window), stride=1, padding=(0, width))
    return depth / deepest.clamp(min=1)

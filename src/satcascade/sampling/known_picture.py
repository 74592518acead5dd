"""The part of a scene that is there already: kept as it is, and met by what is made around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from satcascade.sampling.membrane import joined

# So many reaches from the edge next to nothing is left of a membrane: 0.3 levels of 128.
_REACHES = 6


@dataclass(frozen=True)
class KnownPicture:
    """The part of a scene that is there already and stays.

    Attributes:
        pixels: (3, H, W) in [-1, 1], of the whole scene; what is not known should go on smoothly, as an
            encoder sees beyond the edge.
        mask: (H, W) bool, where it is known.
        reach: how far what is made is shifted to meet it, in pixels, see
            :func:`satcascade.sampling.membrane.membrane`; 0 leaves it as it is made.
    """

    pixels: Tensor
    mask: Tensor
    reach: float = 0.0

    def reduced(self, factor: int) -> KnownPicture:
        """The same of a scene whose sides are smaller by a factor: known where all of its pixels are."""
        pixels = F.avg_pool2d(self.pixels[None], factor)[0]
        return KnownPicture(pixels, self.mask_of_cells(factor), self.reach / factor)

    def mask_of_cells(self, side: int) -> Tensor:
        """Where squares of so many pixels a side are known as a whole, (H / side, W / side) bool."""
        return F.avg_pool2d(self.mask[None].float(), side)[0] > 1 - 0.5 / side**2

    def joined(self, planes: Iterable[Tensor]) -> Iterator[Tensor]:
        """A picture of the scene with what is known in its place, and the rest shifted to meet it.

        Args:
            planes: its channels, (h, w) in [-1, 1] each; the scene's right and lower end may be cut off.

        Returns:
            The channels, one at a time: memory for more is not needed.
        """
        rows, columns = (self._window(axis) for axis in (0, 1))
        for plane, pixels in zip(planes, self.pixels, strict=True):
            height, width = plane.shape
            part, known, mask = (
                each[:height, :width][rows, columns][None, None] for each in (plane, pixels, self.mask)
            )
            whole = plane.clone()
            if part.numel():
                whole[rows, columns] = joined(part, known.to(part), ~mask.to(part.device), self.reach)[0, 0]
            yield whole

    def _window(self, axis: int) -> slice:
        """The part of an axis that holds what is known and what is shifted; empty where nothing is known."""
        margin = math.ceil(_REACHES * self.reach)
        places = self.mask.any(dim=1 - axis).nonzero()[:, 0].tolist()
        return slice(max(places[0] - margin, 0), places[-1] + margin + 1) if places else slice(0)

"""A canvas larger than a network's images, and the overlapping windows that it is worked on in.

Averaging what a network says in overlapping windows makes one picture of any size (Bar-Tal et al. 2023,
"MultiDiffusion"). Everything here is a function of numbers and coordinates: which windows there are, how
they are weighted, and the noise of each part of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.seeds import derived_seed

DEFAULT_OVERLAP = 0.5
MOST_OVERLAP = 0.75


@dataclass(frozen=True)
class Windows:
    """Overlapping windows along one axis of a canvas, as evenly spaced as whole positions allow.

    Attributes:
        length: of the axis, in positions.
        size: of a window.
        overlap: of neighbours, at least; 0 <= overlap < size.
        wrap: whether the axis is a circle, so that windows may go round its end.
        context: the first and last so many positions of a window, less than half the overlap, are there
            only for the network to see: they have next to no weight.

    Raises:
        ValueError: the axis is shorter than a window, or the overlap is out of its range.
    """

    length: int
    size: int
    overlap: int
    wrap: bool = False
    context: int = 0

    def __post_init__(self) -> None:
        if self.length < self.size:
            raise ValueError(f"an axis of {self.length} positions is shorter than a window of {self.size}")
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"an overlap of {self.overlap} positions is not within a window of {self.size}")

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each window begins, rising."""
        stride = self.size - self.overlap
        if self.wrap:
            count = math.ceil(self.length / stride)
            return tuple(number * self.length // count for number in range(count))
        gaps = math.ceil((self.length - self.size) / stride)
        return tuple(number * (self.length - self.size) // max(gaps, 1) for number in range(gaps + 1))

    def positions(self, cell: int = 1) -> Tensor:
        """The positions of the axis that each window covers.

        Args:
            cell: count in parts of a position, so many each: pixels of latents.

        Returns:
            (n, size * cell) int64, from 0 to length * cell - 1.
        """
        found = torch.tensor(self.starts)[:, None] * cell + torch.arange(self.size * cell)
        return found % (self.length * cell)

    def weights(self, cell: int = 1) -> Tensor:
        """Weights of the windows, which fall towards their ends and at each position sum to one.

        They rise as sin^2 over the overlap (at most half a window) but for its ``context``, and are divided
        by their sum over all windows at a position.

        Args:
            cell: as :meth:`positions` takes it.

        Returns:
            (n, size * cell) float32.
        """
        ramp = max(min(self.overlap, self.size / 2) - 2 * self.context, 0.5 / cell)
        place = (torch.arange(self.size * cell, dtype=torch.float64) + 0.5) / cell
        from_start, to_end = (each.repeat(len(self.starts), 1) for each in (place, self.size - place))
        if not self.wrap:
            # What ends with the canvas is not cut off.
            from_start[0] = to_end[-1] = math.inf
        from_end = torch.minimum(from_start, to_end) - self.context
        # Never zero, so that some window counts wherever there is one.
        rising = (from_end / ramp).clamp(1e-6, 1)
        weights = torch.sin(math.pi / 2 * rising).square()
        positions = self.positions(cell)
        sums = torch.zeros(self.length * cell, dtype=torch.float64)
        sums.index_add_(0, positions.flatten(), weights.flatten())
        return (weights / sums[positions]).float()


def overlapping(length: int, size: int, overlap: float, wrap: bool = False) -> Windows:
    """Windows that share a part of themselves with their neighbours.

    Args:
        length: of the axis, in positions.
        size: of a window.
        overlap: share of a window, 0 to 0.75.
        wrap: whether the axis is a circle.

    Raises:
        UsageError: the overlap is out of its range.
    """
    if not 0 <= overlap <= MOST_OVERLAP:
        raise UsageError(f"overlap {overlap} is not possible: give a share of a window, 0 to {MOST_OVERLAP}")
    return Windows(length, size, min(round(overlap * size), size - 1), wrap)


@dataclass(frozen=True)
class Blocks:
    """A canvas cut into squares at fixed places, each of which has its own noise.

    So the noise of a place depends on its coordinates alone: not on how large the canvas is, nor on how
    many windows are worked on at once. Solvers take the squares for a batch of images, with a generator each.

    Attributes:
        height, width: of the canvas, in positions.
        side: of a square; the last ones may reach beyond the canvas.
        seed: of the scene.
    """

    height: int
    width: int
    side: int
    seed: int

    @property
    def rows(self) -> int:
        """Squares from top to bottom."""
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        """Squares from left to right."""
        return -(-self.width // self.side)

    def generators(self, name: int | str) -> list[torch.Generator]:
        """A generator a square, for the noise that goes by a name."""
        generators = [torch.Generator() for _ in range(self.rows * self.columns)]
        self.reseed(generators, name)
        return generators

    def reseed(self, generators: list[torch.Generator], name: int | str) -> None:
        """Set the generators of the squares to the noise that goes by a name."""
        places = ((row, column) for row in range(self.rows) for column in range(self.columns))
        for generator, (row, column) in zip(generators, places, strict=True):
            generator.manual_seed(derived_seed(self.seed, "noise", name, row, column))

    def noise(self, channels: int, name: int | str, device: torch.device) -> Tensor:
        """Standard normal noise of the squares, (rows * columns, channels, side, side)."""
        shape = (self.rows * self.columns, channels, self.side, self.side)
        return randn_tensor(shape, generator=self.generators(name), device=device)

    def join(self, squares: Tensor) -> Tensor:
        """The canvas (C, height, width) of squares (rows * columns, C, side, side)."""
        rows = squares.unflatten(0, (self.rows, self.columns)).permute(2, 0, 3, 1, 4)
        return rows.flatten(3, 4).flatten(1, 2)[:, : self.height, : self.width]

    def split(self, canvas: Tensor) -> Tensor:
        """The squares of a canvas (C, height, width); beyond its ends they are zero."""
        padding = (0, self.columns * self.side - self.width, 0, self.rows * self.side - self.height)
        whole = torch.nn.functional.pad(canvas, padding)
        squares = whole.unflatten(1, (self.rows, self.side)).unflatten(3, (self.columns, self.side))
        return squares.permute(1, 3, 0, 2, 4).flatten(0, 1)


def batches(count: int, size: int) -> Iterator[range]:
    """The numbers 0 to ``count`` - 1, ``size`` at a time."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))

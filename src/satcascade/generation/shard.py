"""How a run's images are shared among processes that know nothing of each other."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from satcascade.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The part ``number`` of ``count`` of a run, counted from 1.

    Raises:
        UsageError: not 1 <= number <= count.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"shard {self} is not possible: give I/N with 1 <= I <= N, for example 1/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``.

        Raises:
            UsageError: it is not of that form, or not 1 <= I <= N.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match:
            raise UsageError(f"shard '{text}' is not of the form I/N, for example 1/4")
        return cls(int(match[1]), int(match[2]))

    def batches(self, total: int, batch_size: int) -> list[range]:
        """The batches of this shard: every ``count``-th of those that a run of ``total`` images is cut into.

        The cuts depend on ``batch_size`` alone as long as there are enough images for all shards, so that
        every batch holds the same images however many shards there are. A shorter run is cut finer.
        """
        size = max(1, min(batch_size, math.ceil(total / self.count)))
        starts = range(0, total, size)[self.number - 1 :: self.count]
        return [range(start, min(start + size, total)) for start in starts]

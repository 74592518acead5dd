"""What several processes that train together do apart, and agree on."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


def shared_out(count: int, work: Callable[[int], T], accelerator: Accelerator | None = None) -> list[T]:
    """Results of ``work`` for the numbers below ``count``, each done by one of the processes.

    Args:
        count: how many.
        work: the same in all processes.
        accelerator: knows the processes, which all must call this together; None is this one alone.

    Returns:
        In order, and the same in all processes.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return [work(number) for number in range(count)]
    mine = range(accelerator.process_index, count, accelerator.num_processes)
    results = gather_object([(number, work(number)) for number in mine])
    return [result for _, result in sorted(results, key=itemgetter(0))]


def any_of(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Which flags are set in any of the processes: they must all stop, or save, at the same step."""
    if accelerator.num_processes == 1:
        return list(flags)
    mine = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(mine, "sum").tolist()]

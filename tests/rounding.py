"""How far float32's rounding alone moves a result: what tests that compare two ways of one computation allow.

Rounding depends on the processor, its libraries and the number of threads: a bound found on one machine says
nothing of another. So it is measured beside the comparison. The same computation is done again a few times
with its weights moved by one unit in the last place, at random; sums in another order move a result about as
far. Float64 would do without, but networks compute some of their parts in float32 whatever they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# How many times further than the furthest of the probes a result may be.
ALLOWED = 8.0
# Above this share of the result's own size a comparison would mean nothing.
_USEFUL = 0.02
SEEDS = (1000, 2000, 3000)


def nudged(value: Tensor, seed: int) -> Tensor:
    """Each number moved to the next one up or down, at random."""
    up = torch.rand(value.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.nextafter(value.detach(), torch.where(up, torch.inf, -torch.inf).to(value.dtype))


def nudge(module: torch.nn.Module, seed: int) -> None:
    """Nudge all parameters of a module."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(nudged(parameter, seed + number))


@contextmanager
def nudged_weights(seed: int, *modules: torch.nn.Module) -> Iterator[None]:
    """Within it, all parameters of the modules are nudged."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    for module in modules:
        nudge(module, seed)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def largest(difference: Tensor) -> float:
    """The largest of all numbers."""
    return float(difference.abs().max())


def norm(difference: Tensor) -> float:
    """The root of the sum of squares."""
    return float(difference.double().norm())


def bound_of_rounding(
    expected: Tensor, again: Callable[[int], Tensor], size: Callable[[Tensor], float] = largest
) -> float:
    """How far from ``expected`` a result may be that differs by rounding.

    Rounding is what the nudged computations show, and no less than a unit in the last place of the result.

    Args:
        expected: a result.
        again: the same computation with weights that are nudged with a seed.
        size: of a difference, :func:`largest` or :func:`norm`.
    """
    unit = torch.finfo(torch.float32).eps * size(expected)
    bound = ALLOWED * max(unit, *(size(again(seed) - expected) for seed in SEEDS))
    assert bound < _USEFUL * size(expected), f"rounding may be {bound:.3g}: nothing is compared"
    return bound


def assert_equal_but_for_rounding(
    found: Tensor,
    expected: Tensor,
    again: Callable[[int], Tensor],
    size: Callable[[Tensor], float] = largest,
) -> None:
    """``found`` is no further from ``expected`` than :func:`bound_of_rounding` says."""
    distance, bound = size(found - expected), bound_of_rounding(expected, again, size)
    assert distance <= bound, f"{distance:.3g} from each other, of which rounding explains {bound:.3g}"

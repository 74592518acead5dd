"""Averages of a run's weights over any length, put together after training (Karras et al. 2024).

"Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C. The power
function average of exponent g after t steps weighs the weights after step k by (k^(g+1) - (k-1)^(g+1)) /
t^(g+1): it forgets in proportion to the length of the run. Its length is told as the standard deviation of
that profile over t,

    s = ((g + 1) / ((g + 2)^2 (g + 3)))^(1/2).

Snapshots of a few such averages, taken now and then, span a space in which that of any other length, at any
step up to the last snapshot, is found by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.training.checkpoints import CheckpointFolder, read_weights

# The plain mean of all steps has 12^(-1/2); what is shorter than this hardly averages at all.
SHORTEST, LONGEST = 0.01, 0.28
# Of the profile asked for, the most that may be missing: the square of a relative distance.
_TOLERANCE = 0.001
# Price of the factors' squares beside that: snapshots are in float16, whose rounding large factors blow up.
_RIDGE = 1e-7


def exponent(length: float) -> float:
    """The exponent g of the power function average of relative length ``length``.

    Raises:
        UsageError: it is not from 0.01 to 0.28.
    """
    if not SHORTEST <= length <= LONGEST:
        raise UsageError(
            f"an average of relative length {length:g} is not possible: give {SHORTEST} to {LONGEST}"
        )
    # The definition, as a polynomial in g.
    a = length**-2
    roots = np.roots([1.0, 7.0, 16.0 - a, 12.0 - a])
    return float(roots.real.max())


def weights_of(
    exponents: Sequence[float], steps: Sequence[int], wanted: float, last: int
) -> tuple[npt.NDArray[np.float64], float]:
    """The combination of snapshots that is nearest to another average.

    Args:
        exponents: g of each of N snapshots.
        steps: after which each was taken.
        wanted: g of the average asked for.
        last: the step it ends with.

    Returns:
        N factors, of which the sum is 1, and how much of the profile asked for they miss: the square of the
        distance, relative.
    """
    g, t = np.array([*exponents, wanted]), np.array([*steps, last], dtype=np.float64)
    # Inner products of profiles (g + 1) x^g / t^(g + 1) on [0, t], with scale-free powers.
    shorter = np.minimum(t[:, None], t[None, :])
    total = g[:, None] + g[None, :] + 1
    products = (
        (g[:, None] + 1)
        * (g[None, :] + 1)
        / total
        * (shorter / t[:, None]) ** g[:, None]
        * (shorter / t[None, :]) ** g[None, :]
        * shorter
        / (t[:, None] * t[None, :])
    )
    gram, right = products[:-1, :-1] / products[-1, -1], products[:-1, -1] / products[-1, -1]
    # With a Lagrange multiplier, so that weights that do not change come out as they are.
    ones = np.ones((len(right), 1))
    system = np.block([[gram + _RIDGE * np.eye(len(right)), ones], [ones.T, np.zeros((1, 1))]])
    factors = np.linalg.solve(system, np.append(right, 1.0))[:-1]
    return factors, max(float(1 - 2 * factors @ right + factors @ gram @ factors), 0.0)


def averaged(run: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of a run's weights over a relative length, of its snapshots up to a step.

    Args:
        run: the run's folder.
        length: standard deviation of the profile over the number of steps, 0.01 to 0.28.
        step: the last step it takes in, one of a snapshot; None is that of the last one.

    Returns:
        float32 weights by name.

    Raises:
        UsageError: the run has no (such) snapshots, or they do not span an average of that length.
        SatcascadeError: a snapshot is damaged.
    """
    wanted = exponent(length)
    folders = CheckpointFolder(run).snapshots()
    if not folders:
        raise UsageError(
            f"{run} has no snapshots to make an average of length {length:g} of: train it with "
            "training.averages.lengths"
        )
    last = max(folders) if step is None else step
    if last not in folders:
        raise UsageError(
            f"{run} has no snapshot of step {last}: it has {', '.join(map(str, sorted(folders)))}"
        )
    steps = sorted(at for at in folders if at <= last)
    lengths = {float(key.partition("/")[0]) for key in read_weights(folders[last], "power")}
    stored = [(at, each) for at in steps for each in sorted(lengths)]
    factors, missed = weights_of(
        [exponent(each) for _, each in stored], [at for at, _ in stored], wanted, last
    )
    if missed > _TOLERANCE:
        raise UsageError(
            f"the snapshots of {run} do not reach an average of length {length:g} at step {last}: ask for "
            f"one nearer to {', '.join(f'{each:g}' for each in sorted(lengths))}"
        )
    factor = dict(zip(stored, factors.tolist(), strict=True))
    average: dict[str, Tensor] = {}
    for at in steps:
        for key, value in read_weights(folders[at], "power").items():
            each, _, name = key.partition("/")
            part = value.double() * factor[at, float(each)]
            average[name] = average[name].add_(part) if name in average else part
    return {name: value.float() for name, value in average.items()}

"""Quality and variety apart, from nearest neighbours among features.

Precision and recall: Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991. Density and coverage: Naeem
et al. 2020, https://arxiv.org/abs/2002.09797. An image's ball reaches to its k-th nearest neighbour in its
own set, that neighbour included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.registry import NEIGHBOURS
from satcascade.evaluation.networks.feature_network import FeatureNetwork

_ROWS_AT_ONCE = 1024


def measure_manifold(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """Precision, recall, density and coverage of a comparison on a feature network."""
    generated, real = comparison.generated_features(network), comparison.real_features(network)
    return Measured(manifold_scores(generated, real, network.name).metrics())


@dataclass(frozen=True)
class ManifoldScores:
    """How two sets of features lie in each other.

    Attributes:
        features: name of the feature network.
        precision: share of generated images inside a ball of a real one (quality), 0 to 1.
        recall: share of real images inside a ball of a generated one (variety), 0 to 1.
        density: of how many real balls a generated image lies inside, over k; may exceed 1.
        coverage: share of real images with a generated one inside their ball, 0 to 1.
    """

    features: str
    precision: float
    recall: float
    density: float
    coverage: float

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``."""
        names = ("precision", "recall", "density", "coverage")
        return {f"{name}/{self.features}": getattr(self, name) for name in names}


def manifold_scores(generated: Tensor, real: Tensor, features: str, k: int = NEIGHBOURS) -> ManifoldScores:
    """Precision, recall, density and coverage.

    Args:
        generated: features (N, D).
        real: features (M, D).
        features: name of the feature network.
        k: neighbours that a ball reaches to.

    Raises:
        UsageError: a set has k images or fewer, or the widths differ.
    """
    fewest = min(len(generated), len(real))
    if fewest <= k:
        raise UsageError(
            f"too few images for precision and recall: {fewest}, at least {k + 1} are needed on each side"
        )
    if generated.shape[1] != real.shape[1]:
        raise UsageError(
            f"features of width {generated.shape[1]} and {real.shape[1]} do not compare: "
            "use one feature network"
        )
    # Around the middle of the data, so that as few digits as can be cancel.
    middle = real.double().mean(0)
    x, y = generated.double() - middle, real.double() - middle
    x_radii, y_radii = _radii(x, k), _radii(y, k)
    real_balls = torch.zeros(len(x), dtype=torch.int64)
    recalled = torch.zeros(len(y), dtype=torch.bool)
    covered = torch.zeros(len(y), dtype=torch.bool)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        distances = _squared_distances(x[part], y)
        inside_real = distances <= y_radii
        real_balls[part] = inside_real.sum(1)
        covered |= inside_real.any(0)
        recalled |= (distances <= x_radii[part, None]).any(0)
    return ManifoldScores(
        features,
        precision=float((real_balls > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(real_balls.double().mean()) / k,
        coverage=float(covered.double().mean()),
    )


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distances (N,) to the k-th nearest other row of x (N, D)."""
    parts = []
    for start in range(0, len(x), _ROWS_AT_ONCE):
        distances = _squared_distances(x[start : start + _ROWS_AT_ONCE], x)
        distances.diagonal(start).fill_(torch.inf)
        parts.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) of rows (N, D) and (M, D); exactly 0 between equal rows."""
    scale = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = torch.addmm(scale, x, y.T, alpha=-2)
    # Equal rows would otherwise be a rounding error apart, and outside balls of radius 0.
    return distances.masked_fill_(distances < 1e-12 * scale, 0)

"""Distances between the features of generated and real images: Frechet distance and kernel distance."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.registry import FRECHET_IMAGES, KERNEL_IMAGES
from satcascade.evaluation.networks.feature_network import FeatureNetwork

# Below this many images both distances are dominated by their number.
ENOUGH_IMAGES = 1000
_ROWS_AT_ONCE = 1024


class FewImagesWarning(UserWarning):
    """A statistic rests on so few images that its value says more about their number than about them."""


def measure_frechet(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """The Frechet distance of a comparison on a feature network."""
    generated, real = comparison.generated_features(network), comparison.real_features(network)
    return Measured(frechet_distance(generated, real, network.name).metrics())


def measure_kernel(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """The kernel distance of a comparison on a feature network."""
    generated, real = comparison.generated_features(network), comparison.real_features(network)
    return Measured(kernel_distance(generated, real, network.name).metrics())


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features of width D.

    Attributes:
        mean: (D,) float64.
        factor: (K, D) float64, K at most D, with ``factor.T @ factor`` the sample covariance.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Of features (N, D).

        Raises:
            UsageError: there are fewer than 2.
        """
        _check_enough("the Frechet distance", features, 2)
        features = features.double()
        mean = features.mean(0)
        factor = (features - mean) / math.sqrt(len(features) - 1)
        if len(factor) > factor.shape[1]:
            factor = torch.linalg.qr(factor, mode="r").R
        return cls(mean, factor)


@dataclass(frozen=True)
class FrechetDistance:
    """A Frechet distance and how sure it is.

    Attributes:
        features: name of the feature network.
        value: the distance.
        std: its standard deviation over other images of the same kind, by resampling.
        low, high: its 95 % interval, likewise.
    """

    features: str
    value: float
    std: float
    low: float
    high: float

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``."""
        return {
            f"frechet_distance/{self.features}": self.value,
            f"frechet_distance_std/{self.features}": self.std,
            f"frechet_distance_low/{self.features}": self.low,
            f"frechet_distance_high/{self.features}": self.high,
        }


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance and its spread.

    Attributes:
        features: name of the feature network.
        value: unbiased, over all images; may be a little below 0.
        subset_std: over subsets, as other tools report it.
    """

    features: str
    value: float
    subset_std: float

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``."""
        return {
            f"kernel_distance/{self.features}": self.value,
            f"kernel_distance_std/{self.features}": self.subset_std,
        }


def frechet(a: Tensor | Statistics, b: Tensor | Statistics) -> float:
    """Frechet distance of two Gaussians fitted to two sets of features, with sample covariances.

    It is exact also where there are fewer images than features. Heusel et al. 2017,
    https://arxiv.org/abs/1706.08500.

    Args:
        a: features (N, D), or their statistics.
        b: features (M, D), or their statistics.

    Returns:
        At least 0.

    Raises:
        UsageError: a set has fewer than 2 images, or the widths differ.
    """
    one, other = (x if isinstance(x, Statistics) else Statistics.of(x) for x in (a, b))
    _check_widths(one.mean, other.mean)
    mean = (one.mean - other.mean).square().sum()
    # The trace of the root of the covariances' product is the sum of these singular values.
    root = torch.linalg.svdvals(one.factor @ other.factor.T).sum()
    return max(float(mean + one.factor.square().sum() + other.factor.square().sum() - 2 * root), 0.0)


def frechet_distance(
    generated: Tensor,
    real: Tensor,
    features: str,
    draws: int = 100,
    seed: int = 0,
) -> FrechetDistance:
    """Frechet distance with an interval from resampling.

    The interval tells how the value would vary with other images of the same generator, the real images
    fixed. It is a bootstrap by random halves of the generated images (the delete-half jackknife of Shao and
    Wu, 1989), whose spread about their mean is that of the whole set about its own. Drawing with replacement
    would not do: repeats raise the distance by an amount that varies from draw to draw, and on 1,091 real
    images gave nearly twice the spread that there is between disjoint sets of as many. The bias that the
    value has from the number of images (it falls as they grow) is left in it, and the interval does not
    cover it: compare at equal numbers.

    Args:
        generated: features (N, D).
        real: features (M, D).
        features: name of the feature network.
        draws: halves to draw.
        seed: of the draws.

    Raises:
        UsageError: there are fewer than 4 generated or 2 real images, or the widths differ.

    Warns:
        FewImagesWarning: a set has fewer than 1,000 images.
    """
    _check_enough("the Frechet distance", generated, FRECHET_IMAGES)
    value = frechet(generated, real)
    _warn_if_few(f"the Frechet distance on {features}", generated, real)
    drawn = _halves(generated.double(), Statistics.of(real), draws, seed)
    centred = drawn - drawn.mean() + value
    low, high = torch.quantile(centred, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return FrechetDistance(features, value, float(drawn.std()), max(low, 0.0), high)


def _halves(x: Tensor, real: Statistics, draws: int, seed: int) -> Tensor:
    """Frechet distances (draws,) of random halves of the rows of x (N, D)."""
    generator = torch.Generator().manual_seed(seed)
    half = len(x) // 2
    x = x - real.mean
    # All that the draws need of the covariances' product.
    shared = x @ real.factor.T
    constant = real.factor.square().sum()
    distances = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):
        rows = torch.randperm(len(x), generator=generator)[:half]
        part, product = x[rows], shared[rows]
        mean = part.mean(0)
        trace = (part - mean).square().sum() / (half - 1)
        product = (product - product.mean(0)) / math.sqrt(half - 1)
        gram = product @ product.T if half < product.shape[1] else product.T @ product
        root = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum()
        distances[draw] = mean.square().sum() + trace + constant - 2 * root
    return distances


def kernel_distance(
    generated: Tensor,
    real: Tensor,
    features: str,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Kernel distance (KID): the unbiased squared maximum mean discrepancy, with the cubic kernel.

    The kernel is (x . y / D + 1)^3; Binkowski et al. 2018, https://arxiv.org/abs/1801.01401. The value is
    over all images. Its spread is the standard deviation over random subsets, each without repeats, as
    other tools report it; where subsets are nearly the whole set it is too small for a standard error.

    Args:
        generated: features (N, D).
        real: features (M, D).
        features: name of the feature network.
        subsets: how many.
        subset_size: images of each; at most as many as the smaller set has.
        seed: of the subsets.

    Raises:
        UsageError: a set has fewer than 2 images, or the widths differ.

    Warns:
        FewImagesWarning: a set has fewer than 1,000 images.
    """
    for x in (generated, real):
        _check_enough("the kernel distance", x, KERNEL_IMAGES)
    _check_widths(generated, real)
    _warn_if_few(f"the kernel distance on {features}", generated, real)
    size = min(subset_size, len(generated), len(real))
    generator = torch.Generator().manual_seed(seed)

    def chosen(n: int) -> Tensor:
        """Which images (n, 1 + subsets) belong to: all of them first, then the subsets."""
        masks = torch.zeros(n, 1 + subsets, dtype=torch.float64)
        masks[:, 0] = 1
        for subset in range(1, 1 + subsets):
            masks[torch.randperm(n, generator=generator)[:size], subset] = 1
        return masks

    x, y = generated.double(), real.double()
    in_x, in_y = chosen(len(x)), chosen(len(y))
    n, m = in_x.sum(0), in_y.sum(0)
    values = (
        _kernel_sums(x, x, in_x, in_x, diagonal=False) / (n * (n - 1))
        + _kernel_sums(y, y, in_y, in_y, diagonal=False) / (m * (m - 1))
        - 2 * _kernel_sums(x, y, in_x, in_y) / (n * m)
    )
    return KernelDistance(features, float(values[0]), float(values[1:].std(correction=0)))


def _kernel_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor, diagonal: bool = True) -> Tensor:
    """Sums of the kernel over pairs, for each column of the masks (N, S), (M, S); (S,)."""
    total = torch.zeros(in_x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        kernel = (x[part] @ y.T).div_(x.shape[1]).add_(1).pow_(3)
        if not diagonal:
            kernel.diagonal(start).zero_()
        total += (in_x[part] * (kernel @ in_y)).sum(0)
    return total


def _check_enough(statistic: str, features: Tensor, needed: int) -> None:
    if len(features) < needed:
        raise UsageError(
            f"too few images for {statistic}: {len(features)}, at least {needed} are needed on each side"
        )


def _check_widths(a: Tensor, b: Tensor) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise UsageError(
            f"features of width {a.shape[-1]} and {b.shape[-1]} do not compare: use one feature network"
        )


def _warn_if_few(statistic: str, generated: Tensor, real: Tensor) -> None:
    fewest = min(len(generated), len(real))
    if fewest < ENOUGH_IMAGES:
        warnings.warn(
            f"{statistic} rests on {len(generated)} generated and {len(real)} real images: below "
            f"{ENOUGH_IMAGES:,} it depends on the number of images more than on what they show",
            FewImagesWarning,
            stacklevel=3,
        )

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cheap_features import Passing
from satcascade.errors import UsageError
from satcascade.evaluation.measures.distances import (
    FewImagesWarning,
    Statistics,
    frechet,
    frechet_distance,
    kernel_distance,
)

# Few images are enough here.
pytestmark = pytest.mark.filterwarnings("ignore::satcascade.evaluation.measures.distances.FewImagesWarning")


def features(n: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, positive, skewed features, as networks make them."""
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x @ mix / width**0.5 + shift).relu()


# With more images than features, and with fewer, where the covariances are singular.
@pytest.mark.parametrize(("n", "m", "width"), [(600, 500, 64), (120, 150, 192)])
def test_frechet_distance_is_that_of_torchmetrics(n: int, m: int, width: int) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = features(n, width, 1, 0.2), features(m, width, 2)
    metric = fid.FrechetInceptionDistance(feature=Passing(width), input_img_size=(3, 8, 8)).set_dtype(
        torch.float64
    )
    metric.update(b, real=True)
    metric.update(a, real=False)
    assert frechet(a, b) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_kernel_distance_is_that_of_torchmetrics_within_its_spread() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = features(400, 48, 1, 0.2), features(300, 48, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = kid.KernelInceptionDistance(feature=Passing(48), subsets=50, subset_size=200)
    metric.update(b, real=True)
    metric.update(a, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, std = map(float, metric.compute())
    ours = kernel_distance(a, b, "x", subsets=50, subset_size=200)
    assert abs(ours.value - mean) < std
    assert ours.subset_std == pytest.approx(std, rel=0.4)
    assert ours.value > 5 * std


def test_kernel_distance_of_all_images_is_its_definition() -> None:
    a, b = features(30, 8, 1), features(20, 8, 2)

    def mean(x: Tensor, y: Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return float(np.mean([(float(x[i] @ y[j]) / 8 + 1) ** 3 for i, j in pairs]))

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a, b, "x", subsets=1).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [40, 200])
def test_identical_sets_have_no_distance(n: int) -> None:
    a = features(n, 64, 1)
    assert frechet(a, a.clone()) == pytest.approx(0, abs=1e-8 * float(a.square().sum(1).mean()))
    # The unbiased estimate of a set against itself is a little below 0.
    assert kernel_distance(a, a, "x").value <= 0


def from_covariance(mean: Tensor, covariance: Tensor) -> Statistics:
    """Statistics of what somebody else has accumulated."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return Statistics(mean.double(), values.clamp_min(0).sqrt()[:, None] * vectors.T)


def test_frechet_distance_of_known_gaussians() -> None:
    # Two that differ in mean by 3 and in each of two standard deviations, 1 and 2 against 2 and 4.
    one = from_covariance(torch.zeros(2), torch.diag(torch.tensor([1.0, 4.0])))
    other = from_covariance(torch.tensor([3.0, 0.0]), torch.diag(torch.tensor([4.0, 16.0])))
    assert frechet(one, other) == pytest.approx(9 + 1 + 4)


@pytest.mark.parametrize("n", [40, 200])
def test_statistics_stand_for_their_features(n: int) -> None:
    a, b = features(n, 64, 1, 0.3), features(150, 64, 2)
    kept = from_covariance(a.mean(0), torch.cov(a.T))
    assert len(Statistics.of(a).factor) <= 64
    # To the precision that a stored covariance leaves: of its null space, roots of rounding errors.
    assert frechet(kept, Statistics.of(b)) == pytest.approx(frechet(a, b), rel=1e-5)


@pytest.mark.parametrize("change", ["shift", "noise", "one mode"])
def test_what_harms_features_raises_both_distances(change: str) -> None:
    real, good = features(400, 32, 1), features(400, 32, 2)
    noise = torch.randn(400, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    changes: dict[str, Callable[[float], Tensor]] = {
        "shift": lambda amount: good + amount,
        "noise": lambda amount: good + amount * noise,
        "one mode": lambda amount: good * (1 - amount) + good[:1] * amount,
    }
    sets = [good, *(changes[change](amount) for amount in (0.25, 0.75))]
    distances = [frechet(x, real) for x in sets]
    kernels = [kernel_distance(x, real, "x", subsets=1).value for x in sets]
    assert distances == sorted(distances)
    assert distances[2] > 2 * distances[0]
    assert kernels == sorted(kernels)


def test_the_interval_is_as_wide_as_other_samples_of_the_generator_spread() -> None:
    real = features(1000, 48, 1)
    found = frechet_distance(features(300, 48, 2, 0.05), real, "x")
    spread = float(np.std([frechet(features(300, 48, seed, 0.05), real) for seed in range(10, 40)], ddof=1))
    assert found.std == pytest.approx(spread, rel=0.5)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(4 * found.std, rel=0.3)
    assert found.value == frechet(features(300, 48, 2, 0.05), real)


def test_results_follow_from_their_seed() -> None:
    a, b = features(80, 16, 1), features(90, 16, 2)
    assert frechet_distance(a, b, "x", 10, 5) == frechet_distance(a, b, "x", 10, 5)
    assert frechet_distance(a, b, "x", 10, 6).std != frechet_distance(a, b, "x", 10, 5).std
    assert kernel_distance(a, b, "x", 5, 40, 1) == kernel_distance(a, b, "x", 5, 40, 1)


def test_keys_of_the_metrics_file() -> None:
    a, b = features(80, 16, 1), features(90, 16, 2)
    metrics = frechet_distance(a, b, "net", 10).metrics() | kernel_distance(a, b, "net", 5).metrics()
    assert {"frechet_distance/net", "kernel_distance/net", "kernel_distance_std/net"} < metrics.keys()
    assert metrics["frechet_distance/net"] == frechet(a, b)


def test_few_images_bring_a_warning() -> None:
    a, b = features(999, 4, 1), features(1000, 4, 2)
    for measure in (frechet_distance, kernel_distance):
        with pytest.warns(FewImagesWarning, match="999 generated and 1000 real"):
            measure(a, b, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_distance(b, b, "x", subsets=1)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_too_few_images_are_refused(measure: Callable[..., object]) -> None:
    many, one = features(10, 4, 1), features(1, 4, 2)
    for pair in ((one, many), (many, one)):
        with pytest.raises(UsageError, match=r"too few images for the .* distance: 1"):
            measure(*pair, "x")


def test_features_of_different_networks_are_refused() -> None:
    for measure in (frechet_distance, kernel_distance):
        with pytest.raises(UsageError, match="width 4 and 5"):
            measure(features(10, 4, 1), features(10, 5, 1), "x")

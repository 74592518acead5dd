"""Usefulness: whether generated images help a classifier that has few real images to learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe
from satcascade.evaluation.networks.feature_network import FeatureNetwork

SIZES = (5, 20, 100)
SEEDS = (0, 1, 2)
REAL, BOTH, SYNTHETIC = "real", "real+synthetic", "synthetic"


def measure_usefulness(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """Usefulness of the generated images of a comparison."""
    labelled = comparison.labelled(network)
    with comparison.display.task("usefulness", fits()) as task:
        return Measured(usefulness(*labelled, comparison.classes, progress=task.advance).metrics())


@dataclass(frozen=True)
class UsefulnessRow:
    """Accuracy on real test images after one kind of training.

    Attributes:
        kind: ``real``, ``real+synthetic`` or ``synthetic``.
        size: real images a class; None for ``synthetic``, which has none.
        n_train: images learnt from, real and generated together.
        accuracies: one a seed, 0 to 1.
    """

    kind: str
    size: int | None
    n_train: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Sample standard deviation over the seeds; 0 with one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class Usefulness:
    """The table.

    Attributes:
        rows: ``real`` and ``real+synthetic`` for each size, then ``synthetic``.
    """

    rows: tuple[UsefulnessRow, ...]

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``: ``usefulness/KIND/SIZE``, and the spread ``usefulness_std/...``."""
        numbers: dict[str, float | int] = {}
        for row in self.rows:
            name = row.kind if row.size is None else f"{row.kind}/{row.size}"
            numbers[f"usefulness/{name}"] = row.mean
            numbers[f"usefulness_std/{name}"] = row.std
        return numbers


def usefulness(
    train: LabelledFeatures,
    test: LabelledFeatures,
    generated: LabelledFeatures,
    classes: list[str],
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    progress: Callable[[int], None] | None = None,
) -> Usefulness:
    """Fit probes on few real images, on the same with all generated ones, and on generated ones alone.

    Each seed puts the real images of every class into an order of its own, and a size takes the first of
    them, so a smaller set is part of the larger. Real and generated images weigh the same in the loss. With
    generated images alone nothing is drawn: the seeds differ in the probe's initial weights only.

    Args:
        train: real training images.
        test: real test images, which nothing is fitted on.
        generated: generated images with the classes of their captions' rows.
        classes: names of the classes.
        sizes: real images a class.
        seeds: one fit of each kind for each.
        progress: called with numbers of probes fitted, ``fits(sizes, seeds)`` in all.

    Raises:
        UsageError: a size is below 1, there is no size or seed, or the widths of the features differ.
    """
    if not sizes or min(sizes) < 1 or not seeds:
        raise UsageError("usefulness needs sizes of 1 or more real images a class, and a seed or more")
    if train.features.shape[1] != generated.features.shape[1]:
        raise UsageError(
            f"features of width {train.features.shape[1]} and {generated.features.shape[1]} do not compare: "
            "use one feature network"
        )

    def fitted(kind: str, size: int | None) -> UsefulnessRow:
        accuracies = []
        for seed in seeds:
            data = generated
            if size is not None:
                data = train.subset(_drawn(train.labels, size, seed))
            if kind == BOTH:
                data = data.with_others(generated)
            accuracies.append(LinearProbe(data, len(classes), seed).accuracy(test))
            if progress:
                progress(1)
        return UsefulnessRow(kind, size, len(data), tuple(accuracies))

    return Usefulness(
        (*(fitted(kind, size) for size in sizes for kind in (REAL, BOTH)), fitted(SYNTHETIC, None))
    )


def fits(sizes: Sequence[int] = SIZES, seeds: Sequence[int] = SEEDS) -> int:
    """The number of probes that ``usefulness`` fits."""
    return (2 * len(sizes) + 1) * len(seeds)


def _drawn(labels: Tensor, size: int, seed: int) -> Tensor:
    """Rows of up to ``size`` images of each class, int64 (K,)."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    shuffled = labels[order]
    return torch.cat([order[shuffled == label][:size] for label in shuffled.unique()])

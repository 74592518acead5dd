"""Scene accuracy: whether generated images show the scene class of their caption."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe
from satcascade.evaluation.networks.feature_network import FeatureNetwork


def measure_scene(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """Scene accuracy of a comparison, the answer for each image, and the confusion of the classes."""
    scene = scene_accuracy(*comparison.labelled(network), comparison.classes)
    return Measured(
        scene.metrics(),
        images=[
            {"predicted": scene.classes[answer], "confidence": confidence}
            for answer, confidence in zip(scene.answers.tolist(), scene.confidence.tolist(), strict=True)
        ],
        classes={row.name: {"n": row.n_generated, "accuracy": row.accuracy} for row in scene.table()},
        details={"classes": list(scene.classes), "confusion": scene.confusion.tolist()},
    )


@dataclass(frozen=True)
class ClassAccuracy:
    """One scene class.

    Attributes:
        name: the class.
        n_generated: its generated images.
        accuracy: share of them that the probe fitted on real images recognises; None where there are none.
    """

    name: str
    n_generated: int
    accuracy: float | None


@dataclass(frozen=True)
class SceneAccuracy:
    """The answers of the two probes. C classes; a confusion has a row a true class, a column an answer.

    Attributes:
        classes: names of the C classes.
        answers: int64 (N,), what the probe fitted on real images takes each generated image for.
        confidence: (N,), the probability, 0 to 1, that it gives to the class that was asked for.
        confusion: int64 (C, C), generated images, asked of the probe fitted on real training images.
        confusion_real: the same probe, real test images: what is to be had at best.
        confusion_zero_shot: real test images, asked of the probe fitted on generated images.
    """

    classes: tuple[str, ...]
    answers: Tensor
    confidence: Tensor
    confusion: Tensor
    confusion_real: Tensor
    confusion_zero_shot: Tensor

    def table(self) -> list[ClassAccuracy]:
        """A row a class."""
        counts, correct = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        return [
            ClassAccuracy(name, count, right / count if count else None)
            for name, count, right in zip(self.classes, counts, correct, strict=True)
        ]

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``."""
        return {
            "scene_accuracy": _accuracy(self.confusion),
            "scene_accuracy_real": _accuracy(self.confusion_real),
            "zero_shot_accuracy": _accuracy(self.confusion_zero_shot),
        }


def scene_accuracy(
    train: LabelledFeatures,
    test: LabelledFeatures,
    generated: LabelledFeatures,
    classes: list[str],
    seed: int = 0,
) -> SceneAccuracy:
    """Ask a probe fitted on real images about generated ones, and the other way round.

    The other way round is the "zero-shot" overall accuracy of the literature on text to satellite image: a
    classifier that has seen generated images alone, tested on real ones. Real images of classes that were
    not generated count there as wrong.

    Args:
        train: real training images.
        test: real test images.
        generated: generated images with the classes of their captions' rows.
        classes: names of the classes.
        seed: of the probes' initial weights.

    Raises:
        UsageError: the widths of the features differ.
    """
    real_probe = LinearProbe(train, len(classes), seed)
    generated_probe = LinearProbe(generated, len(classes), seed)
    likely = real_probe.probabilities(generated.features)
    return SceneAccuracy(
        tuple(classes),
        likely.argmax(1),
        likely.gather(1, generated.labels[:, None])[:, 0],
        _confusion(real_probe, generated, len(classes)),
        _confusion(real_probe, test, len(classes)),
        _confusion(generated_probe, test, len(classes)),
    )


def _confusion(probe: LinearProbe, data: LabelledFeatures, classes: int) -> Tensor:
    cells = torch.bincount(data.labels * classes + probe(data.features), minlength=classes**2)
    return cells.reshape(classes, classes)


def _accuracy(confusion: Tensor) -> float:
    return int(confusion.trace()) / int(confusion.sum())

"""A linear classifier of scene classes on image features, which the measures with labels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import SatcascadeError, UsageError

STEPS = 300


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of images whose scene class is known.

    Attributes:
        features: (N, D), N at least 1.
        labels: int64 (N,), each image's place among the class names.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check that both belong together.

        Raises:
            UsageError: there are no images, or another number of labels.
        """
        if not len(self.features) or len(self.features) != len(self.labels):
            raise UsageError(
                f"{len(self.features)} features and {len(self.labels)} labels: "
                "give one label an image, and one image or more"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Tensor) -> LabelledFeatures:
        """The images of rows, int64 (K,)."""
        return LabelledFeatures(self.features[rows], self.labels[rows])

    def with_others(self, others: LabelledFeatures) -> LabelledFeatures:
        """These images, then others."""
        return LabelledFeatures(
            torch.cat([self.features, others.features]), torch.cat([self.labels, others.labels])
        )


def class_names(labels: Sequence[str | None]) -> list[str]:
    """The distinct scene classes of a set, sorted.

    Raises:
        SatcascadeError: an image has none.
    """
    return sorted(set(_complete(labels)))


def label_numbers(labels: Sequence[str | None], classes: Sequence[str]) -> Tensor:
    """The place of each label among the classes, int64 (N,).

    Raises:
        SatcascadeError: an image has no label, or one that is not among the classes.
    """
    places = {name: number for number, name in enumerate(classes)}
    complete = _complete(labels)
    if unknown := sorted(set(complete) - set(places)):
        raise SatcascadeError(
            f"scene class '{unknown[0]}' is none of the {len(classes)} that the data set has: "
            f"{', '.join(classes)}"
        )
    return torch.tensor([places[label] for label in complete], dtype=torch.int64)


def _complete(labels: Sequence[str | None]) -> list[str]:
    complete = [label for label in labels if label is not None]
    if len(complete) < len(labels):
        raise SatcascadeError(
            f"{len(labels) - len(complete)} of {len(labels)} images have no scene class (the first: image "
            f"{list(labels).index(None)}): use labelled data, or leave out scene_accuracy and usefulness"
        )
    return complete


class LinearProbe:
    """One linear layer on standardised features, fitted as the anchors of the protocol were measured.

    AdamW with learning rate 1e-2 and weight decay 0.5, label smoothing 0.1, 300 steps on the full batch.

    Attributes:
        mean, std: (D,), of the features it was fitted on; std is infinite where they do not vary.
        layer: D inputs, an output a class.
    """

    def __init__(self, data: LabelledFeatures, classes: int, seed: int = 0):
        """Fit it.

        Args:
            data: what to learn from; a class without images is never the answer in practice.
            classes: number of classes.
            seed: of the initial weights; the global random state is neither read nor changed.
        """
        self.mean = data.features.mean(0)
        std = data.features.std(0, correction=min(1, len(data) - 1))
        # What is constant in a few images tells nothing, and divided by 1e-6 would drown all else elsewhere.
        self.std = torch.where(std > 1e-6, std + 1e-6, torch.inf)
        x = self._standardised(data.features)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self.layer = torch.nn.Linear(x.shape[1], classes)
            optimizer = torch.optim.AdamW(self.layer.parameters(), lr=1e-2, weight_decay=0.5)
            for _ in range(STEPS):
                optimizer.zero_grad()
                F.cross_entropy(self.layer(x), data.labels, label_smoothing=0.1).backward()
                optimizer.step()

    def __call__(self, features: Tensor) -> Tensor:
        """The classes, int64 (N,), of features (N, D).

        Raises:
            UsageError: they have another width than those it was fitted on.
        """
        return self.probabilities(features).argmax(1)

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor:
        """How likely each class is, float32 (N, C), of features (N, D).

        Raises:
            UsageError: they have another width than those it was fitted on.
        """
        if features.shape[1] != len(self.mean):
            raise UsageError(
                f"features of width {features.shape[1]} and {len(self.mean)} do not compare: "
                "use one feature network"
            )
        logits: Tensor = self.layer(self._standardised(features))
        return logits.softmax(1)

    def accuracy(self, data: LabelledFeatures) -> float:
        """The share of images whose class it tells, 0 to 1."""
        return float((self(data.features) == data.labels).double().mean())

    def _standardised(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).float()

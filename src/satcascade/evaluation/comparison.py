"""A bundle beside the real images it is compared with: what measures ask for, each part computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.inputs import Bundle, RealImages
from satcascade.evaluation.measures.probe import LabelledFeatures, class_names, label_numbers
from satcascade.evaluation.networks.clip import DEFAULT_CLIP
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.evaluation.networks.features import load_features, real_features
from satcascade.io.progress import ProgressDisplay


@dataclass
class RealSide:
    """What generated images are compared with; evaluations that share one compute its features once.

    Attributes:
        dataset: the prepared set.
        networks: the feature networks.
        features: of real images, by split and name of the network, as far as they were asked for.
    """

    dataset: PreparedDataset
    networks: list[FeatureNetwork]
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        dataset: PreparedDataset,
        features: tuple[str, ...],
        inception_weights: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> RealSide:
        """With the feature networks of these names, on a device.

        Raises:
            UsageError: there is no feature network of that name.
            SatcascadeError: its weights cannot be had.
        """
        return cls(dataset, [load_features(name, inception_weights, device) for name in features])

    def __call__(self, split: str, network: FeatureNetwork, display: ProgressDisplay) -> Tensor:
        """Features (N, D) of the real images of a split."""
        key = (split, network.name)
        if key not in self.features:
            count = len(RealImages.of(self.dataset, split))
            with display.task(f"{network.name}, {split}", count) as task:
                self.features[key] = real_features(self.dataset, split, network, task.advance)
        return self.features[key]


@dataclass
class Timings:
    """Seconds of each part by name, without those of the parts that it contains."""

    seconds: dict[str, float] = field(default_factory=dict)
    _contained: list[float] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Record the seconds of a part."""
        start = time.monotonic()
        self._contained.append(0.0)
        yield
        spent = time.monotonic() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent - self._contained.pop(), 2)
        if self._contained:
            self._contained[-1] += spent


@dataclass
class Comparison:
    """Generated images, real ones, and their features; what has not been computed is when it is asked for.

    Attributes:
        bundle: the generated images.
        real_side: the real ones.
        split: of the real images that the generated ones are compared with.
        display: shows progress.
        device: of networks that a measure loads by itself.
        clip: CLIP model of the CLIP-score, by name or folder.
        timings: seconds of each part.
    """

    bundle: Bundle
    real_side: RealSide
    split: str
    display: ProgressDisplay
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    clip: str = DEFAULT_CLIP
    timings: Timings = field(default_factory=Timings)
    _generated: dict[str, Tensor] = field(default_factory=dict)

    @property
    def dataset(self) -> PreparedDataset:
        """The prepared set of the real images."""
        return self.real_side.dataset

    @property
    def networks(self) -> list[FeatureNetwork]:
        """The feature networks; the first serves what is measured on one network only."""
        return self.real_side.networks

    @cached_property
    def real(self) -> RealImages:
        """The real images of the split."""
        return RealImages.of(self.dataset, self.split)

    @cached_property
    def train(self) -> RealImages:
        """The real training images; a set may have none, where nothing asks for them."""
        return RealImages.of(self.dataset, "train")

    @cached_property
    def labels(self) -> list[str | None]:
        """The scene class of each generated image's caption; None where there is none."""
        return self.bundle.labels_in(self.dataset, self.split)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the scene classes."""
        return class_names([record.label for record in self.dataset.records])

    def generated_features(self, network: FeatureNetwork) -> Tensor:
        """Features (N, D) of the generated images."""
        if network.name not in self._generated:
            with (
                self.timings(f"features/{network.name}"),
                self.display.task(f"{network.name}, generated", len(self.bundle)) as task,
            ):
                self._generated[network.name] = network(self.bundle.images, task.advance)
        return self._generated[network.name]

    def real_features(self, network: FeatureNetwork, split: str | None = None) -> Tensor:
        """Features (M, D) of the real images of a split; None is that of the comparison."""
        split = split or self.split
        with self.timings(f"features/{network.name}/{split}"):
            return self.real_side(split, network, self.display)

    def labelled(
        self, network: FeatureNetwork
    ) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
        """Real training, real test and generated features with their scene classes.

        Raises:
            SatcascadeError: an image has no scene class.
        """

        def real(split: str) -> LabelledFeatures:
            labels = [self.dataset.records[row].label for row in self.dataset.indices(split)]
            return LabelledFeatures(self.real_features(network, split), label_numbers(labels, self.classes))

        generated = label_numbers(self.labels, self.classes)
        return (
            real("train"),
            real(self.split),
            LabelledFeatures(self.generated_features(network), generated),
        )

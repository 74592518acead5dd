"""Distances between real images, and altered ones, that every version must reproduce.

    python benchmarks/anchors.py prepared/rsicd anchors.json

The second file holds the expected values: ``{"frechet": {"all train vs test": 30.4, ...}, "kid": {...}}``; of
its keys, those that are measured here are compared; with classes also the scene accuracy of real test images.
"train[::7]" is every seventh training row, as many as
the test split has; blur N is down to N pixels and back; jpeg Q is Pillow's quality Q. Distances are on
EfficientNet-Lite0 features. The exit status is 1 where a value is off by more than 3 %.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from PIL import Image
from rich.progress import Progress

from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.inputs import RealImages
from satcascade.evaluation.measures.distances import frechet, kernel_distance
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe, class_names, label_numbers
from satcascade.evaluation.networks.features import load_features, real_features

TOLERANCE = 0.03
SCENE = "scene accuracy on real test, probe on all real train"


class Altered(Sequence[Image.Image]):
    """Images, each altered when it is asked for."""

    def __init__(self, images: Sequence[Image.Image], change: Callable[[Image.Image], Image.Image]):
        self._images, self._change = images, change

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Altered: ...

    def __getitem__(self, index: int | slice) -> Image.Image | Altered:
        if isinstance(index, slice):
            return Altered(self._images[index], self._change)
        return self._change(self._images[index])


def blurred(image: Image.Image, side: int) -> Image.Image:
    """Down to ``side`` pixels and back."""
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Through a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def main() -> None:
    """Print measured beside expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="prepared set")
    parser.add_argument("expected", type=Path, help="JSON file of expected values")
    arguments = parser.parse_args()
    expected = json.loads(arguments.expected.read_text(encoding="utf-8"))
    dataset = PreparedDataset.open(arguments.data)
    network = load_features()

    with Progress() as bar:

        def tracked(name: str, total: int) -> Callable[[int], None]:
            task = bar.add_task(name, total=total)
            return lambda done: bar.advance(task, done)

        train, test = (
            real_features(dataset, split, network, tracked(split, dataset.splits[split]))
            for split in ("train", "test")
        )
        few = RealImages.of(dataset, "train")[::7][: len(test)]
        changes: dict[str, Callable[[Image.Image], Image.Image]] = {
            "blur 128": lambda image: blurred(image, 128),
            "blur 64": lambda image: blurred(image, 64),
            "jpeg 10": lambda image: compressed(image, 10),
        }
        sets = {
            "all train vs test": train,
            "train[::7] vs test": train[::7][: len(test)],
            **{
                f"train[::7] {name} vs test": network(Altered(few, change), tracked(name, len(few)))
                for name, change in changes.items()
            },
        }
    compared: list[tuple[str, float, float]] = []
    for name, features in sets.items():
        measured = {
            "frechet": frechet(features, test),
            "kid": kernel_distance(features, test, network.name, subsets=1).value,
        }
        for kind, value in measured.items():
            if name in expected.get(kind, {}):
                compared.append((f"{kind} {name}", value, expected[kind][name]))
    if SCENE in expected:
        classes = class_names([record.label for record in dataset.records])
        labelled = {
            split: LabelledFeatures(
                features,
                label_numbers([dataset.records[row].label for row in dataset.indices(split)], classes),
            )
            for split, features in (("train", train), ("test", test))
        }
        accuracy = LinearProbe(labelled["train"], len(classes)).accuracy(labelled["test"])
        compared.append(("scene accuracy, real test", accuracy, expected[SCENE]))
    missed = False
    print(f"{'':32s} {'measured':>10s} {'expected':>10s} {'off by':>8s}")
    for name, value, target in compared:
        off = value / target - 1
        missed |= abs(off) > TOLERANCE
        print(f"{name:32s} {value:10.5f} {target:10.5f} {off:+8.2%}")
    sys.exit(missed)


if __name__ == "__main__":
    main()

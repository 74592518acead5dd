"""At which resolution generated images differ from real ones.

    python benchmarks/by_resolution.py prepared/rsicd GENERATED --sizes 32 64 128 256

Real and generated images are averaged down to each size and measured there: Frechet distance
(EfficientNet-Lite0) to the real images of the split, beside that of as many real training images; and scene
accuracy of a probe fitted on real training images of that size, beside that of all real images of the split.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from satcascade.data.prepared import PreparedDataset
from satcascade.evaluation.inputs import Bundle, RealImages
from satcascade.evaluation.measures.distances import Statistics, frechet
from satcascade.evaluation.measures.probe import LabelledFeatures, LinearProbe, class_names, label_numbers
from satcascade.evaluation.networks.features import load_features
from satcascade.io.tables import markdown_row, markdown_table
from satcascade.training.samples import spread

_AT_ONCE = 64


def main() -> None:
    """Print a Markdown table, a row a size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("generated", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--every", type=int, default=1, help="fit the probe on every so many training images")
    given = parser.parse_args()
    network = load_features()
    data = PreparedDataset.open(given.data)
    bundle = Bundle.open(given.generated)
    labels = [record.label for record in data.records]
    classes = class_names(labels)
    train, split = data.indices("train")[:: given.every], data.indices(given.split)
    some = spread(np.arange(len(train)), min(len(bundle), len(train)))

    def features(images: Sequence[Image.Image], size: int) -> torch.Tensor:
        def batch(start: int) -> torch.Tensor:
            places = range(start, min(start + _AT_ONCE, len(images)))
            return network([images[place].reduce(images[place].width // size) for place in places])

        return torch.cat([batch(start) for start in range(0, len(images), _AT_ONCE)])

    def labelled(found: torch.Tensor, names: Sequence[str | None]) -> LabelledFeatures:
        return LabelledFeatures(found, label_numbers(names, classes))

    head = ["pixels", "Frechet distance", "real training images", "scene accuracy", "real images"]
    print(markdown_table([head]), end="")
    for size in given.sizes:
        real, known = (features(RealImages(data, rows), size) for rows in (split, train))
        made = features(bundle.images, size)
        probe = LinearProbe(labelled(known, [labels[row] for row in train]), len(classes))
        reference = Statistics.of(real)
        cells = [
            str(size),
            f"{frechet(made, reference):.1f}",
            f"{frechet(known[some], reference):.1f}",
            f"{probe.accuracy(labelled(made, bundle.labels_in(data, given.split))):.3f}",
            f"{probe.accuracy(labelled(real, [labels[row] for row in split])):.3f}",
        ]
        print(markdown_row(cells), end="", flush=True)


if __name__ == "__main__":
    main()

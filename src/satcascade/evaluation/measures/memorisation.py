"""Memorisation: which generated images copy a training image, turned, mirrored or re-compressed perhaps.

Three measures, each with a nearest training image of its own; the first two read the low frequencies of
brightness, of which all eight symmetries of the square cost no more than one
(:mod:`satcascade.evaluation.measures.low_frequencies`):

- the similarity, which decides: the cosine of the angle between the low frequencies without their mean, each
  weighted by its frequency. The weight evens out the spectrum of photographs. Without it any two coasts are
  alike, and bright-beside-dark is most of what either measure sees;
- the 64-bit perceptual hash (pHash: which of the first 8 x 8 coefficients exceed their median; the values
  are those of the ``imagehash`` package), compared by Hamming distance;
- the distance of network features, which know nothing of symmetries. An image is looked at twice: as it
  stands, and turned the way in which its low frequencies match a training image best. That finds turned
  copies for at most twice the cost of features; all eight ways would cost eight times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.evaluation.comparison import Comparison
from satcascade.evaluation.measures.low_frequencies import (
    Floats,
    all_symmetries,
    apply_symmetry,
    coefficients,
    crop_coefficients,
    hash_signs,
    undo_symmetry,
    unit_frequencies,
)
from satcascade.evaluation.measures.measured import Measured
from satcascade.evaluation.networks.feature_network import FeatureNetwork
from satcascade.formats.report import MEMORISATION

# At and above this similarity an image counts as a near copy. Of 400 turned or mirrored copies from RSICD it
# finds all at JPEG 30, 99 % at JPEG 10, 97 % of crops to 95 %, 27 % of crops to 90 %; of the 1,093 real test
# images it flags 3, two of them stadiums, of which one is in the training set too.
NEAR_COPY = 0.8
# At and below this Hamming distance of 64 the hash by itself finds a pair striking.
NEAR_HASH = 6
# Features closer than this share of real test images come to the training set are striking.
NEAR_FEATURE_SHARE = 0.01
# A cropped copy keeps at least this similarity; below, no crop is tried.
_WORTH_CROPPING = 0.4
_ROWS_AT_ONCE = 256

Rows = npt.NDArray[np.int64]


def measure_memorisation(comparison: Comparison, network: FeatureNetwork) -> Measured:
    """Memorisation of a comparison, the nearest training images of each image, and a sheet of pairs."""
    features = (
        comparison.generated_features(network),
        comparison.real_features(network),
        comparison.real_features(network, "train"),
    )
    images, train = comparison.bundle.images, comparison.train
    count = len(images) + len(comparison.real) + len(train)
    with comparison.display.task("memorisation", count) as task:
        result = memorisation(images, comparison.real, train, features, network, task.advance)
    names = [train.dataset.records[int(row)].filename for row in train.rows]
    return Measured(
        result.metrics(),
        images=[{"nearest": result.generated.record(number, names)} for number in range(len(images))],
        pictures={MEMORISATION: contact_sheet(result.generated, images, train)},
    )


@dataclass(frozen=True)
class NearestTraining:
    """For each of N images its nearest training images, by each measure for itself.

    Attributes:
        similarity_row: int64 (N,), the training image of the highest similarity.
        symmetry: int64 (N,), what ``SYMMETRIES`` does to that training image to match.
        similarity: (N,), -1 to 1.
        hash_row: int64 (N,), the training image of the lowest hash distance.
        hash_distance: int64 (N,), bits of 64 that differ, under the best symmetry.
        feature_row: int64 (N,), the training image of the lowest feature distance; None without features.
        feature_distance: (N,), Euclidean, the lesser of the image as it stands and turned so that it lies as
            the training image of the highest similarity; None without features.
    """

    similarity_row: Rows
    symmetry: Rows
    similarity: Floats
    hash_row: Rows
    hash_distance: Rows
    feature_row: Rows | None = None
    feature_distance: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.similarity_row)

    @property
    def near_copies(self) -> Rows:
        """The images that are near copies, the worst first, int64."""
        ranked = self.ranked()
        return ranked[self.similarity[ranked] >= NEAR_COPY]

    def ranked(self) -> Rows:
        """All images, those most like a training image first, int64 (N,)."""
        return np.argsort(-self.similarity, kind="stable")

    def record(self, number: int, names: Sequence[str]) -> dict[str, str | int | float]:
        """The fields of :class:`satcascade.evaluation.report.data.Nearest` of one image.

        Args:
            number: which of the N.
            names: of the training images.
        """
        fields: dict[str, str | int | float] = {
            "similarity_row": names[int(self.similarity_row[number])],
            "similarity": float(self.similarity[number]),
            "hash_row": names[int(self.hash_row[number])],
            "hash_distance": int(self.hash_distance[number]),
        }
        if self.feature_row is not None and self.feature_distance is not None:
            fields["feature_row"] = names[int(self.feature_row[number])]
            fields["feature_distance"] = float(self.feature_distance[number])
        return fields


@dataclass(frozen=True)
class Memorisation:
    """Generated images against training images, beside real test images against the same.

    Attributes:
        generated: nearest training images of the generated images.
        real: nearest training images of the real test images, which no model can have copied.
    """

    generated: NearestTraining
    real: NearestTraining

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``.

        ``near_copy_rate`` is the share of near copies, ``near_hash_rate`` that of images with a hash distance
        of 6 or less, both also for real test images (``_real``). ``near_feature_rate`` is the share of
        generated images whose features, as they stand or turned back, are closer to a training image than
        those of the closest 1 % of real test images: 0.01 is what real images score.
        """
        numbers: dict[str, float | int] = {}
        for suffix, side in (("", self.generated), ("_real", self.real)):
            numbers[f"near_copy_rate{suffix}"] = len(side.near_copies) / len(side)
            numbers[f"near_hash_rate{suffix}"] = float((side.hash_distance <= NEAR_HASH).mean())
        generated, real = self.generated.feature_distance, self.real.feature_distance
        if generated is not None and real is not None:
            numbers["near_feature_rate"] = float((generated < np.quantile(real, NEAR_FEATURE_SHARE)).mean())
        return numbers


def memorisation(
    generated: Sequence[Image.Image],
    test: Sequence[Image.Image],
    train: Sequence[Image.Image],
    features: tuple[Tensor, Tensor, Tensor] | None = None,
    network: Callable[[Sequence[Image.Image]], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Memorisation:
    """Look for training images among generated ones, and among real test images for comparison.

    Args:
        generated: N images.
        test: M real test images.
        train: T real training images.
        features: of the three, (N, D), (M, D) and (T, D).
        network: what computed the features, asked once more for images that lie otherwise than the training
            image they are most like; None compares features of images as they stand alone.
        progress: called with numbers of images read, N + M + T in all.

    Raises:
        UsageError: one of the three is empty, or the features are not theirs.
    """
    sides = (generated, test, train)
    if not all(map(len, sides)):
        raise UsageError("memorisation needs one or more generated, real test, and real training images")
    if features and ([*map(len, features)] != [*map(len, sides)] or len({x.shape[1] for x in features}) > 1):
        raise UsageError(
            f"features of shapes {', '.join(str(tuple(x.shape)) for x in features)} do not fit "
            f"{', '.join(str(len(side)) for side in sides)} generated, test and training images"
        )
    known = all_symmetries(coefficients(train, progress))
    nearest = []
    for number, images in enumerate(sides[:2]):
        near = _nearest(images, coefficients(images, progress), train, known)
        if features:
            near = _with_features(near, features[number], features[2])
            if network:
                near = _with_turned(near, images, network, features[2])
        nearest.append(near)
    return Memorisation(nearest[0], nearest[1])


def contact_sheet(
    nearest: NearestTraining,
    images: Sequence[Image.Image],
    train: Sequence[Image.Image],
    pairs: int = 12,
    columns: int = 3,
    side: int = 160,
) -> Image.Image:
    """The pairs most alike: the image on the left, on the right its training image, turned to match it.

    Args:
        nearest: of the images.
        images: N images.
        train: the training images.
        pairs: how many, at most.
        columns: pairs a row.
        side: of an image, in pixels.
    """
    chosen = nearest.ranked()[:pairs]
    columns = min(columns, len(chosen))
    gap, text = 8, 32
    width, height = 2 * side + gap, side + text
    sheet = Image.new("RGB", (columns * width + gap, -(-len(chosen) // columns) * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for place, number in enumerate(chosen):
        x, y = gap + place % columns * width, gap + place // columns * height
        row = int(nearest.similarity_row[number])
        original = apply_symmetry(train[row], int(nearest.symmetry[number]))
        for offset, image in ((0, images[int(number)]), (side, original)):
            sheet.paste(ImageOps.fit(image, (side, side)), (x + offset, y))
        # By hash and by features another training image than the one shown may be the nearest.
        others = f"by hash {nearest.hash_row[number]} ({nearest.hash_distance[number]} bits)"
        if nearest.feature_row is not None and nearest.feature_distance is not None:
            others += f", by features {nearest.feature_row[number]} ({nearest.feature_distance[number]:.1f})"
        shown = f"image {number}, training image {row}, similarity {nearest.similarity[number]:.3f}"
        draw.text((x, y + side + 2), shown, "black")
        draw.text((x, y + side + 14), f"nearest {others}", "black")
    return sheet


def _nearest(
    images: Sequence[Image.Image], frequencies: Floats, train: Sequence[Image.Image], known: Floats
) -> NearestTraining:
    """The nearest training images of images with low frequencies (N, 16, 16).

    ``known`` are those of the training images under all symmetries, (8 T, 16, 16).
    """
    directions, signs = unit_frequencies(frequencies), hash_signs(frequencies)
    known_directions, known_signs = unit_frequencies(known), hash_signs(known)
    best = np.empty(len(frequencies), np.int64)
    best_hash = np.empty(len(frequencies), np.int64)
    similarity = np.empty(len(frequencies), np.float32)
    hash_distance = np.empty(len(frequencies), np.int64)
    for start in range(0, len(frequencies), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        for rows, values, products in (
            (best, similarity, directions[part] @ known_directions.T),
            (best_hash, hash_distance, (64 - signs[part] @ known_signs.T) / -2),
        ):
            rows[part] = products.argmax(1)
            values[part] = products.max(1)
    symmetry, row = np.divmod(best, len(train))
    for number in np.flatnonzero((similarity >= _WORTH_CROPPING) & (similarity < NEAR_COPY)):
        original = apply_symmetry(train[int(row[number])], int(symmetry[number]))
        cropped = unit_frequencies(crop_coefficients(original)) @ directions[number]
        similarity[number] = max(similarity[number], cropped.max())
    return NearestTraining(row, symmetry, similarity, best_hash % len(train), -hash_distance)


def _with_features(near: NearestTraining, features: Tensor, known: Tensor) -> NearestTraining:
    """The same with the nearest training image by features (N, D) and (T, D)."""
    rows, distances = _nearest_features(features, known)
    return replace(near, feature_row=rows, feature_distance=distances)


def _with_turned(
    near: NearestTraining,
    images: Sequence[Image.Image],
    network: Callable[[Sequence[Image.Image]], Tensor],
    known: Tensor,
) -> NearestTraining:
    """The same where images turned back to lie as their nearest training image come closer by features."""
    turned = np.flatnonzero(near.symmetry)
    if not len(turned):
        return near
    features = network(_TurnedBack(images, turned, near.symmetry[turned]))
    rows, distances = _nearest_features(features, known)
    feature_row, feature_distance = np.array(near.feature_row), np.array(near.feature_distance)
    closer = distances < feature_distance[turned]
    feature_row[turned[closer]] = rows[closer]
    feature_distance[turned[closer]] = distances[closer]
    return replace(near, feature_row=feature_row, feature_distance=feature_distance)


def _nearest_features(features: Tensor, known: Tensor) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Row and distance of the nearest of features (T, D) to each of (N, D)."""
    rows, distances = [], []
    for part in features.split(_ROWS_AT_ONCE):
        least = torch.cdist(part, known).min(1)
        rows.append(least.indices)
        distances.append(least.values.double())
    return torch.cat(rows).numpy(), torch.cat(distances).numpy()


class _TurnedBack(Sequence[Image.Image]):
    """Some of a sequence of images, each with its symmetry undone when it is asked for."""

    def __init__(self, images: Sequence[Image.Image], numbers: Rows, symmetries: Rows):
        self._images, self._numbers, self._symmetries = images, numbers, symmetries

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> _TurnedBack: ...

    def __getitem__(self, index: int | slice) -> Image.Image | _TurnedBack:
        if isinstance(index, slice):
            return _TurnedBack(self._images, self._numbers[index], self._symmetries[index])
        return undo_symmetry(self._images[int(self._numbers[index])], int(self._symmetries[index]))

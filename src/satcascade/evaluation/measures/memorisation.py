"""Memorisation: which generated images copy a training image, turned, mirrored or re-compressed perhaps.

An image is reduced to the low frequencies of its brightness: the first 16 x 16 coefficients of the discrete
cosine transform of a 32 x 32 thumbnail. Turning and mirroring merely transpose them and change signs, so all
eight symmetries of the square cost no further transform. Two measures read them:

- the 64-bit perceptual hash (pHash: which of the first 8 x 8 coefficients exceed their median; the values
  are those of the ``imagehash`` package), compared by Hamming distance;
- the similarity, which decides: the cosine of the angle between the coefficients without their mean, each
  weighted by its frequency. The weight evens out the spectrum of photographs. Without it any two coasts are
  alike, and bright-beside-dark is most of what either measure sees.

A third measure is the distance of network features, which know nothing of symmetries. An image is looked at
twice: as it stands, and turned the way in which its low frequencies match a training image best. That finds
turned copies for at most twice the cost of features; all eight ways would cost eight times as much.
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

# At and above this similarity an image counts as a near copy. Of 400 turned or mirrored copies from RSICD it
# finds all at JPEG 30, 99 % at JPEG 10, 97 % of crops to 95 %, 27 % of crops to 90 %; of the 1,093 real test
# images it flags 3, two of them stadiums, of which one is in the training set too.
NEAR_COPY = 0.8
# At and below this Hamming distance of 64 the hash by itself finds a pair striking.
NEAR_HASH = 6
# Features closer than this share of real test images come to the training set are striking.
NEAR_FEATURE_SHARE = 0.01

# The order is that of `_symmetries`; None leaves an image as it is.
SYMMETRIES: tuple[Image.Transpose | None, ...] = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
)
# The quarter turns undo each other, all others themselves.
_UNDONE_BY = {5: 6, 6: 5}
_THUMBNAIL = 32
_KEPT = 16
_CROPS = (0.975, 0.95, 0.9)
# A cropped copy keeps at least this similarity; below, no crop is tried.
_WORTH_CROPPING = 0.4
_ROWS_AT_ONCE = 256

_FREQUENCY = np.arange(_THUMBNAIL)
_COSINES = 2 * np.cos(np.pi * np.outer(_FREQUENCY, 2 * _FREQUENCY + 1) / (2 * _THUMBNAIL))[:_KEPT]
_WEIGHTS = np.hypot(*np.meshgrid(_FREQUENCY[:_KEPT], _FREQUENCY[:_KEPT])).astype(np.float32)

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NearestTraining:
    """For each of N images its nearest training images, by each measure for itself.

    Attributes:
        row: int64 (N,), the training image of the highest similarity.
        symmetry: int64 (N,), what ``SYMMETRIES`` does to that training image to match.
        similarity: (N,), -1 to 1.
        hash_row: int64 (N,), the training image of the lowest hash distance.
        hash_distance: int64 (N,), bits of 64 that differ, under the best symmetry.
        feature_row: int64 (N,), the training image of the lowest feature distance; None without features.
        feature_distance: (N,), Euclidean, the lesser of the image as it stands and turned so that it lies as
            the training image of the highest similarity; None without features.
    """

    row: Rows
    symmetry: Rows
    similarity: Floats
    hash_row: Rows
    hash_distance: Rows
    feature_row: Rows | None = None
    feature_distance: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def near_copies(self) -> Rows:
        """The images that are near copies, the worst first, int64."""
        ranked = self.ranked()
        return ranked[self.similarity[ranked] >= NEAR_COPY]

    def ranked(self) -> Rows:
        """All images, those most like a training image first, int64 (N,)."""
        return np.argsort(-self.similarity, kind="stable")


@dataclass(frozen=True)
class Memorisation:
    """Generated images against training images, beside real test images against the same.

    Attributes:
        generated: nearest training images of the generated images.
        real: nearest training images of the real test images, which no model can have copied.
        n_train: training images.
    """

    generated: NearestTraining
    real: NearestTraining
    n_train: int

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for ``metrics.json``.

        ``near_copy_rate`` is the share of near copies, ``near_hash_rate`` that of images with a hash distance
        of 6 or less, both also for real test images (``_real``). ``near_feature_rate`` is the share of
        generated images whose features, as they stand or turned back, are closer to a training image than
        those of the closest 1 % of real test images: 0.01 is what real images score.
        """
        found: dict[str, float | int] = {}
        for suffix, side in (("", self.generated), ("_real", self.real)):
            found[f"near_copy_rate{suffix}"] = len(side.near_copies) / len(side)
            found[f"near_hash_rate{suffix}"] = float((side.hash_distance <= NEAR_HASH).mean())
        generated, real = self.generated.feature_distance, self.real.feature_distance
        if generated is not None and real is not None:
            found["near_feature_rate"] = float((generated < np.quantile(real, NEAR_FEATURE_SHARE)).mean())
        return found


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
        progress: told of each image read, N + M + T in all.

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
    known = _all_symmetries(coefficients(train, progress))
    found = []
    for number, images in enumerate(sides[:2]):
        near = _nearest(images, coefficients(images, progress), train, known)
        if features:
            near = _with_features(near, features[number], features[2])
            if network:
                near = _with_turned(near, images, network, features[2])
        found.append(near)
    return Memorisation(found[0], found[1], len(train))


def coefficients(images: Sequence[Image.Image], progress: Callable[[int], None] | None = None) -> Floats:
    """The low frequencies of images, (N, 16, 16): rows are vertical, columns horizontal frequencies."""
    found = np.empty((len(images), _KEPT, _KEPT), np.float32)
    for number in range(len(images)):
        found[number] = _coefficients(images[number])
        if progress:
            progress(1)
    return found


def perceptual_hash(coefficients: Floats) -> npt.NDArray[np.bool_]:
    """The 64 bits of pHash, (N, 64), in reading order, from coefficients (N, 16, 16)."""
    lowest = coefficients[:, :8, :8].reshape(-1, 64)
    return lowest > np.median(lowest, axis=1, keepdims=True)


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
        original = _turned(train[int(nearest.row[number])], int(nearest.symmetry[number]))
        for offset, image in ((0, images[int(number)]), (side, original)):
            sheet.paste(ImageOps.fit(image, (side, side)), (x + offset, y))
        # The hash and the feature distance may belong to other training images than the one shown.
        measures = (
            f"similarity {nearest.similarity[number]:.3f}  nearest hash {nearest.hash_distance[number]}"
        )
        if nearest.feature_distance is not None:
            measures += f"  feature {nearest.feature_distance[number]:.1f}"
        draw.text((x, y + side + 2), f"image {number}, training image {nearest.row[number]}", "black")
        draw.text((x, y + side + 14), measures, "black")
    return sheet


def _coefficients(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Floats:
    size = (_THUMBNAIL, _THUMBNAIL)
    small = image.convert("L").resize(size, Image.Resampling.LANCZOS, box=box)
    return (_COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T).astype(np.float32)


def _all_symmetries(coefficients: Floats) -> Floats:
    """The coefficients (8 T, 16, 16) of T images under each symmetry: first all T under the first."""
    # Mirroring changes the sign of the odd frequencies.
    signs = np.where(_FREQUENCY[:_KEPT] % 2, -1, 1).astype(np.float32)
    across, down = signs, signs[:, None]
    return np.concatenate(
        [
            x * sign
            for x in (coefficients, coefficients.swapaxes(1, 2))
            for sign in (np.float32(1), across, down, across * down)
        ]
    )


def _directions(coefficients: Floats) -> Floats:
    """Weighted coefficients of length 1, (N, 256); near 0 for an image of one colour."""
    weighted = (coefficients * _WEIGHTS).reshape(len(coefficients), -1)
    # The least change that 8 bits can show is of length 2 or more: rounding errors stay near 0.
    return weighted / (np.linalg.norm(weighted, axis=1, keepdims=True) + 1e-2)


def _signs(coefficients: Floats) -> Floats:
    """The hash as -1 and 1, (N, 64): the product of two is 64 less twice their Hamming distance."""
    return np.where(perceptual_hash(coefficients), np.float32(1), np.float32(-1))


def _nearest(
    images: Sequence[Image.Image], found: Floats, train: Sequence[Image.Image], known: Floats
) -> NearestTraining:
    """The nearest of the training images, whose coefficients under all symmetries are ``known``."""
    directions, signs = _directions(found), _signs(found)
    known_directions, known_signs = _directions(known), _signs(known)
    best = np.empty(len(found), np.int64)
    best_hash = np.empty(len(found), np.int64)
    similarity = np.empty(len(found), np.float32)
    hash_distance = np.empty(len(found), np.int64)
    for start in range(0, len(found), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        for rows, values, products in (
            (best, similarity, directions[part] @ known_directions.T),
            (best_hash, hash_distance, (64 - signs[part] @ known_signs.T) / -2),
        ):
            rows[part] = products.argmax(1)
            values[part] = products.max(1)
    symmetry, row = np.divmod(best, len(train))
    for number in np.flatnonzero((similarity >= _WORTH_CROPPING) & (similarity < NEAR_COPY)):
        original = _turned(train[int(row[number])], int(symmetry[number]))
        cropped = _directions(_crops(original)) @ directions[number]
        similarity[number] = max(similarity[number], cropped.max())
    return NearestTraining(row, symmetry, similarity, best_hash % len(train), -hash_distance)


def _crops(image: Image.Image) -> Floats:
    """Coefficients (27, 16, 16) of three sizes of crops, from the middle, the corners and the edges."""
    found = []
    for share in _CROPS:
        width, height = image.width * share, image.height * share
        for left in np.linspace(0, image.width - width, 3):
            for top in np.linspace(0, image.height - height, 3):
                found.append(_coefficients(image, (left, top, left + width, top + height)))
    return np.stack(found)


def _turned(image: Image.Image, symmetry: int) -> Image.Image:
    method = SYMMETRIES[symmetry]
    return image if method is None else image.transpose(method)


def _with_features(near: NearestTraining, found: Tensor, known: Tensor) -> NearestTraining:
    """The same with the nearest training image by features (N, D) and (T, D)."""
    rows, distances = _nearest_features(found, known)
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
    found = network(_TurnedBack(images, turned, near.symmetry[turned]))
    rows, distances = _nearest_features(found, known)
    feature_row, feature_distance = np.array(near.feature_row), np.array(near.feature_distance)
    closer = distances < feature_distance[turned]
    feature_row[turned[closer]] = rows[closer]
    feature_distance[turned[closer]] = distances[closer]
    return replace(near, feature_row=feature_row, feature_distance=feature_distance)


def _nearest_features(found: Tensor, known: Tensor) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Row and distance of the nearest of features (T, D) to each of (N, D)."""
    rows, distances = [], []
    for part in found.split(_ROWS_AT_ONCE):
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
        symmetry = int(self._symmetries[index])
        return _turned(self._images[int(self._numbers[index])], _UNDONE_BY.get(symmetry, symmetry))

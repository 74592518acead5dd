"""The low frequencies of images, which turning and mirroring merely transpose and change signs of.

An image is reduced to the first 16 x 16 coefficients of the discrete cosine transform of the brightness of a
32 x 32 thumbnail. Ours, not the ``imagehash`` package's: its hash has no symmetries and no similarity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

# In the order of :func:`all_symmetries`; None leaves an image as it is.
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

_FREQUENCY = np.arange(_THUMBNAIL)
_COSINES = 2 * np.cos(np.pi * np.outer(_FREQUENCY, 2 * _FREQUENCY + 1) / (2 * _THUMBNAIL))[:_KEPT]
_WEIGHTS = np.hypot(*np.meshgrid(_FREQUENCY[:_KEPT], _FREQUENCY[:_KEPT])).astype(np.float32)

Floats = npt.NDArray[np.float32]


def coefficients(images: Sequence[Image.Image], progress: Callable[[int], None] | None = None) -> Floats:
    """The low frequencies of images, (N, 16, 16): rows are vertical, columns horizontal frequencies."""
    result = np.empty((len(images), _KEPT, _KEPT), np.float32)
    for number in range(len(images)):
        result[number] = _coefficients(images[number])
        if progress:
            progress(1)
    return result


def perceptual_hash(coefficients: Floats) -> npt.NDArray[np.bool_]:
    """The 64 bits of pHash, (N, 64), in reading order, from coefficients (N, 16, 16)."""
    lowest = coefficients[:, :8, :8].reshape(-1, 64)
    return lowest > np.median(lowest, axis=1, keepdims=True)


def all_symmetries(coefficients: Floats) -> Floats:
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


def unit_frequencies(coefficients: Floats) -> Floats:
    """Weighted coefficients of length 1, (N, 256); near 0 for an image of one colour."""
    weighted = (coefficients * _WEIGHTS).reshape(len(coefficients), -1)
    # The least change that 8 bits can show is of length 2 or more: rounding errors stay near 0.
    return weighted / (np.linalg.norm(weighted, axis=1, keepdims=True) + 1e-2)


def hash_signs(coefficients: Floats) -> Floats:
    """The hash as -1 and 1, (N, 64): the product of two is 64 less twice their Hamming distance."""
    return np.where(perceptual_hash(coefficients), np.float32(1), np.float32(-1))


def crop_coefficients(image: Image.Image) -> Floats:
    """Coefficients (27, 16, 16) of three sizes of crops, from the middle, the corners and the edges."""
    parts = []
    for share in _CROPS:
        width, height = image.width * share, image.height * share
        for left in np.linspace(0, image.width - width, 3):
            for top in np.linspace(0, image.height - height, 3):
                parts.append(_coefficients(image, (left, top, left + width, top + height)))
    return np.stack(parts)


def apply_symmetry(image: Image.Image, symmetry: int) -> Image.Image:
    """The image under one of ``SYMMETRIES``."""
    method = SYMMETRIES[symmetry]
    return image if method is None else image.transpose(method)


def undo_symmetry(image: Image.Image, symmetry: int) -> Image.Image:
    """The image that is this one under one of ``SYMMETRIES``."""
    return apply_symmetry(image, _UNDONE_BY.get(symmetry, symmetry))


def _coefficients(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Floats:
    size = (_THUMBNAIL, _THUMBNAIL)
    small = image.convert("L").resize(size, Image.Resampling.LANCZOS, box=box)
    return (_COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T).astype(np.float32)

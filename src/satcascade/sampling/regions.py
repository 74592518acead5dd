"""Which caption describes which part of a scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import UsageError


@dataclass(frozen=True)
class Regions:
    """Captions, and the part of the picture that each of them describes.

    Attributes:
        captions: K of them.
        labels: (H, W) integers from 0 to K - 1: the number of the caption of each pixel.

    Raises:
        UsageError: there is no caption, or a label has none.
    """

    captions: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.captions:
            raise UsageError("a scene needs a caption at least")
        if self.labels.min() < 0 or self.labels.max() >= len(self.captions):
            raise UsageError(f"labels of regions must be 0 to {len(self.captions) - 1}, one a caption")

    @classmethod
    def whole(cls, caption: str, height: int, width: int) -> Regions:
        """One caption for all of a picture."""
        return cls((caption,), np.broadcast_to(np.int64(0), (height, width)))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 over the labels and their shape."""
        digest = hashlib.sha256(str(self.labels.shape).encode())
        for row in self.labels:
            digest.update(row.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def of_boxes(
        cls,
        background: str,
        boxes: Sequence[tuple[tuple[int, int, int, int], str]],
        height: int,
        width: int,
    ) -> Regions:
        """Boxes with captions of their own; later ones lie over earlier ones.

        Args:
            background: caption of what no box covers.
            boxes: each ``((x, y, width, height), caption)``, in pixels from the top left corner.
            height: of the picture.
            width: of the picture.

        Raises:
            UsageError: a box is empty, or reaches out of the picture.
        """
        labels = np.zeros((height, width), np.int64)
        captions = list(dict.fromkeys([background, *(caption for _, caption in boxes)]))
        for (x, y, wide, high), caption in boxes:
            if wide < 1 or high < 1 or x < 0 or y < 0 or x + wide > width or y + high > height:
                raise UsageError(
                    f"box {x},{y},{wide},{high} of '{caption}' does not lie in the picture of "
                    f"{width}x{height} px: give x, y, width and height in pixels"
                )
            labels[y : y + high, x : x + wide] = captions.index(caption)
        return cls(tuple(captions), labels)

    def resized(self, height: int, width: int) -> Regions:
        """The same map, drawn larger or smaller."""
        if self.labels.shape == (height, width):
            return self
        rows, columns = (
            (np.arange(new) * old // new).astype(np.int64)
            for new, old in zip((height, width), self.labels.shape, strict=True)
        )
        return Regions(self.captions, self.labels[rows[:, None], columns])

    def masks(self, height: int, width: int, cell: int) -> Tensor:
        """The share of each caption at each position of a canvas, float32; the sum over captions is one.

        Args:
            height: of the canvas, in positions.
            width: of the canvas. Beyond the picture its last pixels go on.
            cell: pixels a side of a position.

        Returns:
            (K, height, width).
        """
        shape = zip((height * cell, width * cell), self.labels.shape, strict=True)
        labels = np.pad(self.labels, [(0, max(want - have, 0)) for want, have in shape], mode="edge")
        chosen = torch.from_numpy(labels[: height * cell, : width * cell])
        masks = [
            F.avg_pool2d((chosen == number)[None].float(), cell)[0] for number in range(len(self.captions))
        ]
        return torch.stack(masks)

"""What an autoencoder learns from a teacher: its latents of the training images, and pictures of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from satcascade.data.latents import StoredLatents
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import dihedral, to_float
from satcascade.training.codec.crops import Crops
from satcascade.training.codec.teacher import TeacherCodec


@dataclass(frozen=True)
class Taught:
    """Crops, and what the teacher makes of them.

    Attributes:
        images: (B, 3, side, side) in [-1, 1].
        latents: (B, C, side / factor, side / factor), normalised.
        pictures: (B, 3, S, S) in [-1, 1], what the teacher decodes of the latents, at its own size; None
            where they are not learnt from.
    """

    images: Tensor
    latents: Tensor
    pictures: Tensor | None


@dataclass(frozen=True)
class TeacherTargets:
    """A teacher, its latents of a prepared set, and its pictures of those.

    Attributes:
        codec: the teacher.
        latents: normalised, float16, under ``views``.
        views: symmetries of the images.
        pictures: of each view uint8 (N, S, S, 3); none where they are not learnt from.
    """

    codec: TeacherCodec
    latents: StoredLatents
    views: tuple[int, ...]
    pictures: Mapping[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def of(
        self, dataset: PreparedDataset, rows: npt.NDArray[np.int64], crops: Crops, device: torch.device
    ) -> Taught:
        """Crops of turned images, and what the teacher makes of what they show.

        Args:
            dataset: the set.
            rows: those trained on.
            crops: B of them, cut on the grid of latents out of images turned already.
            device: where to.
        """
        factor, own = self.codec.factor, self.codec.factor // self.codec.reduction
        images, latents, pictures = [], [], []
        for row, corner, symmetry in zip(
            rows[crops.places], crops.corners.tolist(), crops.symmetries.tolist(), strict=True
        ):
            whole = to_float(torch.from_numpy(dataset.images[[row]]), dataset.image_size)[0]
            images.append(_cut(dihedral(whole, symmetry), corner, crops.side))
            place, cells = [pixel // factor for pixel in corner], crops.side // factor
            latents.append(_cut(torch.tensor(self.latents.views[symmetry][row]), place, cells))
            if self.pictures:
                decoded = torch.from_numpy(self.pictures[symmetry][[row]])
                decoded = to_float(decoded, decoded.shape[1])[0]
                pictures.append(_cut(decoded, [own * cell for cell in place], own * cells))
        return Taught(
            torch.stack(images).to(device),
            torch.stack(latents).float().to(device),
            torch.stack(pictures).to(device) if pictures else None,
        )


def _cut(planes: Tensor, corner: list[int], side: int) -> Tensor:
    top, left = corner
    return planes[:, top : top + side, left : left + side]

"""What an autoencoder learns from a teacher: its latents of the training images, stored beside them."""

from __future__ import annotations

from dataclasses import dataclass

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
class TeacherTargets:
    """A teacher and its latents of a prepared set.

    Attributes:
        codec: the teacher.
        latents: normalised, float16, under ``views``.
        views: symmetries of the images.
    """

    codec: TeacherCodec
    latents: StoredLatents
    views: tuple[int, ...]

    def pairs(
        self, dataset: PreparedDataset, rows: npt.NDArray[np.int64], crops: Crops, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Crops of turned images, and the teacher's latents of what they show.

        Args:
            dataset: the set.
            rows: those trained on.
            crops: B of them, cut on the grid of latents out of images turned already.
            device: where to.

        Returns:
            Images (B, 3, side, side) in [-1, 1], and normalised latents (B, C, side / factor, side / factor).
        """
        factor, images, latents = self.codec.factor, [], []
        for row, corner, symmetry in zip(
            rows[crops.places], crops.corners.tolist(), crops.symmetries.tolist(), strict=True
        ):
            whole = to_float(torch.from_numpy(dataset.images[[row]]), dataset.image_size)[0]
            images.append(_cut(dihedral(whole, symmetry), corner, crops.side))
            stored = torch.tensor(self.latents.views[symmetry][row])
            latents.append(_cut(stored, [place // factor for place in corner], crops.side // factor))
        return torch.stack(images).to(device), torch.stack(latents).float().to(device)


def _cut(planes: Tensor, corner: list[int], side: int) -> Tensor:
    top, left = corner
    return planes[:, top : top + side, left : left + side]

"""Random crops that depend on nothing but the seed and the step, so that a resumed run sees the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from satcascade.config.codec import CodecSettings, DecoderTraining
from satcascade.data.views import SYMMETRIES, cut
from satcascade.seeds import derived_seed


@dataclass(frozen=True)
class Crops:
    """Which crops a step trains on.

    Attributes:
        places: (B,), positions in the rows that are trained on.
        corners: (B, 2) int64, top and left in pixels.
        symmetries: (B,) int64, see :func:`satcascade.data.views.dihedral`.
        side: of the crops, in pixels.
    """

    places: npt.NDArray[np.int64]
    corners: Tensor
    symmetries: Tensor
    side: int

    def of(self, views: list[Tensor], device: torch.device) -> list[Tensor]:
        """The crops, (B, C, side, side), out of whole images (B, C, S, S)."""
        return cut(views, self.corners.to(device), self.symmetries.to(device), self.side)


def draw_crops(
    settings: CodecSettings,
    step: int,
    rows: int,
    image_size: int,
    align: int = 1,
    views: Sequence[int] = range(SYMMETRIES),
) -> Crops:
    """The crops of a step.

    Args:
        settings: batch size, side and seed.
        step: from 0.
        rows: of how many images to choose.
        image_size: their side S.
        align: the corners are multiples of it.
        views: symmetries to choose from.
    """
    chance = torch.Generator().manual_seed(derived_seed(settings.seed, "crops", step))
    count = settings.batch_size
    places = torch.randint(rows, (count,), generator=chance)
    corners = torch.randint((image_size - settings.crop) // align + 1, (count, 2), generator=chance) * align
    symmetries = torch.tensor(views)[torch.randint(len(views), (count,), generator=chance)]
    return Crops(places.numpy(), corners, symmetries, settings.crop)


def noised(latents: Tensor, training: DecoderTraining, seed: int, step: int) -> Tensor:
    """Latents with noise, as errors of a diffusion model that the decoder is to cope with.

    Args:
        latents: (B, C, h, w), normalised.
        training: share of the crops and range of deviations.
        seed: of the run.
        step: of the run.
    """
    chance = torch.Generator().manual_seed(derived_seed(seed, "noise", step))
    chosen, share = (torch.rand(len(latents), 1, 1, 1, generator=chance) for _ in range(2))
    low, high = math.log(training.noise_low), math.log(training.noise_high)
    level = torch.where(chosen < training.noise_share, (low + (high - low) * share).exp(), 0.0)
    noise = level * torch.randn(latents.shape, generator=chance)
    return latents + noise.to(latents.device)

"""How well an autoencoder does on images that it was not trained on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.models.codec import LatentCodec
from satcascade.training.codec.targets import TeacherTargets


@torch.no_grad()
def measure_quality(
    codec: LatentCodec,
    dataset: PreparedDataset,
    rows: npt.NDArray[np.int64],
    targets: TeacherTargets | None = None,
) -> dict[str, float]:
    """Means over images.

    Args:
        codec: the autoencoder.
        dataset: whose images.
        rows: which of them.
        targets: of the teacher that the encoder imitates, if there is one.

    Returns:
        ``psnr`` in dB of encoded and decoded images; with a teacher ``latents``, the mean squared error of
        the encoder's latents as a share of the variance of the teacher's.
    """
    ratios, missed = [], []
    for row in rows:
        pixels = torch.from_numpy(dataset.images[[row]]).to(codec.vae.device)
        image = to_float(pixels, pixels.shape[1])
        latents = codec.encode(image)
        error = (codec.decode(latents) - image).square().mean()
        ratios.append(10 * math.log10(4 / max(float(error), 1e-10)))
        if targets is not None:
            missed.append(float((latents - targets.codec.encode(image)).square().mean()))
    quality = {"psnr": float(np.mean(ratios))}
    return quality | ({"latents": float(np.mean(missed))} if missed else {})


def evenly(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of some rows, evenly spread over them."""
    if len(rows) <= count:
        return rows
    return rows[np.arange(count) * len(rows) // count]

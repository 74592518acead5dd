"""Latents of a prepared set: each image under the eight symmetries, encoded once and kept beside it.

::

    PREPARED/latents/FINGERPRINT-SIZE/manifest.json   codec, data and shape; written first
    PREPARED/latents/FINGERPRINT-SIZE/view-0.npy      float16 (N, C, h, w), normalised latents of all images
    ...                               view-7.npy      under symmetry 7 (:mod:`satcascade.data.views`)

An autoencoder does not commute with flips and turns, so latents are made of each view of an image. A view
appears under its name when it is complete; an interrupted one is resumed where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from satcascade.data.array_file import open_rows, write_rows
from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import SYMMETRIES, dihedral, to_float
from satcascade.errors import UsageError
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.locks import exclusive
from satcascade.io.progress import ProgressDisplay
from satcascade.models.codec import Codec

FOLDER = "latents"
MANIFEST = "manifest.json"
FORMAT = 1
# Images encoded together; fixed, so that latents do not depend on where a run was interrupted.
_BATCH = 8
# Digits of the fingerprint in the folder's name.
_DIGITS = 16


class StoredLatents:
    """The latents of a prepared set under one codec, memory-mapped.

    Attributes:
        path: their folder.
        shape: (C, h, w) of one image.
        views: for each symmetry that is there float16 (N, C, h, w), read-only.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], views: dict[int, npt.NDArray[np.float16]]):
        self.path = path
        self.shape = shape
        self.views = views

    @classmethod
    def open(
        cls, dataset: PreparedDataset, codec: Codec, image_size: int, symmetries: Iterable[int]
    ) -> StoredLatents:
        """Open the latents of a set's images of ``image_size`` pixels.

        Args:
            dataset: the set.
            codec: what they must have been encoded with.
            image_size: pixels a side.
            symmetries: the views that are needed.

        Raises:
            UsageError: there are none of this codec and size, or a view is missing.
            SatcascadeError: a file is damaged or cut short.
        """
        path = latents_folder(dataset, codec, image_size)
        command = f"satcascade encode {dataset.path} --image-size {image_size} --codec VAE"
        if not (path / MANIFEST).is_file():
            there = sorted(each.name for each in path.parent.glob("*-*") if (each / MANIFEST).is_file())
            others = f" (it has {', '.join(there)})" if there else ""
            raise UsageError(
                f"{dataset.path} has no latents of images of {image_size} px by codec "
                f"{codec.fingerprint[:_DIGITS]}{others}: make them with '{command}', or set "
                "training.hardware.latents=computed"
            )
        description = _description(dataset, codec, image_size)
        _described(path).check(description)
        shape: tuple[int, int, int] = tuple(description["shape"])
        views = {}
        for number in symmetries:
            file = path / view_name(number)
            if not file.is_file():
                raise UsageError(
                    f"{path} lacks view {number} of the images: '{command}' makes what is missing"
                )
            views[number] = open_rows(file, np.float16, (len(dataset), *shape), "run 'satcascade encode'")
        return cls(path, shape, views)


def latents_folder(dataset: PreparedDataset, codec: Codec, image_size: int) -> Path:
    """Where the latents of a set are kept."""
    return dataset.path / FOLDER / f"{codec.fingerprint[:_DIGITS]}-{image_size}"


def view_name(symmetry: int) -> str:
    """File name of the latents of one view."""
    return f"view-{symmetry}.npy"


def encode_latents(
    dataset: PreparedDataset,
    codec: Codec,
    image_size: int,
    symmetries: Iterable[int] = range(SYMMETRIES),
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Path:
    """Make the latents of a set that are not there yet.

    Args:
        dataset: the set.
        codec: on ``device``.
        image_size: pixels a side, to which the prepared images are averaged down.
        symmetries: which views, each in [0, 8).
        device: where to encode.
        progress: show a progress bar on the error stream.

    Returns:
        Their folder.

    Raises:
        UsageError: a size that the set does not divide into, or that the codec does not divide.
        SatcascadeError: the folder holds other latents, another process makes the same view, or the disk is
            full.
    """
    if image_size < 1 or dataset.image_size % image_size or image_size % codec.factor:
        raise UsageError(
            f"images of {image_size} px are not possible: give a divisor of the prepared "
            f"{dataset.image_size} px that {codec.factor} divides"
        )
    path = latents_folder(dataset, codec, image_size)
    description = _description(dataset, codec, image_size)
    folder = _described(path)
    if folder.check(description) is None:
        folder.write(description)
    numbers = [number for number in symmetries if not (path / view_name(number)).exists()]
    with ProgressDisplay(progress) as display:
        task = display.task("latents", len(numbers) * len(dataset))
        for number in numbers:
            taken = f"another process makes {path / view_name(number)}: wait for it or end it"
            with exclusive(path / f".view-{number}.lock", taken):
                for count in _encode_view(dataset, codec, image_size, number, path, torch.device(device)):
                    task.advance(count)
    return path


def _encode_view(
    dataset: PreparedDataset, codec: Codec, image_size: int, number: int, path: Path, device: torch.device
) -> Iterator[int]:
    """Write one view; yields the number of images of each batch, those that were there included."""

    @torch.inference_mode()
    def encoded(start: int, stop: int) -> npt.NDArray[np.float16]:
        rows = torch.from_numpy(dataset.images[start:stop]).to(device)
        views = dihedral(to_float(rows, image_size), number)
        latents: npt.NDArray[np.float16] = codec.encode(views.contiguous()).half().cpu().numpy()
        return latents

    side = image_size // codec.factor
    shape = (len(dataset), codec.channels, side, side)
    yield from write_rows(path / view_name(number), np.float16, shape, _BATCH, encoded)


def _description(dataset: PreparedDataset, codec: Codec, image_size: int) -> dict[str, Any]:
    side = image_size // codec.factor
    return {
        "format": FORMAT,
        "data": dataset.hash,
        "codec": codec.fingerprint,
        "image_size": image_size,
        "images": len(dataset),
        "shape": [codec.channels, side, side],
    }


def _described(path: Path) -> DescribedFolder:
    return DescribedFolder(path, MANIFEST, "latents", _words, f"delete {path} and encode again")


def _words(difference: Difference) -> str:
    what = "set" if difference.name == "data" else difference.name.replace("_", " ")
    return f"latents of another {what}: {difference.before}, not {difference.now}"

"""What a teacher makes of the training images, computed once and kept in the run's folder.

::

    RUN/teacher/manifest.json   teacher, data and rows; how many rows are done
    RUN/teacher/latents.npy     float16 (N, C, S / 8, S / 8)
    RUN/teacher/pictures.npy    uint8 (N, S, S, 3), the latents decoded
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.errors import one_line
from satcascade.io.files import check_space, full_disk_refused
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.json import damaged
from satcascade.io.progress import ProgressDisplay
from satcascade.training.codec.teacher import CHANNELS, FACTOR, Teacher

FOLDER = "teacher"
MANIFEST = "manifest.json"
LATENTS = "latents.npy"
PICTURES = "pictures.npy"
# Fixed, so that what is computed does not depend on where a run was interrupted.
_BATCH = 4
# Batches between two notes of how far it is.
_NOTED = 8


class TeacherTargets:
    """A teacher's latents and pictures of some images, memory-mapped.

    Attributes:
        latents: float16 (N, C, S / 8, S / 8).
        pictures: uint8 (N, S, S, 3), RGB.
    """

    def __init__(self, latents: npt.NDArray[np.float16], pictures: npt.NDArray[np.uint8]):
        self.latents = latents
        self.pictures = pictures

    @classmethod
    def computed(
        cls,
        run: Path,
        teacher: Teacher,
        dataset: PreparedDataset,
        rows: npt.NDArray[np.int64],
        device: torch.device,
        progress: bool = True,
    ) -> TeacherTargets:
        """Those kept in a run's folder, after computing what is not there yet.

        Args:
            run: the run's folder.
            teacher: on ``device``.
            dataset: whose images.
            rows: N rows of them.
            device: where to compute.
            progress: show a progress bar on the error stream.

        Raises:
            SatcascadeError: what is there is of another teacher, other data or damaged, or the disk is full.
        """
        folder = DescribedFolder(
            Path(run) / FOLDER, MANIFEST, "pictures of a teacher", _words, "use another run folder"
        )
        path, count, size = folder.path, len(rows), dataset.image_size
        description = {
            "teacher": teacher.fingerprint,
            "data": dataset.hash,
            "rows": hashlib.sha256(rows.tobytes()).hexdigest()[:16],
        }
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            LATENTS: (np.float16, (count, CHANNELS, size // FACTOR, size // FACTOR)),
            PICTURES: (np.uint8, (count, size, size, 3)),
        }
        there = folder.check(description, lambda content: {key: content[key] for key in description})
        if there is None:
            check_space(
                path, sum(int(np.prod(shape)) * np.dtype(kind).itemsize for kind, shape in shapes.values())
            )
            path.mkdir(parents=True, exist_ok=True)
            for name, (kind, shape) in shapes.items():
                np.lib.format.open_memmap(path / name, mode="w+", dtype=kind, shape=shape).flush()
            there = {**description, "done": 0}
            folder.write(there)
        arrays = {name: _opened(path / name, kind, shape) for name, (kind, shape) in shapes.items()}
        done = int(there["done"])
        with full_disk_refused(path), ProgressDisplay(progress) as display:
            task = display.task("teacher", count, done)
            for number, start in enumerate(range(done, count, _BATCH), start=1):
                chosen = slice(start, min(start + _BATCH, count))
                latents, pictures = _targets(teacher, dataset.images[rows[chosen]], device)
                arrays[LATENTS][chosen], arrays[PICTURES][chosen] = latents, pictures
                if number % _NOTED == 0 or chosen.stop == count:
                    for array in arrays.values():
                        array.flush()
                    folder.write({**description, "done": chosen.stop})
                task.advance(chosen.stop - start)
        return cls(np.load(path / LATENTS, mmap_mode="r"), np.load(path / PICTURES, mmap_mode="r"))


@torch.inference_mode()
def _targets(
    teacher: Teacher, images: npt.NDArray[np.uint8], device: torch.device
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
    latents = teacher.encode(to_float(torch.from_numpy(images).to(device), images.shape[1])).half()
    pictures = ((teacher.decode(latents.float()) + 1) * 127.5).round().byte()
    return latents.cpu().numpy(), pictures.permute(0, 2, 3, 1).cpu().numpy()


def _words(difference: Difference) -> str:
    return f"{difference.name} {difference.before}, not {difference.now}"


def _opened(path: Path, kind: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    remedy = f"delete {path.parent}"
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise damaged(path, one_line(error), remedy) from error
    if array.dtype != kind or array.shape != shape:
        raise damaged(path, f"it holds {array.dtype} {array.shape}, not {kind.__name__} {shape}", remedy)
    return array

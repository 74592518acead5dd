"""What a teacher makes of the training images, computed once and kept in the run's folder.

::

    RUN/teacher/manifest.json   teacher, data and rows; how many rows are done
    RUN/teacher/latents.npy     float16 (N, C, S / 8, S / 8)
    RUN/teacher/pictures.npy    uint8 (N, S, S, 3), the latents decoded
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satcascade.data.prepared import PreparedDataset
from satcascade.data.views import to_float
from satcascade.errors import SatcascadeError, one_line
from satcascade.io.files import check_space, full_disk_refused, written_whole
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
        folder, count, size = Path(run) / FOLDER, len(rows), dataset.image_size
        description = {
            "teacher": teacher.fingerprint,
            "data": dataset.hash,
            "rows": hashlib.sha256(rows.tobytes()).hexdigest()[:16],
        }
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            LATENTS: (np.float16, (count, CHANNELS, size // FACTOR, size // FACTOR)),
            PICTURES: (np.uint8, (count, size, size, 3)),
        }
        done = _done(folder, description)
        if done is None:
            check_space(
                folder, sum(int(np.prod(shape)) * np.dtype(kind).itemsize for kind, shape in shapes.values())
            )
            folder.mkdir(parents=True, exist_ok=True)
            for name, (kind, shape) in shapes.items():
                np.lib.format.open_memmap(folder / name, mode="w+", dtype=kind, shape=shape).flush()
            done = 0
            _note(folder, description, done)
        arrays = {name: _opened(folder / name, kind, shape) for name, (kind, shape) in shapes.items()}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            full_disk_refused(folder),
            Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar,
        ):
            task = bar.add_task("teacher", total=count, completed=done)
            for number, start in enumerate(range(done, count, _BATCH), start=1):
                chosen = slice(start, min(start + _BATCH, count))
                latents, pictures = _targets(teacher, dataset.images[rows[chosen]], device)
                arrays[LATENTS][chosen], arrays[PICTURES][chosen] = latents, pictures
                if number % _NOTED == 0 or chosen.stop == count:
                    for array in arrays.values():
                        array.flush()
                    _note(folder, description, chosen.stop)
                bar.advance(task, chosen.stop - start)
        return cls(np.load(folder / LATENTS, mmap_mode="r"), np.load(folder / PICTURES, mmap_mode="r"))


@torch.inference_mode()
def _targets(
    teacher: Teacher, images: npt.NDArray[np.uint8], device: torch.device
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
    latents = teacher.encode(to_float(torch.from_numpy(images).to(device), images.shape[1])).half()
    pictures = ((teacher.decode(latents.float()) + 1) * 127.5).round().byte()
    return latents.cpu().numpy(), pictures.permute(0, 2, 3, 1).cpu().numpy()


def _done(folder: Path, description: dict[str, str]) -> int | None:
    """How many rows are there; None where there is nothing yet.

    Raises:
        SatcascadeError: the folder's are of something else, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        done, there = int(content.pop("done")), dict(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SatcascadeError(f"{path} is damaged ({one_line(error)}): delete {folder}") from error
    for key, value in description.items():
        if there.get(key) != value:
            raise SatcascadeError(
                f"{folder} holds pictures of other {key} ({there.get(key)}, not {value}): choose another run"
            )
    return done


def _note(folder: Path, description: dict[str, str], done: int) -> None:
    with written_whole(folder / MANIFEST) as aside:
        aside.write_text(json.dumps({**description, "done": done}, indent=1) + "\n", encoding="utf-8")


def _opened(path: Path, kind: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise SatcascadeError(f"{path} is damaged ({one_line(error)}): delete its folder") from error
    if array.dtype != kind or array.shape != shape:
        raise SatcascadeError(
            f"{path} holds {array.dtype} {array.shape}, not {kind.__name__} {shape}: delete its folder"
        )
    return array

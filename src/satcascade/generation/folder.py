"""The folder of a run: its description, which images are there, and the records made of them at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from PIL import Image

from satcascade.formats.generated_folder import CAPTIONS, GRID, MANIFEST, RUN_FILE
from satcascade.generation.jobs import TextToImage
from satcascade.generation.provenance import NOTICE, SOFTWARE, manifest_line, read_png_text, write_png
from satcascade.generation.shard import Shard
from satcascade.io.files import atomic_write
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.locks import exclusive, waiting

_GRID_IMAGES = 64
_GRID_GAP = 4


class GeneratedFolder:
    """The folder that the images of a job go to.

    Args:
        path: the folder; missing, empty, or left by an interrupted run of the same job.
        job: what its images are.
        columns: of the contact sheet; None makes it as square as it gets.
    """

    def __init__(self, path: Path, job: TextToImage, columns: int | None = None):
        self.path = path
        self._job = job
        self._columns = columns
        self._described = DescribedFolder(
            path, RUN_FILE, "run of 'satcascade sample' or 'edit'", words=_words
        )

    def shard_lock(self, shard: Shard) -> AbstractContextManager[None]:
        """Keep other processes from making the same shard.

        Raises:
            SatcascadeError: another process makes it, or the folder cannot be written to.
        """
        return exclusive(
            self.path / f".shard-{shard.number}-of-{shard.count}.lock",
            f"another process is making shard {shard} of {self.path}: wait for it or end it",
        )

    def lock(self) -> AbstractContextManager[None]:
        """Keep the processes that make shards from writing the records at once; waits for them."""
        return waiting(self.path / ".lock")

    def check(self) -> None:
        """Refuse the folder of another run; nothing is written.

        Raises:
            UsageError: the folder holds a run with other settings (the difference is named), or other files.
            SatcascadeError: its description is damaged.
        """
        self._described.check(self._job.description())

    def open(self) -> None:
        """Describe the run in its folder, or check that the folder's description is the same.

        Raises:
            UsageError, SatcascadeError: as of :meth:`check`, or the disk is full.
        """
        self.check()
        # First: a process that comes without the lock must not take the captions for foreign files.
        self._described.write(self._job.description(), sort_keys=True)
        _write_text(
            self.path / CAPTIONS, "".join(self._job.caption(index) + "\n" for index in range(self._job.total))
        )

    def has(self, index: int) -> bool:
        """Whether an image is there, complete, and made for this run."""
        path = self._image(index)
        try:
            # Checks the whole file; after that the image can be used no more.
            with Image.open(path) as image:
                image.verify()
            text = read_png_text(path)
        except (OSError, SyntaxError, ValueError):
            return False
        return text.get("Prompt") == self._job.caption(index) and text.get("Seed") == str(
            self._job.seed(index)
        )

    def write(self, index: int, image: Image.Image) -> None:
        """Write an image with its provenance.

        Raises:
            SatcascadeError: the disk is full.
        """
        write_png(self._image(index), image, self._job.text(index))

    def close(self, shard: Shard, indices: Sequence[int]) -> bool:
        """Write the record of what is there: of the run if all its images are, otherwise of the shard.

        Args:
            shard: the shard that has been made.
            indices: the numbers of its images, in order.

        Returns:
            Whether all images of the run are there.

        Raises:
            SatcascadeError: the disk is full.
        """
        files = [self._image(index) for index in range(self._job.total)]
        if not all(path.exists() for path in files):
            part = self.path / f"manifest.shard-{shard.number}-of-{shard.count}.jsonl"
            _write_text(part, "".join(manifest_line(files[index]) for index in indices))
            return False
        _write_text(self.path / MANIFEST, "".join(map(manifest_line, files)))
        _write_grid(self.path / GRID, files, self._columns)
        for part in self.path.glob("manifest.shard-*-of-*.jsonl"):
            part.unlink()
        return True

    def _image(self, index: int) -> Path:
        return self.path / self._job.file(index)


def _words(difference: Difference) -> str:
    if difference.name == "captions":
        return "other captions"
    if difference.name == "model_hash":
        return "other model weights"
    return str(difference).removeprefix("settings.")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def _write_grid(path: Path, files: Sequence[Path], columns: int | None) -> None:
    """A contact sheet of the first images, as square as it gets where ``columns`` does not say otherwise."""
    shown = files[:_GRID_IMAGES]
    columns = min(columns or math.ceil(math.sqrt(len(shown))), len(shown))
    rows = math.ceil(len(shown) / columns)
    with Image.open(shown[0]) as first:
        width, height = first.width + _GRID_GAP, first.height + _GRID_GAP
    sheet = Image.new("RGB", (columns * width - _GRID_GAP, rows * height - _GRID_GAP), "white")
    for place, file in enumerate(shown):
        with Image.open(file) as image:
            sheet.paste(image, (place % columns * width, place // columns * height))
    write_png(path, sheet, {"Software": SOFTWARE, "Notice": NOTICE})

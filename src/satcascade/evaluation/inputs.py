"""The two sides of an evaluation: a folder of generated images, and the real images of a prepared set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from satcascade.data.captions import Captions
from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, one_line
from satcascade.formats.generated_folder import CAPTIONS, MANIFEST, RUN_FILE
from satcascade.io.json import damaged, read_json

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_IMAGES_AT_ONCE = 256
_REMEDY = "copy the folder again, or leave that file out"


class ImageFiles(Sequence[Image.Image]):
    """RGB images that are opened one at a time, whenever they are asked for.

    Attributes:
        paths: their files.
    """

    def __init__(self, paths: Iterable[Path]):
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        """One image, or a lazy part of the sequence.

        Raises:
            SatcascadeError: the file is no whole image.
        """
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise SatcascadeError(f"{path} is broken ({_fault(error)}): make or copy it again") from error


class RealImages(Sequence[Image.Image]):
    """RGB images of rows of a prepared set, read from its memory map one at a time.

    Attributes:
        dataset: the set.
        rows: int64 (N,), their rows in it.
    """

    def __init__(self, dataset: PreparedDataset, rows: npt.NDArray[np.int64]):
        self.dataset = dataset
        self.rows = np.asarray(rows, dtype=np.int64)

    @classmethod
    def of(cls, dataset: PreparedDataset, split: str) -> RealImages:
        """All images of a split, in file order.

        Raises:
            UsageError: the set has no such split.
        """
        return cls(dataset, dataset.indices(split))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> RealImages: ...

    def __getitem__(self, index: int | slice) -> Image.Image | RealImages:
        if isinstance(index, slice):
            return RealImages(self.dataset, self.rows[index])
        return Image.fromarray(np.array(self.dataset.images[self.rows[index]]))


@dataclass(frozen=True)
class Bundle:
    """Generated images with what they were made of.

    Attributes:
        path: the folder.
        images: N RGB images of one size, opened lazily.
        captions: N texts, white space normalised.
        rows: for each image the name of the data-set row that its caption was taken from, as the manifest
            gives it; None where it gives none.
        manifest: for each image its line of ``manifest.jsonl``; empty where the folder has no such line.
        run: the content of ``run.json``; empty where there is none.
    """

    path: Path
    images: ImageFiles
    captions: tuple[str, ...]
    rows: tuple[str | None, ...]
    manifest: tuple[dict[str, Any], ...]
    run: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path, progress: Callable[[int], None] | None = None) -> Bundle:
        """Open a folder written by ``satcascade sample``, or any of images and a ``captions.txt``.

        Captions belong to the images in the order of their file names. Names that begin with ``_`` or
        ``.`` do not count, nor do subfolders. Every image is decoded once, so that a bad one is known
        before hours of work.

        Args:
            path: the folder.
            progress: called with numbers of images checked.

        Raises:
            SatcascadeError: the folder or its captions are missing, it holds no images, not as many as
                captions, broken ones (the first is named), or images of different sizes.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise SatcascadeError(f"no folder of generated images at {folder}: 'satcascade sample' makes one")
        files = sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in SUFFIXES and entry.name[0] not in "._" and entry.is_file()
        )
        if not files:
            raise SatcascadeError(f"{folder} holds no images: give a folder that 'satcascade sample' filled")
        if not (folder / CAPTIONS).is_file():
            raise SatcascadeError(
                f"{folder} has no {CAPTIONS}: write one, a caption a line in the order of the file names"
            )
        captions = Captions.from_file(folder / CAPTIONS).texts
        if len(captions) != len(files):
            raise SatcascadeError(
                f"{folder} has {len(files)} images and {len(captions)} lines in {CAPTIONS}: there must be "
                "one caption an image (an interrupted 'satcascade sample' is finished by the same command)"
            )
        _check(files, progress)
        lines = _manifest(folder)
        manifest = tuple(lines.get(file.name, {}) for file in files)
        rows = tuple(line.get("row") for line in manifest)
        run = read_json(folder / RUN_FILE, _REMEDY) if (folder / RUN_FILE).is_file() else {}
        return cls(folder, ImageFiles(files), captions, rows, manifest, run)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def settings(self) -> dict[str, Any]:
        """What the pictures were made with, by the first manifest line or ``run.json``; may be empty."""
        line = self.manifest[0]
        return dict(line.get("settings") or self.run.get("settings") or {})

    def labels_in(self, dataset: PreparedDataset, split: str | None = None) -> list[str | None]:
        """The scene class of each caption: of its row, or that which all rows with the caption share.

        Args:
            dataset: the set.
            split: look for captions in this split alone; None in all.

        Returns:
            N labels; None where there is none, or rows of different classes have the caption.
        """
        labels = []
        for rows in self._candidates(dataset, split):
            shared = {dataset.records[row].label for row in rows}
            labels.append(shared.pop() if len(shared) == 1 else None)
        return labels

    def _candidates(self, dataset: PreparedDataset, split: str | None) -> list[list[int]]:
        by_name: dict[str, int] = {}
        by_caption: dict[str, list[int]] = {}
        for row, record in enumerate(dataset.records):
            by_name[record.filename] = row
            if split in (None, record.split):
                for caption in {" ".join(text.split()) for text in record.captions}:
                    by_caption.setdefault(caption, []).append(row)
        return [
            [by_name[name]] if name in by_name else by_caption.get(caption, [])
            for name, caption in zip(self.rows, self.captions, strict=True)
        ]


def _check(files: Sequence[Path], progress: Callable[[int], None] | None) -> None:
    """Refuse broken files and different sizes."""
    images = ImageFiles(files)
    broken: list[str] = []
    sizes: dict[tuple[int, int], Path] = {}

    def size(index: int) -> tuple[int, int] | SatcascadeError:
        try:
            return images[index].size
        except SatcascadeError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(files), _IMAGES_AT_ONCE):
            block = range(start, min(start + _IMAGES_AT_ONCE, len(files)))
            for index, result in zip(block, pool.map(size, block), strict=True):
                if isinstance(result, SatcascadeError):
                    broken.append(str(result))
                else:
                    sizes.setdefault(result, files[index])
            if progress:
                progress(len(block))
    if broken:
        more = f" (and {len(broken) - 1} more broken images)" if len(broken) > 1 else ""
        raise SatcascadeError(broken[0] + more)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise SatcascadeError(
            f"images in {first.parent} differ in size: {first.name} is {one[0]} x {one[1]}, {second.name} is "
            f"{other[0]} x {other[1]}; make them one size"
        )


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of the manifest by file name."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {line["file"]: line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, one_line(error), _REMEDY) from error


def _fault(error: Exception) -> str:
    # Pillow's message for what is no image names the path once more.
    return "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)

"""The prepared set on disk: memory-mapped images, captions, labels, splits and cached text embeddings.

::

    OUT/manifest.json        source, counts, encoder, hash; written last, so a folder without it is no set
    OUT/images.npy           uint8 (N, S, S, 3), RGB
    OUT/records.jsonl        a line an image: filename, split, label, captions and their rows in captions.txt
    OUT/captions.txt         the M distinct captions, one a line, in order of first appearance
    OUT/text_embeddings.npy  float16 (T, D): the token embeddings of all captions, one after the other
    OUT/text_offsets.npy     int64 (M + 1): caption m has the rows [offsets[m], offsets[m + 1])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from satcascade.errors import SatcascadeError, UsageError
from satcascade.formats.prepared_set import (
    CAPTIONS,
    EMBEDDINGS,
    FORMAT,
    IMAGES,
    MANIFEST,
    OFFSETS,
    RECORDS,
)
from satcascade.io.json import read_json
from satcascade.models.text import TextEmbeddings, pad_embeddings


@dataclass(frozen=True)
class Record:
    """One image of a prepared set.

    Attributes:
        filename: its name in the source, unique in the set.
        split: ``train``, ``val`` or ``test``.
        label: its scene class, or None where the source gives none.
        captions: its captions, at least one; the same text may stand there more than once.
        caption_ids: for each caption its row in ``captions.txt``.
    """

    filename: str
    split: str
    label: str | None
    captions: tuple[str, ...]
    caption_ids: tuple[int, ...]


class PreparedDataset:
    """A set written by ``satcascade prepare``, opened for reading.

    Attributes:
        path: its folder.
        manifest: the content of ``manifest.json``.
        images: uint8 (N, S, S, 3), RGB, memory-mapped and read-only.
        records: N records, in the order of ``images``.
        captions: the M distinct captions.
        embeddings: float16 (T, D), the tokens of all captions, memory-mapped and read-only.
        offsets: int64 (M + 1), where each caption's tokens begin.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        images: npt.NDArray[np.uint8],
        records: list[Record],
        captions: list[str],
        embeddings: npt.NDArray[np.float16],
        offsets: npt.NDArray[np.int64],
    ):
        self.path = path
        self.manifest = manifest
        self.images = images
        self.records = records
        self.captions = captions
        self.embeddings = embeddings
        self.offsets = offsets

    @classmethod
    def open(cls, path: str | Path) -> PreparedDataset:
        """Open a prepared folder; the images and embeddings stay on disk until they are indexed.

        Raises:
            SatcascadeError: the folder is missing, is not a prepared set, or is damaged (a file is
                missing, cut short, or does not fit the manifest).
        """
        path = Path(path)
        manifest = _manifest(path)
        for name, entry in manifest["files"].items():
            size = (path / name).stat().st_size if (path / name).is_file() else None
            if size != entry["bytes"]:
                fault = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
                raise _damaged(path, f"{name} {fault}")
        try:
            images = np.load(path / IMAGES, mmap_mode="r")
            embeddings = np.load(path / EMBEDDINGS, mmap_mode="r")
            offsets = np.load(path / OFFSETS)
            # Only \n ends a line: captions may hold other characters that str.splitlines cuts at.
            captions = (path / CAPTIONS).read_text(encoding="utf-8").split("\n")[:-1]
            records = [
                _record(line) for line in (path / RECORDS).read_text(encoding="utf-8").split("\n")[:-1]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, str(error)) from error
        size = manifest["image_size"]
        expected = [
            (IMAGES, images.shape, (manifest["images"], size, size, 3)),
            (RECORDS, (len(records),), (manifest["images"],)),
            (CAPTIONS, (len(captions),), (manifest["captions"],)),
            (OFFSETS, offsets.shape, (manifest["captions"] + 1,)),
            (EMBEDDINGS, embeddings.shape, (int(offsets[-1]), manifest["encoder"]["dim"])),
        ]
        for name, actual_shape, expected_shape in expected:
            if actual_shape != expected_shape:
                raise _damaged(path, f"{name} holds {actual_shape}, the manifest says {expected_shape}")
        return cls(path, manifest, images, records, captions, embeddings, offsets)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def hash(self) -> str:
        """SHA-256 over the content of all files but the manifest, as hexadecimal digits."""
        return str(self.manifest["hash"])

    @property
    def image_size(self) -> int:
        """Side S of the images, in pixels."""
        return int(self.manifest["image_size"])

    @property
    def splits(self) -> dict[str, int]:
        """The number of images of each split."""
        return dict(self.manifest["splits"])

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """The rows of a split, in file order, int64.

        Raises:
            UsageError: the set has no such split.
        """
        rows = np.array(
            [row for row, record in enumerate(self.records) if record.split == split], dtype=np.int64
        )
        if not len(rows):
            raise UsageError(f"no split '{split}' in {self.path}: it has {', '.join(self.splits)}")
        return rows

    def text(self, caption_ids: Sequence[int]) -> TextEmbeddings:
        """The cached embeddings of captions, given by their rows in ``captions``.

        Args:
            caption_ids: B rows.

        Returns:
            Embeddings (B, L, D) float32, padded with zeros to the longest, and their mask (B, L).
        """
        offsets = self.offsets
        return pad_embeddings(
            [
                torch.from_numpy(self.embeddings[offsets[i] : offsets[i + 1]].astype(np.float32))
                for i in caption_ids
            ]
        )


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        SatcascadeError: the folder is missing, or holds no manifest that this version reads.
    """
    if not path.is_dir():
        raise SatcascadeError(f"no prepared set at {path}: make one with 'satcascade prepare SOURCE {path}'")
    if not (path / MANIFEST).is_file():
        raise SatcascadeError(
            f"{path} is not a prepared set (it has no {MANIFEST}): make one with "
            "'satcascade prepare SOURCE OUT'"
        )
    manifest = read_json(path / MANIFEST, "delete the folder and prepare it again")
    version = manifest.get("format")
    if version != FORMAT:
        raise SatcascadeError(
            f"{path} has format {version}, this satcascade reads format {FORMAT}: prepare it again with this "
            "version"
        )
    missing = {"files", "images", "captions", "image_size", "splits", "encoder", "hash"} - manifest.keys()
    if missing:
        raise _damaged(path, f"{MANIFEST} lacks {', '.join(sorted(missing))}")
    return manifest


def _record(line: str) -> Record:
    entry = json.loads(line)
    return Record(
        entry["filename"],
        entry["split"],
        entry["label"],
        tuple(entry["captions"]),
        tuple(entry["caption_ids"]),
    )


def _damaged(path: Path, what: str) -> SatcascadeError:
    return SatcascadeError(f"prepared set {path} is damaged ({what}): delete it and prepare it again")

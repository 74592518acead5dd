"""A generated folder as a data set that others read: an image folder, or webdataset shards."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from satcascade.data.prepared import PreparedDataset
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.formats.generated_folder import MANIFEST
from satcascade.generation.provenance import read_png_text
from satcascade.io.files import atomic_write
from satcascade.io.folders import DescribedFolder
from satcascade.io.hashing import sha256_of_text

SetFormat = Literal["imagefolder", "webdataset"]
METADATA = "metadata.jsonl"
# Hidden, since readers of data sets take what they find.
_DESCRIPTION = ".satcascade-set.json"
# To `datasets`, folders and files with one of these words between separators in their names are a split.
_SPLITS = "train|training|validation|valid|dev|val|test|testing|eval|evaluation"
_SPLIT_NAME = re.compile(rf"(?:^|[-._ 0-9])(?:{_SPLITS})(?:$|[-._ 0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class PackReport:
    """What a call of :func:`pack` did.

    Attributes:
        out: the folder.
        images: of the set.
        classes: the labels, in order; empty where none is known.
        written, kept: files (images or shards) written now, and there already.
    """

    out: Path
    images: int
    classes: tuple[str, ...]
    written: int
    kept: int


@dataclass(frozen=True)
class _Row:
    """What is told of an image: a line of the metadata, or the JSON file beside it in a shard."""

    text: str
    label: str | None
    seed: int
    index: int
    row: str | None
    model: str
    model_hash: str
    notice: str

    def to_json(self) -> dict[str, str | int | None]:
        """Without a label where none is known, so that readers see no column of nothing."""
        return {key: value for key, value in asdict(self).items() if key != "label" or value is not None}


def pack(
    folder: Path,
    out: Path,
    kind: SetFormat = "imagefolder",
    data: Path | None = None,
    shard_size: int = 1000,
) -> PackReport:
    """Write a finished generated folder as a data set; the same call again writes what is missing.

    ``imagefolder``: ``metadata.jsonl`` and the images, in a folder for each label where labels are known, as
    ``datasets.load_dataset("imagefolder", data_dir=...)`` and torchvision's ``ImageFolder`` read them.
    ``webdataset``: ``00000.tar``, ``00001.tar``, ..., with ``KEY.png``, ``KEY.txt`` (the caption) and
    ``KEY.json`` of each image; the same bytes whenever and wherever they are written.

    Args:
        folder: written by ``satcascade sample``, all images there.
        out: the folder to write; missing, empty, or left by an earlier call with the same arguments.
        kind: the format.
        data: the prepared set that the captions came from, for labels.
        shard_size: images of a tar file.

    Raises:
        UsageError: the folder is no finished one, the set has not its rows, or ``out`` holds something else.
        SatcascadeError: an image is missing or broken, or the disk is full.
    """
    text = _manifest(folder)
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    labels = _labels(data, [line.get("row") for line in lines])
    files = [folder / line["file"] for line in lines]
    described = DescribedFolder(out, _DESCRIPTION, "data set written by 'satcascade pack'")
    description: dict[str, Any] = {"format": kind, "manifest": sha256_of_text(text), "labels": labels}
    if kind == "webdataset":
        description["shard_size"] = shard_size
    described.check(description)
    described.write(description)
    rows = [
        _Row(
            text=line["caption"],
            label=label,
            **{key: line.get(key) for key in ("seed", "index", "row", "model", "model_hash")},
            notice=_notice(file),
        )
        for line, label, file in zip(lines, labels, files, strict=True)
    ]
    classes = tuple(sorted({label for label in labels if label is not None}))
    if kind == "imagefolder" and len(set(map(class_folder, classes))) < len(classes):
        raise UsageError("two labels have the same folder name: use --format webdataset")
    written = (_write_folder if kind == "imagefolder" else _write_shards)(out, files, rows, shard_size)
    new = list(written)
    return PackReport(out, len(rows), classes, sum(new), len(new) - sum(new))


def _manifest(folder: Path) -> str:
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: 'satcascade sample' makes one")
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} is no finished run of 'satcascade sample' (it has no {MANIFEST}): run that command "
            "to its end"
        ) from error


def _labels(data: Path | None, rows: Sequence[str | None]) -> list[str | None]:
    """The label of each image, by the row that its caption is of."""
    if data is None:
        return [None] * len(rows)
    known = {record.filename: record.label for record in PreparedDataset.open(data).records}
    for row in rows:
        if row is None or row not in known:
            lacking = "captions that are of no set" if row is None else f"row {row}, which {data} has not"
            raise UsageError(
                f"the images are of {lacking}: leave --data out, or give the set they were made of"
            )
        if known[row] is None:
            raise UsageError(f"{data} gives {row} no label: leave --data out")
    return [known[row] for row in rows if row is not None]


def _notice(file: Path) -> str:
    try:
        return read_png_text(file)["Notice"]
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise SatcascadeError(
            f"{file} is missing or broken ({one_line(error)}): run the same 'satcascade sample' again"
        ) from error


def _write_folder(out: Path, files: Sequence[Path], rows: Sequence[_Row], _: int) -> Iterator[bool]:
    """Write the image folder; for each image whether it was not there yet."""
    lines = []
    for file, row in zip(files, rows, strict=True):
        # A number: words of the caption in a name might be taken for a split.
        name = f"{row.index:08d}.png"
        if row.label is not None:
            name = f"{class_folder(row.label)}/{name}"
        place = out / name
        lines.append(json.dumps({"file_name": name, **row.to_json()}, ensure_ascii=False))
        new = not place.is_file() or place.stat().st_size != file.stat().st_size
        if new:
            with atomic_write(place) as aside:
                shutil.copyfile(file, aside)
        yield new
    with atomic_write(out / METADATA) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def class_folder(label: str) -> str:
    """The folder of a label: letters, digits, ``-`` and ``_``; never one that would be taken for a split."""
    name = re.sub(r"[^\w-]+", "_", label).strip("_") or "_"
    return "class" + re.sub(r"[-_]", "", name) if _SPLIT_NAME.search(name) else name


def _write_shards(out: Path, files: Sequence[Path], rows: Sequence[_Row], shard_size: int) -> Iterator[bool]:
    """Write the tar files; for each whether it was not there yet."""
    for shard, start in enumerate(range(0, len(files), shard_size)):
        place = out / f"{shard:05d}.tar"
        new = not place.is_file()
        if new:
            with (
                atomic_write(place) as aside,
                tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as archive,
            ):
                for file, row in zip(files[start : start + shard_size], rows[start:], strict=False):
                    key = f"{row.index:08d}"
                    content = json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True)
                    _add(archive, f"{key}.png", file.read_bytes())
                    _add(archive, f"{key}.txt", row.text.encode())
                    _add(archive, f"{key}.json", content.encode())
        yield new


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with neither time nor owner."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(content))

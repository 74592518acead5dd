"""What ``satcascade evaluate`` leaves in its folder, as it is read again, and the tables of a sweep.

::

    REPORT/metrics.json         one flat object of numbers
    REPORT/details.json         everything else (:class:`Details`)
    REPORT/thumbnails/F.jpg     each generated image F, small
    REPORT/memorisation.png     the generated images that are nearest to a training image, beside it
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from satcascade.errors import SatcascadeError, one_line
from satcascade.formats.report import DETAILS, METRICS, THUMBNAILS
from satcascade.io.files import atomic_write
from satcascade.io.json import damaged, read_json

_REMEDY = "run 'satcascade evaluate' again"


class Nearest(BaseModel):
    """The training images nearest to a generated one, by each measure another perhaps.

    Each is given by its row's name in the data set; None where it was not measured. Reports of earlier
    versions have the row of the similarity alone, as ``row``, and do not say whose hash distance theirs is.

    Attributes:
        similarity_row: of the highest similarity.
        similarity: cosine of the low frequencies of brightness, over the eight symmetries, -1 to 1.
        hash_row: of the least hash distance.
        hash_distance: differing bits of the perceptual hashes, of 64, over the eight symmetries.
        feature_row: of the least feature distance.
        feature_distance: Euclidean distance of network features.
    """

    similarity_row: str | None = Field(default=None, validation_alias=AliasChoices("similarity_row", "row"))
    similarity: float | None = None
    hash_row: str | None = None
    hash_distance: int | None = None
    feature_row: str | None = None
    feature_distance: float | None = None


class GeneratedImage(BaseModel):
    """One generated image and what was measured of it; None where it was not measured.

    Attributes:
        file: its name in the bundle.
        caption: what it was made of.
        label: scene class of the caption's row.
        predicted: scene class by the probe.
        confidence: the probe's probability of the class that was asked for.
        clip_score: cosine with its caption.
        nearest: training images.
    """

    file: str
    caption: str
    label: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    clip_score: float | None = None
    nearest: Nearest | None = None


class ClassResult(BaseModel):
    """Measures of the images of one scene class: how many there are, share recognised, mean CLIP-score."""

    n: int
    accuracy: float | None = None
    clip_score: float | None = None


class Details(BaseModel):
    """The content of ``details.json``; what was not measured is missing or empty.

    Attributes:
        name: of the model or bundle.
        bundle: name of the folder of generated images.
        data: what it was compared with (source, split, hash).
        settings: of sampling, nested.
        versions: of libraries.
        timings: ``sampling_seconds_per_image``, and seconds of each measure.
        classes: names, in the order of ``confusion``.
        per_class: by name.
        confusion: counts, a row for each class asked for, a column for each class predicted.
        images: in the order of the bundle.
        notes: warnings, each a sentence.
    """

    name: str
    bundle: str = ""
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    timings: dict[str, float] = {}
    classes: list[str] = []
    per_class: dict[str, ClassResult] = {}
    confusion: list[list[int]] = []
    images: list[GeneratedImage] = []
    notes: list[str] = []


@dataclass(frozen=True)
class Report:
    """One evaluated bundle.

    Attributes:
        folder: where it was read.
        metrics: numbers by key.
        details: the rest.
    """

    folder: Path
    metrics: dict[str, float]
    details: Details

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """Read a folder that ``satcascade evaluate`` wrote.

        Raises:
            SatcascadeError: it is missing, or one of its two JSON files is missing or damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SatcascadeError(f"no report at {folder}: 'satcascade evaluate' makes one")
        metrics = _json(folder / METRICS)
        for key, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _damaged(folder / METRICS, f"{key} is no number")
        try:
            details = Details.model_validate(_json(folder / DETAILS))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise _damaged(folder / DETAILS, f"{place}: {first['msg']}") from error
        size = len(details.classes)
        if details.confusion and [len(row) for row in details.confusion] != [size] * size:
            raise _damaged(folder / DETAILS, f"confusion is not {size} rows of {size}, as there are classes")
        return cls(folder, metrics, details)

    def thumbnail(self, file: str) -> Path:
        """Where the small copy of a generated image is, whether it exists or not."""
        return thumbnail_path(self.folder, file)


def thumbnail_path(folder: Path, file: str) -> Path:
    """Where a report keeps the small copy of the generated image ``file``."""
    return Path(folder) / THUMBNAILS / f"{Path(file).name}.jpg"


@dataclass(frozen=True)
class Sweep:
    """The table of ``satcascade sweep``: a row for each setting.

    Attributes:
        name: of its file, without suffix.
        columns: as in the file.
        rows: texts by column.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    @classmethod
    def read(cls, path: str | Path) -> Sweep:
        """Read a TSV file with one line of column names.

        Raises:
            SatcascadeError: it is missing, no text, empty, or a row has more or fewer fields than columns.
        """
        path = Path(path)
        try:
            lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        except FileNotFoundError as error:
            raise SatcascadeError(f"no table at {path}: 'satcascade sweep' makes one") from error
        except (OSError, ValueError, csv.Error) as error:
            raise SatcascadeError(
                f"{path} cannot be read as a table ({one_line(error)}): give a TSV of 'satcascade sweep'"
            ) from error
        header, *rows = [line for line in lines if line] or [[]]
        if not rows:
            raise SatcascadeError(f"{path} has no rows: 'satcascade sweep' fills it")
        for number, row in enumerate(rows, 1):
            if len(row) != len(header):
                raise SatcascadeError(
                    f"{path}: row {number} has {len(row)} fields for {len(header)} columns: remove it and "
                    "run 'satcascade sweep' again"
                )
        return cls(path.stem, tuple(header), tuple(dict(zip(header, row, strict=True)) for row in rows))

    def write(self, path: str | Path) -> None:
        """Write the file that :meth:`read` reads; it appears whole.

        Raises:
            SatcascadeError: the disk is full.
        """
        lines = [self.columns, *([row[column] for column in self.columns] for row in self.rows)]
        with atomic_write(Path(path)) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(lines)


def _json(path: Path) -> dict[str, Any]:
    missing = SatcascadeError(f"{path.parent} is no report (no {path.name}): 'satcascade evaluate' makes one")
    return read_json(path, _REMEDY, missing)


def _damaged(path: Path, fault: str) -> SatcascadeError:
    return damaged(path, fault, _REMEDY)

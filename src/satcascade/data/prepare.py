"""From a captioned image set to a prepared one: decoded images, distinct captions and their embeddings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satcascade.data.array_file import array_header
from satcascade.data.caption_cache import write_caption_embeddings
from satcascade.data.decode import decode_image
from satcascade.data.prepared import PreparedDataset
from satcascade.data.raster import RasterOptions, RasterReader, quiet_rasters
from satcascade.data.sources import open_source
from satcascade.data.sources.sample import (
    SPLITS,
    Problem,
    Sample,
    Source,
    check_samples,
    describe,
    normal_split,
    split_counts,
)
from satcascade.errors import SatcascadeError, UsageError
from satcascade.formats.prepared_set import (
    CAPTIONS,
    CONTENT_FILES,
    FORMAT,
    IMAGES,
    MANIFEST,
    RECORDS,
    WORKPLACE,
)
from satcascade.io.files import full_disk_refused
from satcascade.io.folders import DescribedFolder, Difference
from satcascade.io.hashing import sha256_of_file
from satcascade.io.progress import ProgressDisplay
from satcascade.models.text import load_text_encoder

_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class PreparationReport:
    """What ``prepare`` did.

    Attributes:
        out: the prepared folder.
        kind: the reader that fitted the source.
        images: number N of images.
        captions: number M of distinct captions.
        splits: images of each split.
        labels: images of each scene class; empty where the source gives none.
        skipped: what was left out under ``skip_bad``.
        hash: SHA-256 over the content of the set.
        already_there: OUT held this very set, nothing was done.
    """

    out: Path
    kind: str
    images: int
    captions: int
    splits: dict[str, int]
    labels: dict[str, int]
    skipped: tuple[Problem, ...]
    hash: str
    already_there: bool

    def summary(self) -> str:
        """The report as a few lines of text."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        classes = f", {len(self.labels)} classes" if self.labels else ""
        lines = [f"{self.images} images ({splits}), {self.captions} distinct captions{classes} in {self.out}"]
        if self.already_there:
            lines.insert(0, "already prepared with these settings, nothing to do")
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)}:\n{describe(self.skipped)}")
        return "\n".join(lines)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    image_size: int = 256,
    encoder: str = "minilm",
    skip_bad: bool = False,
    progress: bool = True,
    kind: str | None = None,
    split: str = "train",
    raster: RasterOptions | None = None,
    caption_template: str | None = None,
) -> PreparationReport:
    """Prepare a captioned image set for training.

    Images are decoded to RGB, cropped at the centre to a square if they are none, and resized with
    Pillow's bicubic filter. Every distinct caption is embedded once.

    Args:
        source: a folder or annotation file (see ``satcascade.data.sources``), or ``owner/name`` on the Hub.
        out: the folder to write; missing, empty, or left by an interrupted ``prepare``.
        image_size: side S of the images in pixels.
        encoder: the text encoder, as ``load_text_encoder`` takes it.
        skip_bad: leave bad rows out, and report them, instead of refusing the source.
        progress: show a progress bar on the error stream.
        kind: the reader to use; by default the one that fits.
        split: the split of rows to which the source gives none.
        raster: how GeoTIFF and other tiles of many bands or more than 8 bits become RGB.
        caption_template: the caption of images that have a label and no caption, such as
            ``a satellite image of {label}``; folders without any captions are then taken as classes.

    Raises:
        UsageError: an argument is out of its range, or the bands asked for are not in the images.
        SatcascadeError: the source is missing or bad (all its problems in one report, and nothing is
            written); OUT holds something else; the encoder cannot be had; rasterio is needed and missing;
            the disk is full.
    """
    if image_size < 1:
        raise UsageError(f"image size {image_size} is not possible: give the side in pixels, 1 or more")
    if normal_split(split) is None:
        raise UsageError(f"unknown split '{split}': choose from {', '.join(SPLITS)}")
    out = Path(out)
    rasters = RasterReader(raster or RasterOptions())
    opened = open_source(source, kind, split, caption_template)
    good, problems = check_samples(opened.samples)
    problems = opened.problems + problems
    text_encoder = load_text_encoder(encoder)
    settings = {
        "source": opened.name,
        "kind": opened.kind,
        "image_size": image_size,
        "raster": rasters.options.manifest,
        "encoder": {
            "name": text_encoder.name,
            "dim": text_encoder.dim,
            "fingerprint": text_encoder.fingerprint,
        },
        "source_hash": _source_hash(opened),
    }
    if caption_template is not None:
        settings["caption_template"] = caption_template
    folder = DescribedFolder(out, MANIFEST, "prepared set", _words, "use another folder, or delete it")
    if _already_there(folder, settings):
        return _report(out, folder.read(), already_there=True)

    with _workplace(folder) as work, ProgressDisplay(progress) as display, quiet_rasters():
        _fit(rasters, good, display)
        keep = skip_bad or not problems
        good, broken = _write_images(good, work / IMAGES, image_size, rasters, display, keep)
        problems += broken
        if problems and not skip_bad:
            raise SatcascadeError(
                f"{opened.name} has {len(problems)} bad entries, nothing was written: mend them, or leave "
                f"them out with --skip-bad\n{describe(problems)}"
            )
        if not good:
            raise SatcascadeError(f"{opened.name} holds no usable captioned image, nothing was written")
        captions = _write_records(good, work)
        write_caption_embeddings(captions, text_encoder, work, display)
        manifest = {
            "format": FORMAT,
            **settings,
            "stretched": {str(count): ranges.tolist() for count, ranges in rasters.ranges.items()},
            "images": len(good),
            "captions": len(captions),
            "splits": split_counts(good),
            "labels": _label_counts(good),
            "skipped": [{"kind": each.kind, "name": each.name, "detail": each.detail} for each in problems],
            **_content(work, rasters.options),
        }
        for name in CONTENT_FILES:
            (work / name).replace(out / name)
        folder.write(manifest, indent=2)
    return _report(out, manifest, already_there=False)


def _fit(rasters: RasterReader, samples: Sequence[Sample], display: ProgressDisplay) -> None:
    """Check that the choice of bands fits the first tile, and measure the range of the set's values."""

    def read(sample: Sample) -> bytes:
        try:
            return sample.encoded()
        except OSError:
            return b""  # named when the images are decoded

    def pixels(sample: Sample) -> Any:
        return rasters.pixels(read(sample), len(samples))

    for sample in samples:
        if rasters.reads(encoded := read(sample)):
            rasters.check(encoded, sample.filename)
            break
    else:
        return
    if rasters.options.per_image:
        return
    task = display.task("values", len(samples))
    values = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(samples), _IMAGES_AT_ONCE):
            block = samples[start : start + _IMAGES_AT_ONCE]
            values += [each for each in pool.map(pixels, block) if each is not None]
            task.advance(len(block))
    rasters.fit(values)


def _write_images(
    samples: Sequence[Sample],
    path: Path,
    size: int,
    rasters: RasterReader,
    display: ProgressDisplay,
    keep: bool,
) -> tuple[list[Sample], list[Problem]]:
    """Decode and resize all images into an array file; the samples that decoded, and the others.

    With ``keep`` False they are decoded for the sake of the report alone, and not stored.
    """
    good: list[Sample] = []
    problems: list[Problem] = []
    task = display.task("images", len(samples))

    def load(sample: Sample) -> npt.NDArray[np.uint8] | str:
        try:
            return decode_image(sample.encoded(), size, rasters)
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__

    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        file.write(array_header(np.uint8, (0, size, size, 3)))
        for start in range(0, len(samples), _IMAGES_AT_ONCE):
            block = samples[start : start + _IMAGES_AT_ONCE]
            for sample, image in zip(block, pool.map(load, block), strict=True):
                if isinstance(image, str):
                    problems.append(Problem("broken image", sample.filename, image))
                    continue
                good.append(sample)
                if keep:
                    file.write(image.data)
            task.advance(len(block))
        file.seek(0)
        file.write(array_header(np.uint8, (len(good), size, size, 3)))
    return good, problems


def _write_records(samples: Sequence[Sample], work: Path) -> list[str]:
    """Write the records and the distinct captions; return the latter."""
    rows: dict[str, int] = {}
    with (work / RECORDS).open("w", encoding="utf-8") as file:
        for sample in samples:
            record = {
                "filename": sample.filename,
                "split": sample.split,
                "label": sample.label,
                "captions": sample.captions,
                "caption_ids": [rows.setdefault(caption, len(rows)) for caption in sample.captions],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    with (work / CAPTIONS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(caption + "\n" for caption in rows)
    return list(rows)


def _content(work: Path, raster: RasterOptions) -> dict[str, Any]:
    """Size and SHA-256 of each file, flushed to disk, and one hash over them all and the raster options."""
    files: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    # Sets that were prepared without them keep their hash.
    if raster != RasterOptions():
        digest.update(json.dumps(raster.manifest).encode())
    for name in CONTENT_FILES:
        with (work / name).open("rb") as file:
            os.fsync(file.fileno())
        files[name] = {"bytes": (work / name).stat().st_size, "sha256": sha256_of_file(work / name)}
        digest.update(f"{name} {files[name]['sha256']}\n".encode())
    return {"files": files, "hash": digest.hexdigest()}


def _source_hash(source: Source) -> str:
    """SHA-256 over the annotations and the sizes of the image files: whether it is the same source still."""
    digest = hashlib.sha256()
    for sample in source.samples:
        size = (
            sample.image.stat().st_size if isinstance(sample.image, Path) and sample.image.is_file() else None
        )
        row = [sample.filename, sample.split, sample.label, sample.captions, size]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _label_counts(samples: Sequence[Sample]) -> dict[str, int]:
    return dict(sorted(Counter(sample.label for sample in samples if sample.label is not None).items()))


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a set this one and no other, of its settings or its manifest."""
    return {
        "caption template": settings.get("caption_template"),
        "kind": settings["kind"],
        "image size": settings["image_size"],
        # Sets of earlier versions have no raster options.
        "raster": settings.get("raster", RasterOptions().manifest),
        "encoder": settings["encoder"]["name"],
        "encoder weights": settings["encoder"]["fingerprint"],
        # The path does not count: the same set may be reached by another one.
        "source": settings["source_hash"],
    }


def _words(difference: Difference) -> str:
    if difference.name == "source":
        return "its source had other rows or images"
    if difference.name == "encoder weights":
        return "its encoder had other weights"
    name = difference.name.removeprefix("raster.").replace("_", " ")
    return f"{name} {difference.before} there, {difference.now} asked for"


def _already_there(folder: DescribedFolder, settings: dict[str, Any]) -> bool:
    """Whether the folder holds the set these settings make.

    Raises:
        SatcascadeError: it holds another set, or a damaged one.
    """
    if not folder.described:
        return False
    PreparedDataset.open(folder.path)
    folder.check(_compared(settings), _compared)
    # A run killed between its last two steps left the empty workplace.
    shutil.rmtree(folder.path / WORKPLACE, ignore_errors=True)
    return True


@contextmanager
def _workplace(folder: DescribedFolder) -> Iterator[Path]:
    """A folder inside the set's to make files in; gone in the end, and all as it was if anything fails.

    Raises:
        SatcascadeError: the set's folder holds files that no interrupted ``prepare`` left, cannot be written
            to, or the disk is full.
    """
    out, work = folder.path, folder.path / WORKPLACE
    folder.check_new(CONTENT_FILES if work.is_dir() else ())
    created = [each for each in (out, *out.parents) if not each.exists()]
    try:
        shutil.rmtree(work, ignore_errors=True)
        with full_disk_refused(out):
            work.mkdir(parents=True)
            yield work
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        # What cannot be removed must not hide the error that brought us here.
        with suppress(OSError):
            for name in CONTENT_FILES:
                (out / name).unlink(missing_ok=True)
            for each in filter(Path.is_dir, created):
                each.rmdir()
        if isinstance(error, OSError):
            raise SatcascadeError(f"{out} cannot be written to ({error.strerror or error})") from error
        raise
    shutil.rmtree(work)


def _report(out: Path, manifest: dict[str, Any], already_there: bool) -> PreparationReport:
    return PreparationReport(
        out=out,
        kind=manifest["kind"],
        images=manifest["images"],
        captions=manifest["captions"],
        splits=manifest["splits"],
        labels=manifest["labels"],
        skipped=tuple(Problem(**entry) for entry in manifest["skipped"]),
        hash=manifest["hash"],
        already_there=already_there,
    )

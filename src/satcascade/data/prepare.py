"""From a captioned image set to a prepared one: decoded images, distinct captions and their embeddings."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satcascade.data.prepared import (
    CAPTIONS,
    CONTENT_FILES,
    EMBEDDINGS,
    FORMAT,
    IMAGES,
    MANIFEST,
    OFFSETS,
    RECORDS,
    PreparedDataset,
    read_manifest,
)
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
from satcascade.io.files import full_disk_refused, sha256_of_file, written_whole
from satcascade.models.text import CaptionTruncatedWarning, TextEncoder, load_text_encoder

# All files are made in this folder inside OUT; it stands until the manifest does, so that what a killed
# run left is known for what it is.
WORKPLACE = ".preparing"
_IMAGES_AT_ONCE = 256
_CAPTIONS_AT_ONCE = 64
# Captions are sorted by length within blocks of this many: little padding, little memory.
_CAPTION_BLOCK = 4096


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
    opened = open_source(source, kind, split)
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
    if _already_there(out, settings):
        return _report(out, read_manifest(out), already_there=True)

    with _workplace(out) as work, _bar(progress) as bar, quiet_rasters():
        _fit(rasters, good, bar)
        keep = skip_bad or not problems
        good, broken = _write_images(good, work / IMAGES, image_size, rasters, bar, keep)
        problems += broken
        if problems and not skip_bad:
            raise SatcascadeError(
                f"{opened.name} has {len(problems)} bad entries, nothing was written: mend them, or leave "
                f"them out with --skip-bad\n{describe(problems)}"
            )
        if not good:
            raise SatcascadeError(f"{opened.name} holds no usable captioned image, nothing was written")
        captions = _write_records(good, work)
        _write_embeddings(captions, text_encoder, work, bar)
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
        with written_whole(out / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _report(out, manifest, already_there=False)


def decode_image(encoded: bytes, size: int, rasters: RasterReader | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image file, whole, to RGB, crop it at the centre to a square, and resize it.

    Args:
        encoded: the bytes of the file.
        size: side S of the result in pixels.
        rasters: reads what is not 8 bits of one or three channels.

    Returns:
        uint8 (S, S, 3).

    Raises:
        ValueError: the bytes are no image, are cut short, or are not to be shown.
        SatcascadeError: rasterio is needed and not installed.
    """
    rasters = rasters or RasterReader(RasterOptions())
    if rasters.reads(encoded):
        return _resized(rasters.rgb(encoded), size)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"mode {image.mode}, not 8 bits a channel")
            rgb = image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        # Its message may name the memory the bytes were read from, which tells nobody anything.
        raise ValueError(
            "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        ) from error
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    if rgb.width != rgb.height:
        rgb = rgb.crop((left, top, left + side, top + side))
    return _resized(rgb, size)


def _resized(square: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square)


def _fit(rasters: RasterReader, samples: Sequence[Sample], bar: Progress) -> None:
    """Check that the choice of bands fits the first tile, and measure the range of the set's values."""
    task = bar.add_task("values", total=len(samples), visible=False)

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
    bar.update(task, visible=True)
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(samples), _IMAGES_AT_ONCE):
            block = samples[start : start + _IMAGES_AT_ONCE]
            found += [each for each in pool.map(pixels, block) if each is not None]
            bar.advance(task, len(block))
    rasters.fit(found)


def _write_images(
    samples: Sequence[Sample], path: Path, size: int, rasters: RasterReader, bar: Progress, keep: bool
) -> tuple[list[Sample], list[Problem]]:
    """Decode and resize all images into an array file; the samples that decoded, and the others.

    With ``keep`` False they are decoded for the sake of the report alone, and not stored.
    """
    good: list[Sample] = []
    problems: list[Problem] = []
    task = bar.add_task("images", total=len(samples))

    def load(sample: Sample) -> npt.NDArray[np.uint8] | str:
        try:
            return decode_image(sample.encoded(), size, rasters)
        except (OSError, ValueError) as error:
            return str(error) or type(error).__name__

    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        _write_array_header(file, np.uint8, (0, size, size, 3))
        for start in range(0, len(samples), _IMAGES_AT_ONCE):
            block = samples[start : start + _IMAGES_AT_ONCE]
            for sample, image in zip(block, pool.map(load, block), strict=True):
                if isinstance(image, str):
                    problems.append(Problem("broken image", sample.filename, image))
                    continue
                good.append(sample)
                if keep:
                    file.write(image.data)
            bar.advance(task, len(block))
        file.seek(0)
        _write_array_header(file, np.uint8, (len(good), size, size, 3))
    return good, problems


def _write_array_header(file: BinaryIO, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    # NumPy leaves room for the first axis to grow, so the header for another count is as long.
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


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


def _write_embeddings(captions: Sequence[str], encoder: TextEncoder, work: Path, bar: Progress) -> None:
    """Embed the captions and write their tokens one caption after the other, with the offsets."""
    lengths: list[int] = []
    task = bar.add_task("captions", total=len(captions))
    with (work / EMBEDDINGS).open("wb") as file, warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always", CaptionTruncatedWarning)
        _write_array_header(file, np.float16, (0, encoder.dim))
        for start in range(0, len(captions), _CAPTION_BLOCK):
            block = captions[start : start + _CAPTION_BLOCK]
            by_length = sorted(range(len(block)), key=lambda i: len(block[i]))
            embedded: dict[int, npt.NDArray[np.float16]] = {}
            for first in range(0, len(block), _CAPTIONS_AT_ONCE):
                chosen = by_length[first : first + _CAPTIONS_AT_ONCE]
                batch = encoder([block[i] for i in chosen])
                for i, tokens, mask in zip(chosen, batch.embeddings, batch.mask, strict=True):
                    embedded[i] = tokens[mask].half().numpy()
                bar.advance(task, len(chosen))
            for i in range(len(block)):
                file.write(embedded[i].data)
                lengths.append(len(embedded[i]))
        file.seek(0)
        _write_array_header(file, np.float16, (sum(lengths), encoder.dim))
    for warning in cut[:1]:
        warnings.warn(warning.message, stacklevel=3)
    np.save(work / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


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


def _already_there(out: Path, settings: dict[str, Any]) -> bool:
    """Whether OUT holds the set these settings make.

    Raises:
        SatcascadeError: OUT holds another set, or a damaged one.
    """
    if not (out / MANIFEST).is_file():
        return False
    manifest = PreparedDataset.open(out).manifest
    # The path does not count: the same set may be reached by another one.
    for key in ("kind", "image_size", "raster", "encoder", "source_hash"):
        # Sets of earlier versions have no raster options.
        default = RasterOptions().manifest if key == "raster" else None
        there, asked = manifest.get(key, default), settings[key]
        if there != asked:
            raise SatcascadeError(
                f"{out} holds a set prepared otherwise ({_difference(key, there, asked)}): "
                "use another folder, or delete it"
            )
    # A run killed between its last two steps left the empty workplace.
    shutil.rmtree(out / WORKPLACE, ignore_errors=True)
    return True


def _difference(key: str, there: Any, asked: Any) -> str:
    if key == "source_hash":
        return "its source had other rows or images"
    if key == "encoder" and isinstance(there, dict):
        if there["name"] == asked["name"]:
            return f"encoder {asked['name']} had other weights"
        there, asked = there["name"], asked["name"]
    if key == "raster":
        key = next(option for option in asked if there.get(option) != asked[option])
        there, asked = there.get(key), asked[key]
    return f"{key.replace('_', ' ')} {there} there, {asked} asked for"


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder inside OUT to make files in; gone in the end, and OUT as it was if anything fails.

    Raises:
        SatcascadeError: OUT holds files that no interrupted ``prepare`` left, cannot be written to, or
            the disk is full.
    """
    work = out / WORKPLACE
    ours = {WORKPLACE, *CONTENT_FILES, f".{MANIFEST}.part"}
    if out.exists() and not out.is_dir():
        raise SatcascadeError(f"{out} is a file: give a folder to write the prepared set to")
    entries = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if entries and (WORKPLACE not in entries or entries - ours):
        raise SatcascadeError(f"{out} is not empty and holds no prepared set: give another folder")
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
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
            for folder in filter(Path.is_dir, created):
                folder.rmdir()
        if isinstance(error, OSError):
            raise SatcascadeError(f"{out} cannot be written to ({error.strerror or error})") from error
        raise
    shutil.rmtree(work)


@contextmanager
def _bar(shown: bool) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        yield bar


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

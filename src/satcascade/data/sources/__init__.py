"""Readers of captioned image sets, one a layout; ``open_source`` picks the one that fits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from satcascade.data.sources.caption_files import has_caption_files
from satcascade.data.sources.hub import read_hub
from satcascade.data.sources.image_files import list_images
from satcascade.data.sources.imagefolder import find_tables, read_imagefolder
from satcascade.data.sources.karpathy import find_annotations, is_rsicd, read_rsicd, read_ucm
from satcascade.data.sources.rsicd_csv import is_rsicd_csv, read_rsicd_csv
from satcascade.data.sources.sample import Source
from satcascade.data.sources.sentences import captioned, check_template
from satcascade.errors import SatcascadeError, UsageError

KINDS = ("rsicd", "rsicd-csv", "ucm", "imagefolder", "hub")


def open_source(
    source: str | Path,
    kind: str | None = None,
    split: str = "train",
    caption_template: str | None = None,
) -> Source:
    """Read a captioned image set, all but its pixels.

    Args:
        source: a folder, one of its annotation files, or ``owner/name`` on the Hub.
        kind: one of ``KINDS``; by default what the source looks like.
        split: the split of rows to which the source gives none.
        caption_template: the caption of images that have a label and no caption, with ``{label}`` where the
            label is to stand (as words: ``SparseResidential`` becomes sparse residential). In a folder
            without any captions the folders' names are the labels.

    Raises:
        UsageError: no such kind, or a template with another field.
        SatcascadeError: there is nothing at ``source``, or nothing that a reader fits; or it is
            a captioned set that cannot be read.
    """
    if caption_template is not None:
        check_template(caption_template)
    path, captionless = Path(source).expanduser(), caption_template is not None
    if kind is None:
        kind = _kind_of(path, str(source), captionless)
    if kind not in KINDS:
        raise UsageError(f"unknown kind of data set '{kind}': choose from {', '.join(KINDS)}")
    if kind != "hub" and not path.exists():
        raise SatcascadeError(f"there is nothing at {source}: give the folder of a captioned image set")
    readers: dict[str, Callable[[], Source]] = {
        "rsicd": lambda: read_rsicd(*_annotations(path)),
        "ucm": lambda: read_ucm(*_annotations(path)),
        "rsicd-csv": lambda: read_rsicd_csv(_rsicd_table(path), split, captionless),
        "imagefolder": lambda: read_imagefolder(path if path.is_dir() else path.parent, split, captionless),
        "hub": lambda: read_hub(str(source), captionless),
    }
    opened = readers[kind]()
    samples = opened.samples
    if caption_template is not None:
        samples = [captioned(sample, caption_template) for sample in samples]
    return dataclasses.replace(opened, name=str(source), samples=samples)


def _kind_of(path: Path, source: str, captionless: bool) -> str:
    if not path.exists():
        owner = re.fullmatch(r"([\w-][\w.-]*)/[\w.-]+", source)
        # A mistyped path in a folder that is here is not worth asking the Hub about.
        if owner and not Path(owner[1]).exists():
            return "hub"
        raise SatcascadeError(f"there is nothing at {source}: give the folder of a captioned image set")
    annotations = find_annotations(path)
    if annotations:
        return "rsicd" if is_rsicd(annotations) else "ucm"
    if path.is_file():
        if path.suffix == ".csv" and is_rsicd_csv(path):
            return "rsicd-csv"
        if path.suffix in (".csv", ".tsv", ".jsonl", ".txt"):
            return "imagefolder"
    elif find_tables(path):
        return "imagefolder"
    elif any(map(is_rsicd_csv, path.glob("*.csv"))):
        return "rsicd-csv"
    elif not list_images(path):
        raise SatcascadeError(f"no images in {path}: give the folder of a captioned image set")
    elif captionless or has_caption_files(path):
        return "imagefolder"
    raise SatcascadeError(
        f"no captions in {path}: it needs a dataset_rsicd.json, dataset.json, metadata.jsonl, metadata.csv, "
        "captions.csv or captions.txt, a text file beside each image, or class folders and --caption-template"
    )


def _annotations(path: Path) -> tuple[Path, Path]:
    annotations = find_annotations(path)
    if annotations is None:
        raise SatcascadeError(f"no captions in {path}: it has no dataset_*.json in Karpathy's caption layout")
    return annotations.parent, annotations


def _rsicd_table(path: Path) -> Path:
    if path.is_file():
        return path
    tables = sorted(filter(is_rsicd_csv, path.glob("*.csv")))
    if not tables:
        raise SatcascadeError(
            f"no captions in {path}: it has no CSV file with the columns filename and sent1"
        )
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise SatcascadeError(
            f"several tables of captions in {path} ({names}): give one of them as the source"
        )
    return tables[0]

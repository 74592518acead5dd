"""RSICD as one table."""

from __future__ import annotations

from pathlib import Path

from satcascade.data.sources.image_files import find_images
from satcascade.data.sources.karpathy import rsicd_label
from satcascade.data.sources.sample import Problem, Sample, Source
from satcascade.data.sources.tables import (
    captions_of,
    header,
    read_rows,
    require_captions,
    require_column,
    text_in,
)


def read_rsicd_csv(table: Path, split: str) -> Source:
    """RSICD, the Remote Sensing Image Captioning Dataset, in its CSV form.

    Format: one CSV file with the columns ``filename, split, imgid, sent1, ..., sent5, label``, beside a
    folder of the images (``RSICD_images``, ``images`` or ``imgs``) or among them. The images, splits,
    size and citation are those of ``read_rsicd``.

    Labels: the ``label`` column; where it is empty or missing, the class in front of the number in the
    file name, as in ``airport_1.jpg``.

    Args:
        table: the CSV file.
        split: the split of rows that name none.

    Raises:
        SatcascadeError: the table cannot be read or lacks its columns, or there is no folder of images.
    """
    rows, problems = read_rows(table)
    require_column(table, rows, "filename")
    require_captions(table, rows)
    names = [text_in(row, "filename") for row in rows]
    images = find_images(table.parent, names)
    samples = []
    for number, (name, row) in enumerate(zip(names, rows, strict=True), start=1):
        if not name:
            problems.append(Problem("row without file name", f"row {number} of {table.name}"))
            continue
        samples.append(
            Sample(
                filename=name,
                split=text_in(row, "split") or split,
                label=text_in(row, "label") or rsicd_label(name),
                captions=captions_of(row),
                image=images / name,
            )
        )
    return Source(str(table), "rsicd-csv", samples, problems)


def is_rsicd_csv(table: Path) -> bool:
    """Whether a CSV file has RSICD's columns."""
    return {"filename", "sent1"} <= set(header(table))

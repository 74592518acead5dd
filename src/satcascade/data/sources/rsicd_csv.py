"""RSICD as one table."""

from __future__ import annotations

from pathlib import Path

from satcascade.data.sources.image_files import find_images, locate_image, name_in, require_inside
from satcascade.data.sources.karpathy import rsicd_label
from satcascade.data.sources.sample import Problem, Sample, Source
from satcascade.data.sources.tables import captions_of, header, read_table, text_in


def read_rsicd_csv(table: Path, split: str, captionless: bool = False) -> Source:
    """RSICD, the Remote Sensing Image Captioning Dataset, in its CSV form.

    Format: one CSV file with the columns ``filename, split, imgid, sent1, ..., sent5, label``, beside a
    folder of the images (``RSICD_images``, ``images`` or ``imgs``) or among them. The images, splits,
    size and citation are those of ``read_rsicd``.

    Labels: the ``label`` column; where it is empty or missing, the class in front of the number in the
    file name, as in ``airport_1.jpg``.

    Args:
        table: the CSV file.
        split: the split of rows that name none.
        captionless: whether a table without captions will do.

    Raises:
        SatcascadeError: the table cannot be read or lacks its columns, or there is no folder of images.
    """
    folder = table.parent
    require_inside(folder, table)
    content = read_table(table)
    content.require_column("filename")
    if not captionless:
        content.require_captions()
    problems = list(content.problems)
    names = [text_in(row, "filename") for row in content.rows]
    images = find_images(folder, names)
    samples = []
    for number, (name, row) in enumerate(zip(names, content.rows, strict=True), start=1):
        if not name:
            problems.append(Problem("row without file name", f"row {number} of {table.name}"))
            continue
        image = locate_image(folder, images, name)
        if isinstance(image, Problem):
            problems.append(image)
            continue
        samples.append(
            Sample(
                filename=name_in(images, image),
                split=text_in(row, "split") or split,
                label=text_in(row, "label") or rsicd_label(image.name),
                captions=captions_of(row),
                image=image,
            )
        )
    return Source(str(table), "rsicd-csv", samples, problems)


def is_rsicd_csv(table: Path) -> bool:
    """Whether a CSV file has RSICD's columns."""
    return {"filename", "sent1"} <= set(header(table))

"""Any captioned image folder in the Hugging Face ``imagefolder`` convention."""

from __future__ import annotations

from pathlib import Path

from satcascade.data.sources.caption_files import has_caption_files, read_caption_files
from satcascade.data.sources.image_files import (
    first_outside,
    list_images,
    locate_image,
    name_in,
    no_images,
    require_inside,
    split_on_path,
)
from satcascade.data.sources.sample import Problem, Sample, Source, one_line
from satcascade.data.sources.tables import captions_of, read_table, text_in
from satcascade.errors import SatcascadeError

_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "captions.csv", "captions.tsv", "captions.txt")


def read_imagefolder(folder: Path, split: str, captionless: bool = False) -> Source:
    """A folder of images with their captions in a table, or without one (see ``read_caption_files``).

    Format: images of any size; beside them, or in the folder of each split, or one folder deeper, a table
    ``metadata.jsonl``, ``metadata.csv`` or ``captions.csv`` (``.tsv``) with the column ``file_name`` (or
    ``filename``, ``file``, ``image``; relative to the table) and the captions: ``text``, ``caption`` or
    ``captions``
    (a list), or numbered columns ``caption1``, ``caption2``, ... Optional columns: ``label``, ``split``. Or a
    ``captions.txt``, a name and a caption a line. Rows of a table that tell the same of the same image are
    its further captions. An image file that no row names is a problem, not a silent omission.

    Splits: the ``split`` column; else the first folder on the image's path that is called train,
    val (valid, validation, dev) or test; else ``split``.

    Names: the image's path relative to the folder, so that equal names in two splits stay apart.

    Citation: the convention is documented by the ``datasets`` library, "Create an image dataset".

    Args:
        folder: the folder.
        split: the split of images to which neither a column nor a folder gives one.
        captionless: whether images without captions will do; without a table their folders are then classes.

    Raises:
        SatcascadeError: there are no captions, a table cannot be read, lacks its columns or is outside of the
            folder, or no image is there.
    """
    tables = find_tables(folder)
    if not tables and (captionless or has_caption_files(folder)):
        return read_caption_files(folder, split, class_folders=captionless)
    if not tables:
        raise SatcascadeError(
            f"no captions in {folder}: put a {', '.join(_TABLES[:-1])} or {_TABLES[-1]} there, or a text "
            "file beside each image"
        )
    samples: list[Sample] = []
    problems: list[Problem] = []
    for table in tables:
        require_inside(folder, table)
        content = read_table(table)
        problems += content.problems
        column = content.file_column
        if not captionless:
            content.require_captions()
        merged: dict[tuple[str, ...], Sample] = {}
        for number, row in enumerate(content.rows, start=1):
            name = text_in(row, column)
            if not name:
                where = table.relative_to(folder).as_posix()
                problems.append(Problem("row without file name", f"row {number} of {where}"))
                continue
            image = locate_image(folder, table.parent, name)
            if isinstance(image, Problem):
                problems.append(image)
                continue
            filename = name_in(folder, image)
            key = (filename, text_in(row, "split"), text_in(row, "label"))
            before = merged[key].captions if key in merged else ()
            merged[key] = Sample(
                filename=filename,
                split=key[1] or split_on_path(filename) or split,
                label=key[2] or None,
                captions=before + captions_of(row),
                image=image,
            )
        samples += merged.values()
    images = {path.relative_to(folder).as_posix() for path in list_images(folder)}
    named = {sample.filename for sample in samples}
    if not images & named:
        reason = f"not one of the {len(named)} files that {tables[0].name} names is there"
        if not named and problems:
            reason = f"{tables[0].name} names none ({problems[0].kind}: {problems[0]})"
        raise no_images(folder, reason, first_outside(problems))
    problems += [Problem("image without a row", name) for name in map(one_line, sorted(images - named))]
    return Source(str(folder), "imagefolder", samples, problems)


def find_tables(folder: Path) -> list[Path]:
    """The tables of captions in a folder and up to two folders below it, at most one a folder."""
    tables: dict[Path, Path] = {}
    for depth in ("", "*/", "*/*/"):
        for name in _TABLES:
            for table in sorted(folder.glob(depth + name)):
                tables.setdefault(table.parent, table)
    return list(tables.values())

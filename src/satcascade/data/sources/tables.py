"""Rows of CSV and JSON-lines files, and the captions in them, whatever their columns are called."""

from __future__ import annotations

import ast
import csv
import json
import re
from pathlib import Path
from typing import Any

from satcascade.data.sources.sample import Problem
from satcascade.errors import SatcascadeError

_CAPTION_COLUMN = re.compile(
    r"(text|captions?|sentences?|raw|(sent|caption|sentence|text)_?\d+)", re.IGNORECASE
)

# name.jpg<TAB>caption, name.jpg,caption or name.jpg caption; Flickr8k numbers the captions: name.jpg#0
_CAPTION_LINE = re.compile(r"(.+?\.(?:jpe?g|png|tiff?|bmp|webp))(?:#\d+)?(?:\s*,\s*|\s+)(.*)", re.IGNORECASE)
_FILE_COLUMNS = ("file_name", "filename", "file", "image")

Row = dict[str, Any]


def read_rows(table: Path) -> tuple[list[Row], list[Problem]]:
    """The rows of a ``.csv`` file with a header, of a ``.jsonl`` file of objects, or of a ``.txt`` file.

    A line of a ``.txt`` file is an image's name and one caption, with a tab, a comma or a space between.

    Returns:
        The rows in file order, and a problem for each line that is none.

    Raises:
        SatcascadeError: the file cannot be read or holds no row at all.
    """
    try:
        rows, problems = _READERS[table.suffix](table)
    except (OSError, UnicodeError, csv.Error) as error:
        raise SatcascadeError(
            f"{table} cannot be read ({error}): give a UTF-8 {table.suffix[1:]} file"
        ) from error
    if not rows and not problems:
        raise SatcascadeError(f"{table} holds no rows: give one a captioned image")
    return rows, problems


def header(table: Path) -> list[str]:
    """The column names of a CSV file; none if it cannot be read as one."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeError, csv.Error):
        return []


def file_column(table: Path, rows: list[Row]) -> str:
    """The column that names the images: ``file_name``, ``filename``, ``file`` or ``image``.

    Raises:
        SatcascadeError: there is none.
    """
    columns = {str(name) for row in rows for name in row}
    found = [name for name in _FILE_COLUMNS if name in columns]
    if not found:
        require_column(table, rows, _FILE_COLUMNS[0])
    return found[0]


def require_column(table: Path, rows: list[Row], column: str) -> None:
    """Refuse a table whose rows all lack a column.

    Raises:
        SatcascadeError: naming the column and those that are there.
    """
    columns = {str(name): None for row in rows for name in row}
    if column not in columns:
        raise SatcascadeError(f"{table} has no column '{column}': it has {', '.join(columns) or 'none'}")


def require_captions(table: Path, rows: list[Row]) -> None:
    """Refuse a table without any column that holds captions.

    Raises:
        SatcascadeError: naming the columns that are there and those that would do.
    """
    columns = {str(name): None for row in rows for name in row}
    if not any(map(is_caption_column, columns)):
        raise SatcascadeError(
            f"{table} has no caption column: it has {', '.join(columns) or 'none'}; name it text, "
            "caption or captions"
        )


def is_caption_column(name: str) -> bool:
    """Whether a column of this name holds captions; see ``captions_of``."""
    return _CAPTION_COLUMN.fullmatch(name) is not None


def captions_of(row: Row) -> tuple[str, ...]:
    """The captions of a row, from all its caption columns in order.

    Caption columns are ``text``, ``caption``, ``captions``, ``sentence``, ``sentences``, ``raw`` and the
    numbered ``sent1``, ``caption_1``, ``text1`` and so on. A cell is a text, a list of texts, or, in a CSV
    column with a plural name, a list written as JSON or Python writes it. An empty cell is an empty caption.
    """
    captions: list[str] = []
    for name, cell in row.items():
        if not is_caption_column(str(name)):
            continue
        if isinstance(cell, str) and str(name).lower().endswith("s"):
            cell = _list_in(cell)
        if isinstance(cell, list | tuple):
            captions += [_text(each) for each in cell]
        else:
            captions.append(_text(cell))
    return tuple(captions)


def text_in(row: Row, column: str) -> str:
    """A cell as text, empty if there is none."""
    cell = row.get(column)
    return "" if cell is None else str(cell).strip()


def _text(cell: Any) -> str:
    if isinstance(cell, dict):
        cell = cell.get("raw")
    return "" if cell is None else str(cell).strip()


def _list_in(cell: str) -> str | list[Any]:
    if cell.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(cell.strip())
            except (ValueError, SyntaxError):
                continue
            if isinstance(value, list):
                return value
    return cell


def _read_csv(table: Path) -> tuple[list[Row], list[Problem]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file)), []


def _read_jsonl(table: Path) -> tuple[list[Row], list[Problem]]:
    rows, problems = [], []
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(Problem("unreadable row", f"{table.name}:{number}", str(error)))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(Problem("unreadable row", f"{table.name}:{number}", "not an object"))
    return rows, problems


def _read_txt(table: Path) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems = []
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), start=1):
        found = _CAPTION_LINE.fullmatch(line.strip())
        if found:
            caption = found[2].strip()
            # A table with commas quotes a caption that holds some.
            quoted = len(caption) > 1 and caption[0] == caption[-1] == '"'
            rows.append(
                {"file_name": found[1], "caption": caption[1:-1].replace('""', '"') if quoted else caption}
            )
        elif line.strip() and not (number == 1 and line.split(",")[0].strip() in _FILE_COLUMNS):
            problems.append(Problem("unreadable row", f"{table.name}:{number}", "names no image"))
    return rows, problems


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".txt": _read_txt}

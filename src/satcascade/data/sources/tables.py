"""Rows of CSV and JSON-lines files, and the captions in them, whatever their columns are called."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satcascade.data.sources.sample import Problem
from satcascade.data.sources.sentences import sentences_in
from satcascade.data.sources.text_files import read_text
from satcascade.errors import SatcascadeError

_CAPTION_COLUMN = re.compile(
    r"(text|captions?|sentences?|raw|(sent|caption|sentence|text)_?\d+)", re.IGNORECASE
)

# name.jpg<TAB>caption, name.jpg,caption (or ;) or name.jpg caption; Flickr8k numbers the captions: name.jpg#0
_CAPTION_LINE = re.compile(
    r"(.+?\.(?:jpe?g|png|tiff?|bmp|webp))(?:#\d+)?(?:\s*[,;]\s*|\s+)(.*)", re.IGNORECASE
)
_FILE_COLUMNS = ("file_name", "filename", "file", "image")
# In this order where the header fits several.
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_HEADER_LENGTH = 65_536

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of captions.

    Attributes:
        path: its file.
        rows: its rows in file order.
        problems: one for each line that is no row.
        columns: the names of the columns, in order.
        delimiter: what stands between the cells of a CSV file; None for other files.
    """

    path: Path
    rows: list[Row]
    problems: list[Problem]
    columns: tuple[str, ...]
    delimiter: str | None = None

    @property
    def file_column(self) -> str:
        """The column that names the images: ``file_name``, ``filename``, ``file`` or ``image``.

        Raises:
            SatcascadeError: there is none.
        """
        column = next((name for name in _FILE_COLUMNS if name in self.columns), _FILE_COLUMNS[0])
        self.require_column(column)
        return column

    def require_column(self, column: str) -> None:
        """Refuse a table that lacks a column.

        Raises:
            SatcascadeError: naming the column and those that are there.
        """
        if column not in self.columns:
            raise SatcascadeError(f"{self.path} has no column '{column}': it has {self._seen()}")

    def require_captions(self) -> None:
        """Refuse a table without any column that holds captions.

        Raises:
            SatcascadeError: naming the columns that are there and those that would do.
        """
        if not any(map(is_caption_column, self.columns)):
            raise SatcascadeError(
                f"{self.path} has no caption column: it has {self._seen()}; name it text, caption or captions"
            )

    def _seen(self) -> str:
        seen = ", ".join(filter(None, self.columns)) or "none"
        return seen if self.delimiter is None else f"{seen} (read with {_DELIMITERS[self.delimiter]})"


def read_table(path: Path) -> Table:
    """Read a ``.csv`` or ``.tsv`` file with a header, a ``.jsonl`` file of objects, or a ``.txt`` file.

    Cells of a CSV or TSV file are parted by commas, semicolons, tabs or bars, whichever its header shows. A
    line of a ``.txt`` file is an image's name and one caption, with a tab, a comma, a semicolon or a space
    between. All are UTF-8, or as their byte order mark says.

    Raises:
        SatcascadeError: the file cannot be read or holds no row at all.
    """
    try:
        table = _READERS[path.suffix](path)
    except (OSError, UnicodeError, csv.Error) as error:
        raise SatcascadeError(
            f"{path} cannot be read ({error}): give a UTF-8 {path.suffix[1:]} file"
        ) from error
    if not table.rows and not table.problems:
        raise SatcascadeError(f"{path} holds no rows: give one a captioned image")
    return table


def header(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file; none if it cannot be read as one."""
    try:
        return _header(read_text(path, newline="", characters=_HEADER_LENGTH))[0]
    except (OSError, UnicodeError, csv.Error):
        return ()


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
        if is_caption_column(name):
            plural = isinstance(cell, str) and name.lower().endswith("s")
            captions += sentences_in(_list_in(cell) if plural else cell)
    return tuple(captions)


def text_in(row: Row, column: str) -> str:
    """A cell as text, empty if there is none."""
    cell = row.get(column)
    return "" if cell is None else str(cell).strip()


def _list_in(cell: str) -> str | list[Any]:
    if cell.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(cell.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(value, list):
                return value
    return cell


def _header(text: str) -> tuple[tuple[str, ...], str, str]:
    """The column names of a CSV text, its delimiter, and the text without Excel's line ``sep=;``."""
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?\r?', first)
    if stated and stated[1] in _DELIMITERS:
        return _columns(rest, stated[1]), stated[1], rest
    by_delimiter = {each: _columns(text, each) for each in _DELIMITERS}

    def fit(delimiter: str) -> tuple[int, int]:
        columns = by_delimiter[delimiter]
        known = sum(name in _FILE_COLUMNS or is_caption_column(name) for name in columns)
        return known, len(columns)

    delimiter = max(_DELIMITERS, key=fit)
    return by_delimiter[delimiter], delimiter, text


def _columns(text: str, delimiter: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in next(_cells(text, delimiter), ()))


def _cells(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)


def _read_csv(path: Path) -> Table:
    columns, delimiter, text = _header(read_text(path, newline=""))
    reader = _cells(text, delimiter)
    next(reader, None)
    rows: list[Row] = []
    problems = []
    for cells in reader:
        if not cells:
            continue
        # Spreadsheets end lines with empty cells. Others show that a caption with the delimiter is unquoted.
        if any(map(str.strip, cells[len(columns) :])):
            detail = f"{len(cells)} cells in {len(columns)} columns: quote a caption with a {delimiter!r}"
            problems.append(Problem("unreadable row", f"{path.name}:{reader.line_num}", detail))
            continue
        row: Row = dict.fromkeys(columns)
        row.update(zip(columns, cells, strict=False))
        rows.append(row)
    return Table(path, rows, problems, columns, delimiter)


def _read_jsonl(path: Path) -> Table:
    rows: list[Row] = []
    problems = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem("unreadable row", f"{path.name}:{number}", str(error)))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(Problem("unreadable row", f"{path.name}:{number}", "not an object"))
    return Table(path, rows, problems, tuple(dict.fromkeys(name for row in rows for name in row)))


def _read_txt(path: Path) -> Table:
    rows: list[Row] = []
    problems = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        match = _CAPTION_LINE.fullmatch(line.strip())
        if match:
            caption = match[2].strip()
            # A table with commas quotes a caption that holds some.
            quoted = len(caption) > 1 and caption[0] == caption[-1] == '"'
            rows.append(
                {"file_name": match[1], "caption": caption[1:-1].replace('""', '"') if quoted else caption}
            )
        elif line.strip() and not (number == 1 and re.split(r"[,;\t]", line)[0].strip() in _FILE_COLUMNS):
            problems.append(Problem("unreadable row", f"{path.name}:{number}", "names no image"))
    return Table(path, rows, problems, ("file_name", "caption"))


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".txt": _read_txt}

"""A grid of pictures with labels, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from satcascade.generation.provenance import NOTICE, SOFTWARE, write_png

_GAP = 6
_INK = "#1f2937"


def write_sheet(
    path: Path,
    cells: Sequence[Sequence[Path | None]],
    columns: Sequence[str],
    rows: Sequence[str],
    title: str,
) -> None:
    """Write the grid.

    Args:
        path: the PNG file.
        cells: image files of one size, by row and column; None leaves a place empty.
        columns: labels of the columns.
        rows: labels of the rows.
        title: what all pictures show.

    Raises:
        SatcascadeError: the disk is full.
    """
    font = ImageFont.load_default(16)
    line = 24
    with Image.open(next(cell for row in cells for cell in row if cell)) as first:
        side = first.width
    cell = max(side, max(int(font.getlength(label)) for label in columns))
    margin = max(int(font.getlength(label)) for label in rows) + 2 * _GAP
    width = max(margin + len(columns) * (cell + _GAP), int(font.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, 2 * line + len(rows) * (side + _GAP) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, _INK, font)
    for place, label in enumerate(columns):
        pen.text((margin + place * (cell + _GAP), line + 2), label, _INK, font)
    for number, (label, row) in enumerate(zip(rows, cells, strict=True)):
        top = 2 * line + number * (side + _GAP)
        pen.text((_GAP, top + side // 2 - line // 2), label, _INK, font)
        for place, file in enumerate(row):
            if file is not None:
                with Image.open(file) as image:
                    sheet.paste(image, (margin + place * (cell + _GAP), top))
    write_png(path, sheet, {"Software": SOFTWARE, "Prompt": title, "Notice": NOTICE})

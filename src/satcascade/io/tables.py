"""Tables of text: columns for the terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def aligned_table(rows: Sequence[Sequence[str]], align: str = "<") -> str:
    """Rows as lines of aligned columns, two spaces apart.

    Args:
        rows: the cells of each row; a head, if there is one, is the first.
        align: ``<`` (left) or ``>`` (right) for each column; the last one holds for all columns that follow.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    lines = []
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, of which the first is the head; it ends with a line break."""
    head, *body = rows
    return "".join(map(markdown_row, [head, ["---"] * len(head), *body]))


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table, with its line break; for tables that grow while something is measured."""
    return f"| {' | '.join(cells)} |\n"

"""The table of a sweep: its columns, which row is best, and what is printed of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satcascade.errors import SatcascadeError
from satcascade.evaluation.measures.registry import COLUMNS, column_of
from satcascade.evaluation.report.data import Sweep
from satcascade.io.tables import aligned_table

TABLE = "sweep.tsv"
FIGURE = "sweep.png"
REPORTS = "reports"
# Those that tell cells apart; a row is named by them.
KEY = ("checkpoint", "scheduler", "sr_scheduler", "cond_scale", "sr_cond_scale", "base_steps", "sr_steps")


def read_table(out: Path, by: str) -> Sweep:
    """All rows that a sweep's folder has.

    Args:
        out: the folder.
        by: the column that the best row is chosen by.

    Raises:
        SatcascadeError: the table is missing, or is not one of a sweep.
    """
    path = out / TABLE
    table = Sweep.read(path)
    if lacking := [column for column in (*KEY, by) if column not in table.columns]:
        raise SatcascadeError(
            f"{path} is damaged (no column {lacking[0]}): delete it, and the same command measures the "
            "images again"
        )
    return table


def best_row(table: Sweep, by: str) -> dict[str, str]:
    """The row with the best value of a measure."""
    column = column_of(by)
    lower = column is not None and column.better == "lower"
    return (min if lower else max)(table.rows, key=lambda row: float(row[by]))


def cell_text(value: float) -> str:
    """A number as a cell: digits enough for any use of it."""
    return f"{value:.8g}"


@dataclass(frozen=True)
class SweepReport:
    """What a call of :func:`sweep` did.

    Attributes:
        out: the folder.
        table: all its rows.
        best: the row that is best by
        by: this column, among those of all its rows.
        made, kept: rows of the grid made now, and there already.
        figure: whether there is one: not of a single row.
    """

    out: Path
    table: Sweep
    best: dict[str, str]
    by: str
    made: int
    kept: int
    figure: bool

    def summary(self) -> str:
        """The table without what is the same in all rows, and the best row."""
        rows = self.table.rows
        settings = [c for c in KEY if len({row[c] for row in rows}) > 1] or ["checkpoint"]
        measures = [
            column
            for column in self.table.columns
            if column.partition("/")[0] in COLUMNS or column == "seconds_per_image"
        ]
        names = {column: column.partition("/")[0] for column in measures}
        if len(set(names.values())) < len(names):
            names = {column: column for column in measures}
        header = [*settings, *names.values()]
        lines = [header]
        for row in rows:
            values = [f"{float(row[column]):.4g}" if row[column] else "" for column in measures]
            lines.append([*(row[column] for column in settings), *values])
        text = [aligned_table(lines, ">")]
        chosen = ", ".join(f"{column} {self.best[column]}" for column in settings)
        text.append(f"best by {self.by}, {float(self.best[self.by]):.4g}: {chosen}")
        if close := self._as_good():
            text.append(f"not told apart from it: {close} of the other rows, inside its 95 % interval")
        text.append(
            f"table in {self.out / TABLE}" + (f", figure in {self.out / FIGURE}" if self.figure else "")
        )
        return "\n".join(text)

    def to_json(self) -> dict[str, Any]:
        """All rows and the best one as JSON has them: numbers as numbers, null for an empty cell."""
        return {
            "table": str(self.out / TABLE),
            "rows": [_typed(row) for row in self.table.rows],
            "by": self.by,
            "best": _typed(self.best),
            "not_told_apart": self._as_good(),
        }

    def _as_good(self) -> int:
        """How many other rows have a value inside the best one's interval."""
        stem, _, network = self.by.partition("/")
        low, high = (self.best.get(f"{stem}_{end}/{network}") for end in ("low", "high"))
        if low is None or high is None:
            return 0
        values = [float(row[self.by]) for row in self.table.rows if row is not self.best]
        return sum(float(low) <= value <= float(high) for value in values)


def _typed(row: dict[str, str]) -> dict[str, int | float | str | None]:
    return {column: _value(cell) for column, cell in row.items()}


def _value(cell: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell or None

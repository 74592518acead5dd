"""Progress on the error stream: one display, a bar for each task."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressDisplay:
    """Bars of tasks under each other, on the error stream; a context manager.

    Args:
        shown: whether to show anything.
        transient: take the bars away in the end.
    """

    def __init__(self, shown: bool = True, transient: bool = True):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
            transient=transient,
        )

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def task(self, name: str, total: int | None, completed: int = 0) -> ProgressTask:
        """Add a bar.

        Args:
            name: what is being done, or to what.
            total: how much there is to do; None where nobody knows.
            completed: how much of it was done before.
        """
        return ProgressTask(
            self._progress, self._progress.add_task(name, total=total, completed=completed, status="")
        )

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


class ProgressTask:
    """A bar of a display; as a context manager its clock stops at the end."""

    def __init__(self, progress: Progress, number: TaskID):
        self._progress = progress
        self._number = number

    def __enter__(self) -> ProgressTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop_task(self._number)

    def advance(self, done: int = 1) -> None:
        """Count what was done since the last call."""
        self._progress.advance(self._number, done)

    def update(self, completed: int, status: str) -> None:
        """Say how much is done in all, and a few words about it."""
        self._progress.update(self._number, completed=completed, status=status)

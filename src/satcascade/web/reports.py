"""Reports under the folder that the page was started in: which there are, and one as a page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from satcascade.errors import UsageError
from satcascade.evaluation.report.page import write_report
from satcascade.formats.report import DETAILS, METRICS

# How far down, and how many folders, are looked at: the folder may be anyone's home.
_DEPTH = 4
_MOST_FOLDERS = 5_000


def find_reports(root: Path) -> list[str]:
    """The folders that ``satcascade evaluate`` wrote, relative to ``root``, the newest first."""
    found: list[tuple[float, str]] = []
    for number, (folder, subfolders, files) in enumerate(os.walk(root)):
        if number >= _MOST_FOLDERS:
            break
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        subfolders[:] = [] if depth >= _DEPTH else sorted(n for n in subfolders if not n.startswith("."))
        if METRICS in files and DETAILS in files:
            found.append((-(path / METRICS).stat().st_mtime, path.relative_to(root).as_posix()))
    return [name for _, name in sorted(found)]


def report_page(root: Path, names: Sequence[str]) -> str:
    """The page of reports, as ``satcascade report`` makes it.

    Args:
        root: the folder that they are in.
        names: of their folders, relative to it; the first is the main one.

    Raises:
        UsageError: none is named, or one is outside of ``root``.
        SatcascadeError: one is no report, or the extra ``eval`` is not installed.
    """
    if not names:
        raise UsageError("no report is chosen: 'satcascade evaluate' makes one")
    folders = [(root / name).resolve() for name in names]
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_relative_to(root.resolve()):
            raise UsageError(f"'{name}' is outside of {root}: start the page in a folder above the report")
    with tempfile.TemporaryDirectory() as scratch:
        return write_report(folders, Path(scratch) / "report.html").read_text(encoding="utf-8")

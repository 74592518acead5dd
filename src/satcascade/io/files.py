"""Files that appear whole or not at all: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satcascade.errors import SatcascadeError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``.

    On any exception the temporary file is removed and ``path`` is as it was before. Nothing that
    reads the folder ever sees a half-written ``path``, whenever the process is killed.

    Raises:
        SatcascadeError: the disk is full (the original ``OSError`` is its cause).
    """
    path = Path(path)
    # A fixed name: what a killed process leaves behind is overwritten by the next attempt.
    aside = path.with_name(f".{path.name}.part")
    try:
        with full_disk_refused(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it takes the place of ``path``.

    On any exception it is removed and ``path`` is as it was before.

    Raises:
        SatcascadeError: the disk is full (the original error is its cause).
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_refused(path):
            aside.mkdir(parents=True)
            yield aside
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def full_disk_refused(path: Path) -> Iterator[None]:
    """Turn a full disk (or a used-up quota) while writing ``path`` into a one-line refusal.

    Raises:
        SatcascadeError: the disk is full (the original error is its cause). Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise SatcascadeError(
            f"no space left on the device for {path}: free some space and run the same command again"
        ) from error


def check_space(path: Path, needed: int) -> None:
    """Refuse to begin what will not fit.

    Args:
        path: what is to be written; it and its folder may be missing.
        needed: bytes.

    Raises:
        SatcascadeError: fewer bytes are free there.
    """
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SatcascadeError(
            f"no space left on the device for {path}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} "
            "GB are free, free some space and run the same command again"
        )


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors and torch.save report the system's error inside one of their own.
    return "No space left on device" in str(error) or "PytorchStreamWriter failed" in str(error)


def synced_write(path: Path, content: bytes) -> None:
    """Write ``content`` and flush it to the disk before returning."""
    with Path(path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

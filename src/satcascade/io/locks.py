"""Locks between processes that share a folder; a lock ends with its process, however that ends.

A lock is a hidden file of no content, which stays there when the lock is released: a process that removed
it would leave those that wait with two files of one name, each of which could then be locked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from satcascade.errors import SatcascadeError
from satcascade.io.files import full_disk_refused


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Hold the lock file ``path``, or refuse at once where another process holds it.

    Args:
        path: the lock file; its folder is made if need be.
        message: of the refusal.

    Raises:
        SatcascadeError: with ``message``; or the folder cannot be written to, or the disk is full.
    """
    with _locked(path, 0, message):
        yield


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; waits for as long as another process holds it.

    Args:
        path: the lock file; its folder is made if need be.

    Raises:
        SatcascadeError: the folder cannot be written to, or the disk is full.
    """
    with _locked(path, -1, ""):
        yield


@contextmanager
def _locked(path: Path, timeout: float, message: str) -> Iterator[None]:
    lock = FileLock(path, timeout=timeout)
    try:
        with full_disk_refused(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as error:
        raise SatcascadeError(message) from error
    except OSError as error:
        raise SatcascadeError(f"{path.parent} cannot be written to ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()

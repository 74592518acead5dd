"""Locks between processes that share a folder; a lock ends with its process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satcascade.errors import SatcascadeError

try:
    import fcntl
except ImportError:  # Windows: no locks, so no two processes at once on one folder
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock ``path``, which is removed at the end.

    Args:
        path: a file of no content; its folder is made if need be.
        taken: what to say if another process holds it.

    Raises:
        SatcascadeError: with the message ``taken``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SatcascadeError(taken) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def waited_for(folder: Path) -> Iterator[None]:
    """Wait until no other process is inside this for the same ``folder``."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

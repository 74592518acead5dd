"""NumPy files that are written piece by piece: of a length not known before, or over several runs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from satcascade.errors import SatcascadeError
from satcascade.io.files import full_disk_refused, synced_write

Scalar = TypeVar("Scalar", bound=np.generic)


def array_header(dtype: type[np.generic], shape: tuple[int, ...]) -> bytes:
    """What precedes the values in a ``.npy`` file.

    NumPy leaves room for the first axis to grow: the header for another count is as long, and may be
    written over the first one when all values are there.
    """
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_rows(
    target: Path,
    dtype: type[Scalar],
    shape: tuple[int, ...],
    batch: int,
    rows: Callable[[int, int], npt.NDArray[Scalar]],
) -> Iterator[int]:
    """Write an array batch by batch, beside its place until it is complete; resume one that was interrupted.

    Only whole batches are kept, so that values do not depend on where it was interrupted.

    Args:
        target: the ``.npy`` file.
        dtype: of the values.
        shape: of the whole array.
        batch: rows made together.
        rows: makes rows ``start`` to ``stop``, in the shape and type of the array.

    Yields:
        How many rows were there, then those of each batch.

    Raises:
        SatcascadeError: the disk is full.
    """
    each = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    # Its own name, not that of `atomic_write`, which would begin anew.
    part = target.with_name(f".{target.name}.part")
    with full_disk_refused(target):
        header = array_header(dtype, shape)
        if not part.exists() or part.stat().st_size < len(header):
            synced_write(part, header)
        with part.open("r+b") as file:
            there = (part.stat().st_size - len(header)) // each // batch * batch
            file.truncate(len(header) + there * each)
            file.seek(0, os.SEEK_END)
            yield there
            for start in range(there, shape[0], batch):
                stop = min(start + batch, shape[0])
                file.write(np.ascontiguousarray(rows(start, stop), dtype=dtype).tobytes())
                yield stop - start
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)


def open_rows(path: Path, dtype: type[Scalar], shape: tuple[int, ...], remedy: str) -> npt.NDArray[Scalar]:
    """Open an array that :func:`write_rows` wrote, memory-mapped and read-only.

    Args:
        path: the ``.npy`` file.
        dtype: that it must have.
        shape: that it must have.
        remedy: what to do where it has not.

    Raises:
        SatcascadeError: the file is damaged, cut short, or of another shape.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise SatcascadeError(f"{path} is damaged or cut short: delete it and {remedy} again") from error
    if array.shape != shape or array.dtype != dtype:
        wanted = f"{np.dtype(dtype)} {shape}"
        raise SatcascadeError(f"{path} holds {array.dtype} {array.shape}, not {wanted}: {remedy} again")
    return array

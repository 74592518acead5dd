"""NumPy files that are written piece by piece, whose length may not be known before."""

from __future__ import annotations

import io

import numpy as np


def array_header(dtype: type[np.generic], shape: tuple[int, ...]) -> bytes:
    """What precedes the values in a ``.npy`` file.

    NumPy leaves room for the first axis to grow: the header for another count is as long, and may be
    written over the first one when all values are there.
    """
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()

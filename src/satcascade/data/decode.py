"""From the bytes of an image file to a square of RGB pixels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from satcascade.data.raster import RasterOptions, RasterReader


def decode_image(encoded: bytes, size: int, rasters: RasterReader | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image file, whole, to RGB, crop it at the centre to a square, and resize it.

    Args:
        encoded: the bytes of the file.
        size: side S of the result in pixels.
        rasters: reads what is not 8 bits of one or three channels.

    Returns:
        uint8 (S, S, 3).

    Raises:
        ValueError: the bytes are no image, are cut short, or are not to be shown.
        SatcascadeError: rasterio is needed and not installed.
    """
    rasters = rasters or RasterReader(RasterOptions())
    if rasters.reads(encoded):
        return _resized(rasters.rgb(encoded), size)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"mode {image.mode}, not 8 bits a channel")
            rgb = image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        # Its message may name the memory the bytes were read from, which tells nobody anything.
        raise ValueError(
            "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        ) from error
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    if rgb.width != rgb.height:
        rgb = rgb.crop((left, top, left + side, top + side))
    return _resized(rgb, size)


def _resized(square: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square)

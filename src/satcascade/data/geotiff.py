"""GeoTIFF tiles in, enlarged GeoTIFF tiles out: the place on Earth and the pixels without data are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satcascade.data.raster import opened_raster, quiet_rasters
from satcascade.errors import SatcascadeError, UsageError
from satcascade.io.files import atomic_write
from satcascade.pipelines.image_input import DEEP


@dataclass(frozen=True)
class GeoTile:
    """A tile of 8 bits, red, green and blue, and where it lies.

    Attributes:
        pixels: (H, W, 3) uint8; those without data have the mean colour of the others, so that a network
            is not shown a black edge.
        valid: (H, W) bool, which of them are data.
        crs: its coordinate reference system; None where it says nothing of its place.
        transform: affine, from pixels to coordinates.
        nodata: the value that stands for no data; None where there is none.
    """

    pixels: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    crs: Any
    transform: Any
    nodata: float | None


def read_geotiff(path: Path) -> GeoTile:
    """Read a TIFF file, with or without a place on Earth.

    Raises:
        UsageError: it cannot be read, has other channels than red, green and blue of 8 bits, has no data at
            all, or is placed by ground control points; what to do is said.
        SatcascadeError: rasterio is not installed.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UsageError(f"image {path} cannot be read: {error.strerror or error}") from error
    try:
        with quiet_rasters(), opened_raster(encoded) as dataset:
            names = [colour.name for colour in dataset.colorinterp]
            deep = any(kind != "uint8" for kind in dataset.dtypes)
            mode = {1: "L", 3: "RGB"}.get(dataset.count, f"in {dataset.count} bands")
            _check_bands(path, "alpha" if "alpha" in names else mode, deep)
            if dataset.gcps[0]:
                raise UsageError(f"{path} is placed by ground control points: warp it first, with gdalwarp")
            values = dataset.read().transpose(1, 2, 0)
            valid = dataset.dataset_mask() > 0
            found = GeoTile(values, valid, dataset.crs, dataset.transform, dataset.nodata)
    except ValueError as error:
        raise UsageError(f"image {path} is {error}") from error
    if not valid.any():
        raise UsageError(f"{path} has no data: all of its pixels are nodata")
    values[~valid] = values[valid].mean(axis=0).round()
    return found


def write_geotiff(
    path: Path, pixels: npt.NDArray[np.uint8], source: GeoTile, ratio: int, text: Mapping[str, str]
) -> None:
    """Write an enlarged tile; it appears whole.

    The transform is scaled, and pixels without data stay without. Where a value stands for no data, pixels
    that are data and happen to have it in all bands are moved by one level.

    Args:
        path: the file.
        pixels: (H * ratio, W * ratio, 3).
        source: the tile that was enlarged.
        ratio: how many times.
        text: its metadata.

    Raises:
        SatcascadeError: the disk is full.
    """
    import rasterio
    from rasterio.errors import RasterioError

    valid = source.valid.repeat(ratio, axis=0).repeat(ratio, axis=1)
    values = pixels.copy()
    if source.nodata is not None:
        level = int(source.nodata)
        values[valid & (values == level).all(axis=2)] += np.uint8(1) if level < 255 else np.uint8(255)
        values[~valid] = level
    profile = {
        "driver": "GTiff",
        "height": len(values),
        "width": values.shape[1],
        "count": 3,
        "dtype": "uint8",
        "crs": source.crs,
        "transform": source.transform * source.transform.scale(1 / ratio),
        "nodata": source.nodata,
        "photometric": "RGB",
        "compress": "deflate",
    }
    with atomic_write(path) as aside, quiet_rasters(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        try:
            with rasterio.open(aside, "w", **profile) as dataset:
                dataset.write(values.transpose(2, 0, 1))
                dataset.update_tags(**text)
                if source.nodata is None and not valid.all():
                    dataset.write_mask(valid)
        except RasterioError as error:
            raise SatcascadeError(f"{path} cannot be written ({error})") from error


def read_geotiff_text(path: Path) -> dict[str, str]:
    """The metadata of a TIFF file.

    Raises:
        ValueError: it is no whole TIFF file.
    """
    with quiet_rasters(), opened_raster(path.read_bytes()) as dataset:
        dataset.read()
        return dict(dataset.tags())


def _check_bands(path: Path, bands: str, deep: bool) -> None:
    """Refuse what is not 8 bits of red, green and blue."""
    if bands == "alpha":
        raise UsageError(f"{path} has an alpha channel: save it as RGB without transparency")
    if deep:
        raise UsageError(f"{path} has more than 8 bits a channel: {DEEP}")
    if bands == "L":
        raise UsageError(f"{path} has one band: save it as RGB (three equal bands show it in grey)")
    if bands != "RGB":
        raise UsageError(f"{path} has channels {bands}: save it as RGB")

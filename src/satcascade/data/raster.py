"""Tiles of any depth and number of bands to RGB: band choice, percentile stretch, nodata.

What Pillow shows as it is (8 bits, one or three channels) needs none of this. The rest, GeoTIFF above all,
is read with rasterio, the extra ``geo``.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from satcascade.errors import SatcascadeError, UsageError

DEFAULT_STRETCH = (2.0, 98.0)
# Percentiles of a set are those of at most so many pixels a band, spread evenly over its images.
_PIXELS_OF_A_SET = 1 << 22
_DRIVERS = ("GTiff", "PNG", "JPEG")
_GDAL_NODATA = 42113
_PLAIN_MODES = ("1", "L", "P", "RGB")


@dataclass(frozen=True)
class RasterOptions:
    """How tiles become RGB; all defaults leave 8-bit images of one or three channels as they are.

    Attributes:
        bands: one band for grey, or three for red, green and blue, counted from 1; None takes what the file
            calls so, else the first ones of at most four.
        stretch: percentiles of each band that become black and full; None is 2 and 98 for more than 8 bits
            and nothing for 8 bits.
        per_image: take the percentiles of each image, instead of one range for the whole set.
        max_nodata: largest share of pixels without data in a tile, 0 to 1.

    Raises:
        UsageError: a value is out of its range.
    """

    bands: tuple[int, ...] | None = None
    stretch: tuple[float, float] | None = None
    per_image: bool = False
    max_nodata: float = 0.5

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise UsageError(
                f"bands {_list(self.bands)} are not possible: give one or three numbers, counted from 1, "
                "such as 4,3,2"
            )
        if self.stretch is not None and not 0 <= self.stretch[0] < self.stretch[1] <= 100:
            raise UsageError(
                f"stretch {_list(self.stretch)} is not possible: give a low and a high percentile, "
                "such as 2,98"
            )
        if not 0 <= self.max_nodata <= 1:
            raise UsageError(f"share of nodata {self.max_nodata} is not possible: give 0 to 1")

    @property
    def manifest(self) -> dict[str, Any]:
        """The options as the manifest of a prepared set holds them."""
        return {
            "bands": None if self.bands is None else list(self.bands),
            "stretch": None if self.stretch is None else list(self.stretch),
            "per_image": self.per_image,
            "max_nodata": self.max_nodata,
        }


@dataclass(frozen=True)
class _Tile:
    """Bands of a file: values (B, H, W) as stored, which of them are data, and whether to stretch them."""

    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    stretched: bool


class RasterReader:
    """Reads tiles with one set of options.

    Attributes:
        options: the options.
        ranges: for one and for three bands, the values (B, 2) that become black and full; empty until
            :meth:`fit`, and with ``per_image``.
    """

    def __init__(self, options: RasterOptions):
        self.options = options
        self.ranges: dict[int, npt.NDArray[np.float64]] = {}

    def reads(self, encoded: bytes) -> bool:
        """Whether an image file is read here, and not by Pillow alone.

        That hangs on the file and the options, not on what is installed.
        """
        if self.options.bands or self.options.stretch:
            return True
        if encoded[:8] == b"\x89PNG\r\n\x1a\n":
            # Pillow would cut 16 bits of three channels to their upper eight.
            return encoded[24:25] == b"\x10"
        if encoded[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return False
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                tags = getattr(image, "tag_v2", {})
                return image.mode not in _PLAIN_MODES or _GDAL_NODATA in tags
        except Exception:  # a TIFF that Pillow does not know, or a broken one
            return True

    def check(self, encoded: bytes, name: str) -> None:
        """Refuse options that do not fit a tile.

        Raises:
            UsageError: it lacks a band that was asked for, or needs one to be asked for.
            SatcascadeError: rasterio is not installed.
        """
        try:
            with opened_raster(encoded) as dataset:
                self._bands(dataset)
        except _BandError as error:
            raise UsageError(f"{name} {error}") from error
        except ValueError:
            pass  # a broken image, named later among the others

    def pixels(self, encoded: bytes, images: int) -> tuple[str, list[npt.NDArray[Any]]] | None:
        """A tile's share of the pixels that the set's percentiles are taken of.

        Args:
            encoded: the bytes of the file.
            images: number of images of the set.

        Returns:
            The type of its values and, for each band, a spread of those that are data; None if the tile is
            not stretched, or cannot be read.
        """
        try:
            if not self.reads(encoded):
                return None
            tile = self._read(encoded)
        except ValueError:
            return None
        if not tile.stretched:
            return None
        most = max(_PIXELS_OF_A_SET // images, 64)
        data = [values[valid] for values, valid in zip(tile.values, tile.valid, strict=True)]
        return tile.values.dtype.name, [values[:: -(-len(values) // most) or 1] for values in data]

    def fit(self, pixels: Iterable[tuple[str, list[npt.NDArray[Any]]]]) -> None:
        """Set the range of the whole set from what :meth:`pixels` gave of its images.

        Raises:
            SatcascadeError: they have values of several types, which no one range fits.
        """
        by_bands: dict[int, list[list[npt.NDArray[Any]]]] = {}
        types: set[str] = set()
        for name, bands in pixels:
            types.add(name)
            by_bands.setdefault(len(bands), []).append(bands)
        if len(types) > 1:
            raise SatcascadeError(
                f"the images hold values of several types ({', '.join(sorted(types))}), which one stretch "
                "does not fit: stretch each by itself with --per-image, or convert them"
            )
        for count, tiles in by_bands.items():
            self.ranges[count] = _ranges(
                [np.concatenate([tile[band] for tile in tiles]) for band in range(count)], self._percentiles
            )

    def rgb(self, encoded: bytes) -> Image.Image:
        """A tile as RGB, cropped at the centre to a square; pixels without data are black.

        Raises:
            ValueError: the bytes are no image, are cut short, lack a band, or have too little data.
            SatcascadeError: rasterio is not installed.
        """
        tile = _square(self._read(encoded))
        data = tile.valid.any(axis=0)
        missing = 1 - data.mean()
        if missing > self.options.max_nodata or not data.any():
            raise ValueError(f"{missing:.0%} nodata, more than {self.options.max_nodata:.0%}")
        values = tile.values
        if tile.stretched:
            ranges = self.ranges.get(len(values))
            if self.options.per_image or ranges is None:
                bands = [band[valid] for band, valid in zip(values, tile.valid, strict=True)]
                ranges = _ranges(bands, self._percentiles)
            low, high = ranges[:, 0, None, None], ranges[:, 1, None, None]
            finite = np.where(np.isfinite(values), values, -np.inf)
            values = np.rint(255 * ((finite - low) / np.maximum(high - low, 1e-12)).clip(0, 1))
        # A pixel with data in any band is shown whole: one band of it may well have the value of nodata.
        shown = np.where(data, values, 0).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(shown, (3, *shown.shape[1:])).transpose(1, 2, 0).copy())

    @property
    def _percentiles(self) -> tuple[float, float]:
        return self.options.stretch or DEFAULT_STRETCH

    def _read(self, encoded: bytes) -> _Tile:
        with opened_raster(encoded) as dataset:
            bands = self._bands(dataset)
            values = dataset.read(bands)
            valid = dataset.read_masks(bands) > 0
            if np.iscomplexobj(values):
                raise ValueError("complex values, not an image")
            if values.dtype.kind == "f":
                valid &= np.isfinite(values)
            if self.options.bands is None and dataset.colorinterp[0].name == "palette":
                table = np.zeros((256, 3), np.uint8)
                for index, colour in dataset.colormap(1).items():
                    table[index] = colour[:3]
                return _Tile(table[values[0]].transpose(2, 0, 1), valid.repeat(3, axis=0), stretched=False)
        deep = values.dtype != np.uint8
        return _Tile(values, valid, stretched=deep or self.options.stretch is not None)

    def _bands(self, dataset: Any) -> list[int]:
        """The bands to read, counted from 1.

        Raises:
            _BandError: those asked for are not there, or none were and the choice is not plain.
        """
        count = dataset.count
        if self.options.bands:
            absent = [band for band in self.options.bands if band > count]
            if absent:
                bands = "1 band" if count == 1 else f"{count} bands"
                raise _BandError(f"has {bands}, no band {absent[0]}: choose from 1 to {count} with --bands")
            return list(self.options.bands)
        names = {colour.name: band for band, colour in enumerate(dataset.colorinterp, start=1)}
        colours = [band for band in range(1, count + 1) if band != names.get("alpha")]
        if count <= 4 and {"red", "green", "blue"} <= names.keys():
            return [names["red"], names["green"], names["blue"]]
        if len(colours) in (1, 3) or count == 4:
            return colours[:3]
        raise _BandError(f"has {count} bands: say which to show with --bands, such as --bands 3,2,1")


class _BandError(ValueError):
    """A tile and the choice of bands do not fit."""


@contextmanager
def quiet_rasters() -> Iterator[None]:
    """Leave out rasterio's warning that a tile says nothing of its place on Earth, which nobody asks here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*geotransform, gcps, or rpcs")
        yield


@contextmanager
def opened_raster(encoded: bytes) -> Iterator[Any]:
    """A file opened with rasterio; what goes wrong with it in here is a ValueError.

    Raises:
        SatcascadeError: rasterio is not installed.
        ValueError: the bytes are no image, or are cut short.
    """
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise SatcascadeError(
            "rasterio, which reads GeoTIFF and images of more than 8 bits a channel, is not installed: "
            'pip install "satcascade[geo]"'
        ) from error
    try:
        with rasterio.MemoryFile(encoded) as memory, memory.open(driver=list(_DRIVERS)) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error)
        if "not recognized" in reason:
            raise ValueError("not an image, or cut short") from error
        # GDAL names the memory that the bytes were read from, which tells nobody anything.
        raise ValueError(f"cut short or damaged: {re.sub(r'/vsimem/[^ :,]*[:,]? ?', '', reason)}") from error


def _square(tile: _Tile) -> _Tile:
    height, width = tile.values.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    return _Tile(tile.values[window], tile.valid[window], tile.stretched)


def _ranges(bands: list[npt.NDArray[Any]], percentiles: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The values at two percentiles of each band, (B, 2); a band without data gets 0 and 1."""
    return np.array(
        [np.percentile(band.astype(np.float64), percentiles) if band.size else (0.0, 1.0) for band in bands]
    )


def _list(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)

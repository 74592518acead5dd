"""GeoTIFF tiles in and out: place, nodata, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from satcascade.data.geotiff import read_geotiff, read_geotiff_text, write_geotiff
from satcascade.errors import UsageError

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:.*geotransform, gcps, or rpcs")

PIXELS = np.random.default_rng(0).integers(1, 256, (6, 8, 3), np.uint8)
TRANSFORM = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)


def written(path: Path, values: np.ndarray = PIXELS, mask: np.ndarray | None = None, **options) -> Path:
    """A tile of 10 m a pixel in UTM zone 33."""
    bands = values.transpose(2, 0, 1)
    profile = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype.name,
        "crs": "EPSG:32633",
        "transform": TRANSFORM,
    }
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile | options) as dataset:
        dataset.write(bands)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def enlarged(source: Path, out: Path, pixels: np.ndarray | None = None):
    tile = read_geotiff(source)
    if pixels is None:
        pixels = tile.pixels.repeat(2, axis=0).repeat(2, axis=1)
    write_geotiff(out, pixels, tile, 2, {"Notice": "enlarged"})
    return rasterio.open(out)


def test_an_enlarged_tile_lies_where_the_tile_lies(tmp_path):
    with enlarged(written(tmp_path / "tile.tif"), tmp_path / "out.tif") as made:
        assert made.crs.to_epsg() == 32633
        assert made.transform == rasterio.Affine(5.0, 0.0, 500_000.0, 0.0, -5.0, 4_000_000.0)
        assert (made.count, made.width, made.height) == (3, 16, 12)
        assert tuple(made.bounds) == (500_000.0, 3_999_940.0, 500_080.0, 4_000_000.0)
        assert made.nodata is None
        assert (made.dataset_mask() == 255).all()
        assert made.tags()["Notice"] == "enlarged"
    assert read_geotiff_text(tmp_path / "out.tif")["Notice"] == "enlarged"


@pytest.mark.parametrize("nodata", [0, 255])
def test_nodata_stays_nodata_and_data_does_not_become_it(tmp_path, nodata):
    values = PIXELS.copy()
    values[:2, :3] = nodata
    source = written(tmp_path / "tile.tif", values, nodata=nodata)
    tile = read_geotiff(source)
    assert not tile.valid[:2, :3].any()
    # The network is shown the mean of the rest, not a black or white corner.
    assert np.abs(tile.pixels[0, 0] - values[tile.valid].mean(axis=0)).max() <= 0.5
    unlucky = np.full((12, 16, 3), nodata, np.uint8)
    with enlarged(source, tmp_path / "out.tif", unlucky) as made:
        assert made.nodata == nodata
        valid = made.dataset_mask() > 0
        assert np.array_equal(valid, tile.valid.repeat(2, axis=0).repeat(2, axis=1))
        assert (made.read()[:, valid] == abs(nodata - 1)).all()


def test_a_mask_stays_a_mask(tmp_path):
    mask = np.ones((6, 8), bool)
    mask[3:, 5:] = False
    with enlarged(written(tmp_path / "tile.tif", mask=mask), tmp_path / "out.tif") as made:
        assert made.nodata is None
        assert np.array_equal(made.dataset_mask() > 0, mask.repeat(2, axis=0).repeat(2, axis=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "tile.tif"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (PIXELS[..., :1], {}, "has one band"),
        (PIXELS.astype(np.uint16), {}, "has more than 8 bits a channel"),
        (
            np.concatenate([PIXELS, PIXELS[..., :1]], axis=2),
            {"photometric": "RGB", "alpha": "YES"},
            "has an alpha channel",
        ),
        (np.concatenate([PIXELS, PIXELS], axis=2), {}, "has channels in 6 bands: save it as RGB"),
        (np.zeros_like(PIXELS), {"nodata": 0}, "has no data: all of its pixels are nodata"),
    ],
)
def test_other_tiles_are_refused(tmp_path, values, options, message):
    with pytest.raises(UsageError, match=message):
        read_geotiff(written(tmp_path / "tile.tif", values, **options))


def test_a_tile_placed_by_control_points_is_refused(tmp_path):
    points = [
        rasterio.control.GroundControlPoint(row, column, 500_000.0 + column, 4_000_000.0 - row)
        for row, column in ((0, 0), (0, 8), (6, 0), (6, 8))
    ]
    path = written(tmp_path / "tile.tif", crs=None, transform=rasterio.Affine.identity())
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(32633))
    with pytest.raises(UsageError, match="ground control points: warp it first"):
        read_geotiff(path)


def test_broken_files_are_refused(tmp_path):
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(UsageError, match=r"text\.tif is not an image"):
        read_geotiff(tmp_path / "text.tif")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_geotiff(tmp_path / "none.tif")

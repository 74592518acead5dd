"""GeoTIFF and other tiles that are not 8 bits of one or three channels: bands, stretch, nodata, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from satcascade.cli import main
from satcascade.data.decode import decode_image
from satcascade.data.prepare import prepare
from satcascade.data.prepared import PreparedDataset
from satcascade.data.raster import RasterOptions, RasterReader
from satcascade.errors import SatcascadeError, UsageError

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIZE = 16


def write(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """A GeoTIFF of the bands (B, H, W), with a place on Earth."""
    settings = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.transform.from_origin(500_000, 5_000_000, 10, 10),
    }
    with rasterio.open(path, "w", **{**settings, **profile}) as dataset:
        dataset.write(bands)
    return path


def ramp(*ends: tuple[float, float], dtype: type = np.uint16, height: int = SIZE) -> np.ndarray:
    """Bands whose columns go evenly from one value to another."""
    rows = [np.linspace(low, high, SIZE) for low, high in ends]
    return np.stack([np.tile(row, (height, 1)) for row in rows]).astype(dtype)


def folder_of(folder: Path, tiles: dict[str, np.ndarray], **profile: Any) -> Path:
    folder.mkdir()
    lines = []
    for name, bands in tiles.items():
        write(folder / name, bands, **profile)
        lines.append(json.dumps({"file_name": name, "text": f"tile {name}", "split": "train"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def prepared(source: Path, out: Path, encoder: str, skip_bad: bool = False, **raster: Any) -> PreparedDataset:
    options = RasterOptions(**raster)
    prepare(source, out, image_size=SIZE, encoder=encoder, skip_bad=skip_bad, progress=False, raster=options)
    return PreparedDataset.open(out)


def decoded(path: Path, **raster: Any) -> np.ndarray:
    return decode_image(path.read_bytes(), SIZE, RasterReader(RasterOptions(**raster)))


def stretched(bands: np.ndarray, low: Any, high: Any) -> np.ndarray:
    scaled = (bands.astype(np.float64) - low) / (np.asarray(high) - low)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_values_of_every_type_are_stretched_between_percentiles(dtype: type, tmp_path: Path) -> None:
    bands = ramp((0, 200), (10, 90), (100, 250), dtype=dtype)
    image = decoded(write(tmp_path / "a.tif", bands), stretch=(10, 90), per_image=True)
    for channel in range(3):
        low, high = np.percentile(bands[channel].astype(np.float64), (10, 90))
        np.testing.assert_array_equal(image[..., channel], stretched(bands[channel], low, high))


def test_8_bits_are_shown_as_they_are_and_more_are_stretched(tmp_path: Path) -> None:
    bands = ramp((20, 60), (30, 70), (40, 80), dtype=np.uint8)
    plain = decoded(write(tmp_path / "a.tif", bands))
    np.testing.assert_array_equal(plain, bands.transpose(1, 2, 0))
    deep = decoded(write(tmp_path / "b.tif", bands.astype(np.uint16) * 100))
    assert deep.min() == 0
    assert deep.max() == 255


def test_a_set_has_one_range_unless_each_image_is_asked_its_own(
    tmp_path: Path, tiny_text_encoder: str
) -> None:
    tiles = {"dark.tif": ramp(*[(0, 1000)] * 3), "light.tif": ramp(*[(2000, 3000)] * 3)}
    source = folder_of(tmp_path / "tiles", tiles)
    together = prepared(source, tmp_path / "set", tiny_text_encoder, stretch=(0, 100))
    dark, light = (image[0, :, 0].astype(int) for image in together.images)
    assert (dark[0], dark[-1], light[0], light[-1]) == (0, 85, 170, 255)
    assert together.manifest["stretched"] == {"3": [[0.0, 3000.0]] * 3}
    assert together.manifest["raster"]["stretch"] == [0, 100]

    apart = prepared(source, tmp_path / "apart", tiny_text_encoder, stretch=(0, 100), per_image=True)
    for image in apart.images:
        assert (image[0, 0, 0], image[0, -1, 0]) == (0, 255)
    assert apart.manifest["stretched"] == {}
    assert apart.hash != together.hash


def test_bands_are_chosen_in_their_order(tmp_path: Path) -> None:
    bands = np.stack([np.full((SIZE, SIZE), 10 * band, np.uint8) for band in range(1, 6)])
    path = write(tmp_path / "a.tif", bands)
    assert decoded(path, bands=(4, 3, 2))[0, 0].tolist() == [40, 30, 20]
    assert decoded(path, bands=(5,))[0, 0].tolist() == [50, 50, 50]


def test_a_fourth_band_is_left_out_and_colours_go_by_their_names(tmp_path: Path) -> None:
    bands = np.stack([np.full((SIZE, SIZE), value, np.uint8) for value in (10, 20, 30, 200)])
    path = write(tmp_path / "a.tif", bands, photometric="MINISBLACK")
    assert decoded(path)[0, 0].tolist() == [10, 20, 30]
    with rasterio.open(path, "r+") as dataset:
        names = ("blue", "green", "red", "undefined")
        dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    assert decoded(path)[0, 0].tolist() == [30, 20, 10]


def test_one_band_is_grey_and_a_palette_is_colours(tmp_path: Path) -> None:
    grey = decoded(write(tmp_path / "grey.tif", ramp((0, 4000))), stretch=(0, 100))
    assert (grey == grey[..., :1]).all()
    assert grey[0, -1].tolist() == [255, 255, 255]
    path = write(tmp_path / "palette.tif", np.ones((1, SIZE, SIZE), np.uint8), nodata=7)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (10, 120, 30, 255)})
    assert decoded(path)[0, 0].tolist() == [10, 120, 30]


@pytest.mark.parametrize(("dtype", "nodata"), [(np.uint16, 0), (np.float32, -9999), (np.float32, np.nan)])
def test_nodata_is_black_and_not_counted(dtype: type, nodata: float, tmp_path: Path) -> None:
    bands = ramp(*[(1000, 2000)] * 3, dtype=dtype)
    bands[:, :4] = nodata
    image = decoded(write(tmp_path / "a.tif", bands, nodata=nodata), stretch=(0, 100))
    assert (image[:4] == 0).all()
    np.testing.assert_array_equal(image[4:, :, 0], stretched(bands[0, 4:], 1000, 2000))


def test_a_transparent_part_is_nodata(tmp_path: Path) -> None:
    pixels = np.full((SIZE, SIZE, 4), 90, np.uint8)
    pixels[:12, :, 3] = 0
    pixels[12:, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="75% nodata, more than 50%"):
        decoded(tmp_path / "a.tif")
    image = decoded(tmp_path / "a.tif", max_nodata=0.8)
    assert (image[:12] == 0).all()
    assert (image[12:] == 90).all()


def test_tiles_with_too_little_data_are_refused_or_skipped(tmp_path: Path, tiny_text_encoder: str) -> None:
    empty = ramp(*[(1, 9)] * 3)
    empty[:, :12] = 0
    source = folder_of(tmp_path / "tiles", {"a.tif": ramp(*[(1, 9)] * 3), "b.tif": empty}, nodata=0)
    with pytest.raises(SatcascadeError, match=r"b\.tif \(75% nodata, more than 50%\)"):
        prepared(source, tmp_path / "out", tiny_text_encoder)
    assert not (tmp_path / "out").exists()
    kept = prepared(source, tmp_path / "out", tiny_text_encoder, skip_bad=True)
    assert [record.filename for record in kept.records] == ["a.tif"]
    assert len(prepared(source, tmp_path / "all", tiny_text_encoder, max_nodata=0.8)) == 2


def test_a_tile_that_is_no_square_is_cropped_at_its_centre(tmp_path: Path) -> None:
    bands = np.zeros((3, 3 * SIZE, SIZE), np.uint16)
    bands[:, SIZE : 2 * SIZE] = ramp(*[(0, 1000)] * 3)
    image = decoded(write(tmp_path / "a.tif", bands), stretch=(0, 100))
    np.testing.assert_array_equal(image[..., 0], stretched(bands[0, SIZE : 2 * SIZE], 0, 1000))


def test_a_16_bit_png_is_stretched_too(tmp_path: Path) -> None:
    bands = ramp(*[(100, 300)] * 3)
    write(tmp_path / "a.png", bands, driver="PNG", crs=None, transform=None)
    image = decoded(tmp_path / "a.png", stretch=(0, 100))
    np.testing.assert_array_equal(image[..., 0], stretched(bands[0], 100, 300))


@pytest.mark.parametrize(
    ("count", "raster", "message"),
    [
        (4, {"bands": (4, 3, 7)}, r"a\.tif has 4 bands, no band 7: choose from 1 to 4 with --bands"),
        (13, {}, r"a\.tif has 13 bands: say which to show with --bands"),
        (2, {}, r"a\.tif has 2 bands: say which to show with --bands"),
    ],
)
def test_bands_that_do_not_fit_are_one_line(
    count: int, raster: dict[str, Any], message: str, tmp_path: Path, tiny_text_encoder: str
) -> None:
    source = folder_of(tmp_path / "tiles", {"a.tif": ramp(*[(0, 9)] * count), "b.tif": ramp((0, 9))})
    with pytest.raises(UsageError, match=message) as caught:
        prepared(source, tmp_path / "out", tiny_text_encoder, **raster)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_stretch_over_several_types_is_refused(tmp_path: Path, tiny_text_encoder: str) -> None:
    tiles = {"a.tif": ramp(*[(0, 9000)] * 3), "b.tif": ramp(*[(0, 1)] * 3, dtype=np.float32)}
    source = folder_of(tmp_path / "tiles", tiles)
    with pytest.raises(SatcascadeError, match=r"several types \(float32, uint16\).*--per-image"):
        prepared(source, tmp_path / "out", tiny_text_encoder)
    assert len(prepared(source, tmp_path / "out", tiny_text_encoder, per_image=True)) == 2


@pytest.mark.parametrize("left", [60, 400, 1500])
def test_a_truncated_tiff_is_named(left: int, tmp_path: Path, tiny_text_encoder: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 4000, (3, 64, 64)).astype(np.uint16)
    source = folder_of(tmp_path / "tiles", {"a.tif": noise, "b.tif": noise}, compress="deflate")
    path = source / "b.tif"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        SatcascadeError, match=r"broken image: 1: b\.tif \((not an image|cut short)"
    ) as caught:
        prepared(source, tmp_path / "out", tiny_text_encoder)
    assert "vsimem" not in str(caught.value)


def test_without_rasterio_one_line_names_the_extra_and_plain_images_still_work(
    tmp_path: Path, tiny_text_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder_of(tmp_path / "deep", {"a.tif": ramp(*[(0, 9000)] * 3)})
    plain = folder_of(tmp_path / "plain", {"a.tif": ramp(*[(0, 90)] * 3, dtype=np.uint8)})
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SatcascadeError, match=r'pip install "satcascade\[geo\]"') as caught:
        prepared(deep, tmp_path / "deep.out", tiny_text_encoder)
    assert "\n" not in str(caught.value)
    assert len(prepared(plain, tmp_path / "plain.out", tiny_text_encoder)) == 1


def test_other_options_are_another_set(tmp_path: Path, tiny_text_encoder: str) -> None:
    source = folder_of(tmp_path / "tiles", {"a.tif": ramp(*[(0, 9000)] * 4)})
    first = prepared(source, tmp_path / "out", tiny_text_encoder)
    with pytest.raises(SatcascadeError, match=r"bands None there, \[4, 3, 2\] asked for"):
        prepared(source, tmp_path / "out", tiny_text_encoder, bands=(4, 3, 2))
    # The bands are equal, so that nothing but the option tells the sets apart.
    assert prepared(source, tmp_path / "other", tiny_text_encoder, bands=(4, 3, 2)).hash != first.hash


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--bands=4,3", "give one or three numbers"),
        ("--bands=0,1,2", "counted from 1"),
        ("--bands=red", "give whole numbers with commas"),
        ("--stretch=98,2", "give a low and a high percentile"),
        ("--stretch=2", "give a low and a high percentile"),
        ("--max-nodata=50", "give 0 to 1"),
    ],
)
def test_impossible_options_are_one_line(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", str(tmp_path), str(tmp_path / "out"), option])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command_takes_the_options(tmp_path: Path, tiny_text_encoder: str) -> None:
    source = folder_of(tmp_path / "tiles", {"a.tif": ramp((0, 9), (0, 90), (0, 900), (0, 9000))})
    arguments = ["prepare", str(source), str(tmp_path / "out"), "--encoder", tiny_text_encoder, "--quiet"]
    options = ["--bands", "4,3,2", "--stretch", "1,99", "--per-image", "--max-nodata", "0.1"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *options, "--image-size", "16"])
    assert caught.value.code == 0
    assert PreparedDataset.open(tmp_path / "out").manifest["raster"] == {
        "bands": [4, 3, 2],
        "stretch": [1.0, 99.0],
        "per_image": True,
        "max_nodata": 0.1,
    }

"""Pictures that people bring: bounded, turned upright, cut to a square; and what they paint over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satcascade.errors import UsageError
from satcascade.web import uploads
from satcascade.web.uploads import open_upload, painted_mask


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif"])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (16, 16)])
def test_any_usual_picture_becomes_a_square(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    Image.new("RGB", shape, "red").save(tmp_path / name)
    opened = open_upload(tmp_path / name, 32)
    assert (opened.mode, opened.size) == ("RGB", (32, 32))
    assert np.allclose(np.asarray(opened), (255, 0, 0), atol=8)


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), "blue")
    image.paste("red", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    opened = np.asarray(open_upload(tmp_path / "a.png", 20))
    assert opened[-1, 0].tolist() == [255, 0, 0]


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch) -> None:
    Image.new("1", (8_000, 8_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UsageError, match="8000 x 8000 pixels: at most 40 million"):
        open_upload(tmp_path / "bomb.png", 32)


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 2**20)
    (tmp_path / "a.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(UsageError, match="1 MB: at most 1 MB"):
        open_upload(tmp_path / "a.png", 32)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UsageError, match="give a PNG or a JPEG") as refusal:
        open_upload(tmp_path / "a.png", 32)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


@given(cut=st.integers(1, 400))
def test_a_picture_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: -cut - 40])
    with pytest.raises(UsageError, match="cannot be read"):
        open_upload(path, 32)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="8 bits"):
        open_upload(tmp_path / "a.png", 32)


def layer(size: int, *boxes: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (size, size))
    for box in boxes:
        image.paste((255, 0, 255, 200), box)
    return image


def test_a_mask_is_where_any_layer_is_painted() -> None:
    mask = np.asarray(painted_mask([layer(64, (0, 0, 4, 4)), layer(64, (60, 60, 64, 64))], 32))
    expected = np.zeros((32, 32), np.uint8)
    expected[:2, :2] = expected[30:, 30:] = 255
    assert np.array_equal(mask, expected)


def test_a_pixel_painted_in_part_is_in_the_mask() -> None:
    mask = np.asarray(painted_mask([layer(64, (10, 10, 11, 11))], 32))
    assert mask[5, 5] == 255
    assert np.count_nonzero(mask) == 1


@pytest.mark.parametrize("layers", [[], [layer(64)]])
def test_painting_nothing_is_refused(layers: list[Image.Image]) -> None:
    with pytest.raises(UsageError, match="nothing is painted over"):
        painted_mask(layers, 32)

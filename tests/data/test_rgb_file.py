"""Images of the user's own: what is taken, and what is refused with a word on what to do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satcascade.data.rgb_file import read_rgb
from satcascade.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def saved(folder: Path, image: Image.Image, **options) -> Path:
    image.save(folder / "mine.png", **options)
    return folder / "mine.png"


def test_rgb_is_taken_as_it_is(tmp_path):
    assert np.array_equal(read_rgb(saved(tmp_path, Image.fromarray(PIXELS))), PIXELS)


def test_a_palette_is_shown_in_its_colours(tmp_path):
    image = Image.fromarray(PIXELS).quantize(16)
    assert np.array_equal(read_rgb(saved(tmp_path, image)), np.asarray(image.convert("RGB")))


def test_an_opaque_alpha_channel_is_none(tmp_path):
    assert np.array_equal(read_rgb(saved(tmp_path, Image.fromarray(PIXELS).convert("RGBA"))), PIXELS)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_picture_is_turned_as_its_camera_says(tmp_path, ending):
    exif = Image.Exif()
    # Turned by a quarter to the right to be shown.
    exif[0x0112] = 6
    pixels = np.full((16, 24, 3), 40, np.uint8)
    pixels[:, :12] = 200
    Image.fromarray(pixels).save(tmp_path / f"mine.{ending}", exif=exif)
    found = read_rgb(tmp_path / f"mine.{ending}")
    assert found.shape == (24, 16, 3)
    assert found[:10].min() > 150
    assert found[14:].max() < 90


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(PIXELS).convert(mode)
    image.putpixel((2, 3), (0,) * len(image.getbands()))
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (transparent("RGBA"), "has transparent pixels (an alpha channel): flatten it to RGB first"),
        (transparent("LA"), "has transparent pixels"),
        (Image.fromarray(PIXELS).convert("LA"), "has one band, the model makes red, green and blue"),
        (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200), "has more than 8 bits a channel"),
        (Image.fromarray(PIXELS[..., 0]), "has one band"),
        (Image.fromarray(PIXELS[..., 0] > 99), "has one band"),
    ],
)
def test_other_channels_are_refused_in_one_line(tmp_path, image, message):
    with pytest.raises(UsageError, match=re.escape(f"mine.png {message}")) as refused:
        read_rgb(saved(tmp_path, image))
    assert "\n" not in str(refused.value)


def test_sixteen_bits_of_three_channels_are_refused(tmp_path):
    """Pillow would show them as 8; the header of such a PNG is enough."""
    path = saved(tmp_path, Image.fromarray(PIXELS))
    content = bytearray(path.read_bytes())
    content[24] = 16
    path.write_bytes(bytes(content))
    with pytest.raises(
        UsageError, match="more than 8 bits a channel: convert it to 8 bits first, for example"
    ):
        read_rgb(path)


def test_transparent_colours_are_refused(tmp_path):
    colour = tuple(PIXELS[0, 0].tolist())
    with pytest.raises(UsageError, match="transparent pixels"):
        read_rgb(saved(tmp_path, Image.fromarray(PIXELS), transparency=colour))


def test_inks_are_refused(tmp_path):
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "inks.jpg")
    with pytest.raises(UsageError, match=r"has four bands of inks, .* convert it to RGB first"):
        read_rgb(tmp_path / "inks.jpg")


def test_no_image_and_half_an_image_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read_rgb(tmp_path / "text.png")
    path = saved(tmp_path, Image.fromarray(PIXELS))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read_rgb(path)
    with pytest.raises(UsageError, match="no image file"):
        read_rgb(tmp_path / "none.png")

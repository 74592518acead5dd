"""Images of the user's own: what is taken, and what is refused with a word on what to do."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.fromarray(PIXELS).convert("RGBA"),
            "has an alpha channel: save it as RGB without transparency",
        ),
        (Image.fromarray(PIXELS).convert("LA"), "has an alpha channel"),
        (
            Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200),
            "has more than 8 bits a channel: stretch it",
        ),
        (Image.fromarray(PIXELS[..., 0]), "has one band: save it as RGB"),
        (Image.fromarray(PIXELS[..., 0] > 99), "has one band: save it as RGB"),
    ],
)
def test_other_channels_are_refused(tmp_path, image, message):
    with pytest.raises(UsageError, match=message):
        read_rgb(saved(tmp_path, image))


def test_transparent_colours_are_refused(tmp_path):
    with pytest.raises(UsageError, match="alpha"):
        read_rgb(saved(tmp_path, Image.fromarray(PIXELS), transparency=(0, 0, 0)))


def test_inks_are_refused(tmp_path):
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "inks.jpg")
    with pytest.raises(UsageError, match="has channels CMYK: save it as RGB"):
        read_rgb(tmp_path / "inks.jpg")


def test_no_image_and_half_an_image_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UsageError, match="is not an image"):
        read_rgb(tmp_path / "text.png")
    path = saved(tmp_path, Image.fromarray(PIXELS))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match="damaged or cut short"):
        read_rgb(path)
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        read_rgb(tmp_path / "none.png")

"""Pictures that people bring: bounded before they are decoded, and brought to the model's size."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from satcascade.errors import UsageError, one_line

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


def open_upload(path: str | Path, size: int) -> Image.Image:
    """Open an image file as a square of RGB pixels: turned upright, cut at the centre, resized.

    Args:
        path: the file.
        size: side of the result in pixels.

    Raises:
        UsageError: the file is too large, has too many pixels, or is no image that can be read.
    """
    path = Path(path)
    if (length := path.stat().st_size) > MOST_BYTES:
        raise UsageError(
            f"the file has {length / 2**20:.0f} MB: at most {MOST_BYTES // 2**20} MB are possible"
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns at a number of pixels of its own; ours is below it and is refused.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            check_pixels(image)
            if image.mode[0] in "IF":
                raise UsageError(
                    "the picture has more than 8 bits a channel: give one of 8 bits, such as a PNG or a JPEG"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except UsageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise UsageError(f"the file cannot be read as a picture ({why}): give a PNG or a JPEG") from error
    return ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)


def check_pixels(image: Image.Image) -> None:
    """Refuse an image with too many pixels.

    Raises:
        UsageError: it has.
    """
    if image.width * image.height > MOST_PIXELS:
        raise UsageError(
            f"the picture has {image.width} x {image.height} pixels: at most "
            f"{MOST_PIXELS // 1_000_000} million are possible"
        )


def painted_mask(layers: Sequence[Image.Image], size: int) -> Image.Image:
    """What was painted over, as a mask.

    Args:
        layers: of the editor, with an alpha channel; painted where that is not 0.
        size: side of the result in pixels.

    Returns:
        Mode ``L``, 255 where any of a pixel was painted over and 0 elsewhere.

    Raises:
        UsageError: nothing was, or a layer has too many pixels.
    """
    mask = Image.new("L", (size, size))
    for layer in layers:
        check_pixels(layer)
        alpha = layer.convert("RGBA").getchannel("A").resize((size, size), Image.Resampling.BOX)
        mask = ImageChops.lighter(mask, alpha.point(lambda level: 255 if level else 0))
    if mask.getbbox() is None:
        raise UsageError("nothing is painted over: paint over what is to change, or change the whole picture")
    return mask

"""Image files of the user's own that are to be worked on: one reader, one set of rules for what is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from satcascade.errors import UsageError, one_line
from satcascade.pipelines.image_input import DEEP, rgb_of

# Where a PNG says how many bits a channel has.
_PNG, _BIT_DEPTH = b"\x89PNG\r\n\x1a\n", 24


def open_image(path: Path) -> Image.Image:
    """An image file, decoded and turned as its EXIF orientation says.

    Raises:
        UsageError: there is no such file, it is no image or cut short, or has 16 bits a channel, which
            Pillow would cut to 8 without a word.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_BIT_DEPTH + 1)
        if start.startswith(_PNG) and start[_BIT_DEPTH:] == b"\x10":
            raise UsageError(f"{path} has more than 8 bits a channel: {DEEP}")
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"no image file {path}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise UsageError(f"{path} cannot be read as an image ({one_line(error)})") from error


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels of an image file, (H, W, 3) uint8.

    Taken is what :func:`satcascade.pipelines.image_input.rgb_of` takes: RGB of 8 bits, a palette, and an
    alpha channel that is opaque everywhere.

    Raises:
        UsageError: it cannot be read, or has other channels; what to do is said.
    """
    return np.array(rgb_of(open_image(path), str(path)))

"""An image of the user's own that is to be worked on: 8 bits, red, green and blue, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from satcascade.errors import UsageError


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels of an image file as they are: (H, W, 3) uint8.

    Raises:
        UsageError: there is no such file, it is no image or cut short, or it has other channels than red,
            green and blue of 8 bits; what to do is said.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UsageError(f"image {path} cannot be read: {error.strerror or error}") from error
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            mode, transparent = image.mode, "transparency" in image.info
            # Pillow cuts 16 bits of three channels to their upper eight without a word.
            deep = encoded[:8] == b"\x89PNG\r\n\x1a\n" and encoded[24] == 16
            pixels = np.array(image.convert("RGB")) if mode in ("RGB", "P") else None
    except UnidentifiedImageError as error:
        raise UsageError(f"{path} is not an image") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise UsageError(f"image {path} is damaged or cut short ({error})") from error
    check_channels(path, "alpha" if "A" in mode or transparent else mode, deep)
    assert pixels is not None
    return pixels


def check_channels(path: Path, mode: str, deep: bool) -> None:
    """Refuse an image that is not 8 bits of red, green and blue.

    Args:
        path: its file, for the message.
        mode: ``alpha`` for one with an alpha channel, otherwise as Pillow calls it.
        deep: whether it has more than 8 bits a channel.

    Raises:
        UsageError: it is not; what it is and what to do is said.
    """
    if mode == "alpha":
        raise UsageError(f"{path} has an alpha channel: save it as RGB without transparency")
    if deep or mode[0] in "IF":
        raise UsageError(
            f"{path} has more than 8 bits a channel: stretch it to 8 bits first, for example with "
            "gdal_translate -ot Byte -scale"
        )
    if mode in ("1", "L"):
        raise UsageError(f"{path} has one band: save it as RGB (three equal bands show it in grey)")
    if mode not in ("RGB", "P"):
        raise UsageError(f"{path} has channels {mode}: save it as RGB")

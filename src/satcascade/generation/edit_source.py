"""The image that a run edits: read from a file, checked, brought to the size that a model makes, put back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from satcascade.data.rgb_file import open_image
from satcascade.errors import UsageError
from satcascade.io.hashing import sha256_of_file
from satcascade.pipelines.edit import (
    FEATHER,
    IMAGE_TO_IMAGE_STRENGTH,
    INPAINTING_STRENGTH,
    FullMaskWarning,
    check_edit,
)
from satcascade.pipelines.image_input import mask_of, rgb_of

Box = tuple[int, int, int, int]


class ResizedImageWarning(UserWarning):
    """An image was cropped or resized to the size that a model makes."""


@dataclass(frozen=True)
class EditSource:
    """An image file to edit, and how.

    Attributes:
        image: the file.
        mask: file of a mask of the image's size, white where it is remade; or
        box: left, top, width and height of the part to remake, in pixels. Without either, all of it may
            change.
        strength, resampling, feather, seamless: as the pipeline's call takes them; None is its default.

    Raises:
        UsageError: a number is out of its range, or mask and box are both given.
    """

    image: Path
    mask: Path | None = None
    box: Box | None = None
    strength: float | None = None
    resampling: int = 1
    feather: int | None = None
    seamless: bool = True

    def __post_init__(self) -> None:
        if self.mask is not None and self.box is not None:
            raise UsageError("say in one way what is to be remade: a mask or a box")
        check_edit(self.strength, self.resampling, self.feather, masked=self.masked)

    @property
    def masked(self) -> bool:
        """Whether a part of the image is remade."""
        return self.mask is not None or self.box is not None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the pipeline's call, and what the records say: no default is left open."""
        if not self.masked:
            return {"strength": IMAGE_TO_IMAGE_STRENGTH if self.strength is None else self.strength}
        return {
            "strength": INPAINTING_STRENGTH if self.strength is None else self.strength,
            "resampling": self.resampling,
            "feather": FEATHER if self.feather is None else self.feather,
            "seamless": self.seamless,
        }


@dataclass(frozen=True)
class FittedImage:
    """An image to edit at the size that a model makes.

    Attributes:
        image: S x S, RGB.
        mask: S x S, mode ``1``, white where it is remade; None where all of it may change.
        record: what was done to the file, and which one it was: JSON for the records of the images.
    """

    image: Image.Image
    mask: Image.Image | None
    record: dict[str, Any]
    _whole: Image.Image
    _window: Box | None

    def put_back(self, made: Image.Image) -> Image.Image:
        """A picture that was made of ``image``, in its place in the whole image."""
        if self._window is None:
            return made
        whole = self._whole.copy()
        whole.paste(made, self._window[:2])
        return whole


def fitted(source: EditSource, size: int) -> FittedImage:
    """Read an image, and bring it to the size that a model makes.

    An image of that size stays as it is. Of a larger one with a mask, a window around the mask is edited, and
    the result is the whole image. Any other is cropped at its centre to a square and resized (bicubic), mask
    and all.

    Args:
        source: which image, and what of it.
        size: S.

    Raises:
        UsageError: a file cannot be read or is no plain RGB image, the mask has another size than the image
            or nothing white in it, the box lies outside, or the mask spans more than the model makes.

    Warns:
        ResizedImageWarning: the image was cropped or resized.
        FullMaskWarning: the mask is white everywhere.
    """
    image = rgb_of(open_image(source.image), str(source.image))
    mask = _mask(source, image)
    record: dict[str, Any] = {
        "image": source.image.name,
        "image_sha256": sha256_of_file(source.image),
        "mask_sha256": None if source.mask is None else sha256_of_file(source.mask),
        "box": None if source.box is None else list(source.box),
    }
    if image.size == (size, size):
        return FittedImage(image, mask, record | {"fit": "as it is"}, image, None)
    if mask is not None and min(image.size) >= size:
        window = _window(mask, size)
        fit = f"window {size} x {size} at {window[0]},{window[1]}"
        return FittedImage(image.crop(window), mask.crop(window), record | {"fit": fit}, image, window)
    warnings.warn(
        f"{source.image} is {image.width} x {image.height} px: it is cropped at its centre to a square and "
        f"resized to {size} x {size} px, which the model makes",
        ResizedImageWarning,
        stacklevel=2,
    )
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    if mask is not None:
        # A pixel is remade where any part of it is marked.
        grey = ImageOps.fit(mask.convert("L"), (size, size), Image.Resampling.BOX)
        mask = grey.point(lambda level: 255 * (level > 0), mode="1")
        if mask.getbbox() is None:
            raise UsageError(
                f"what is to be remade of {source.image} lies outside of the square at its centre: crop it "
                "yourself"
            )
    return FittedImage(
        square, mask, record | {"fit": f"centre crop, resized to {size} x {size}"}, square, None
    )


def _mask(source: EditSource, image: Image.Image) -> Image.Image | None:
    """The mask of a source, mode ``1``, of the size of its image; None where it has none."""
    if source.mask is not None:
        mask = mask_of(open_image(source.mask), str(source.mask))
        if mask.size != image.size:
            raise UsageError(
                f"{source.mask} is {mask.width} x {mask.height} px, {source.image} is {image.width} x "
                f"{image.height}: give a mask of the image's size"
            )
    elif source.box is not None:
        left, top, width, height = source.box
        if width < 1 or height < 1 or left < 0 or top < 0:
            raise UsageError(
                f"box {','.join(map(str, source.box))} is not possible: give left, top, width and height"
            )
        if left + width > image.width or top + height > image.height:
            raise UsageError(
                f"box {','.join(map(str, source.box))} lies outside of {source.image}, which is "
                f"{image.width} x {image.height} px"
            )
        mask = Image.new("1", image.size)
        mask.paste(1, (left, top, left + width, top + height))
    else:
        return None
    lowest, highest = mask.getextrema()
    if not highest:
        raise UsageError(
            f"{source.mask} is black everywhere, so that nothing would be remade: paint that part white"
        )
    if lowest:
        warnings.warn(
            f"all of {source.image} is remade: the mask is white everywhere", FullMaskWarning, stacklevel=3
        )
    return mask


def _window(mask: Image.Image, size: int) -> Box:
    """A window around what is white: left, top, right, bottom.

    Raises:
        UsageError: it is too large for that.
    """
    box = mask.getbbox()
    assert box is not None
    left, top, right, bottom = box
    if max(right - left, bottom - top) > size:
        raise UsageError(
            f"the part to remake spans {right - left} x {bottom - top} px, the model makes {size} x {size}: "
            "remake a smaller part, or make the image smaller"
        )
    start_x, start_y = (
        min(max((low + high - size) // 2, 0), length - size)
        for low, high, length in ((left, right, mask.width), (top, bottom, mask.height))
    )
    return start_x, start_y, start_x + size, start_y + size

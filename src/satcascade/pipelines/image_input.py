"""Images and masks as callers hold them, to tensors: PIL images, arrays, tensors, lists of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from satcascade.errors import UsageError

ImageInput = PIL.Image.Image | np.ndarray | Tensor | Sequence[Any]

# What to do with deeper images.
DEEP = "convert it to 8 bits first, for example with gdal_translate -ot Byte -scale"
_MODES = {"L": "one band", "1": "one band", "LA": "one band", "CMYK": "four bands of inks"}


def rgb_of(image: PIL.Image.Image, name: str = "the image") -> PIL.Image.Image:
    """An image as RGB, if that loses nothing of it.

    Args:
        image: of 8 bits; RGB, a palette, or with an alpha channel that is opaque everywhere.
        name: what messages call it.

    Raises:
        UsageError: it has transparent pixels, more than 8 bits a channel, or other bands.
    """
    _check_plain(image, name)
    if image.mode in _MODES:
        raise UsageError(
            f"{name} has {_MODES[image.mode]}, the model makes red, green and blue: convert it to RGB first"
        )
    return image.convert("RGB")


def mask_of(image: PIL.Image.Image, name: str = "the mask") -> PIL.Image.Image:
    """A mask as black and white, mode ``1``: white is what is at least half white.

    Raises:
        UsageError: it has transparent pixels, or more than 8 bits a channel.
    """
    _check_plain(image, name)
    return image.convert("RGB").convert("L").point(lambda level: 255 * (level >= 128), mode="1")


def _check_plain(image: PIL.Image.Image, name: str) -> None:
    if image.mode[0] in "IF":
        raise UsageError(f"{name} has more than 8 bits a channel ({image.mode}): {DEEP}")
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and min(image.convert("RGBA").getchannel("A").tobytes()) < 255:
        raise UsageError(f"{name} has transparent pixels (an alpha channel): flatten it to RGB first")


def images_of(given: ImageInput, size: int) -> Tensor:
    """Images (N, 3, S, S) in [0, 1], float32 on the CPU.

    Args:
        given: a PIL image, an array (N, S, S, 3) or (S, S, 3) of bytes or of numbers in [0, 1], a tensor
            (N, 3, S, S) or (3, S, S) in [0, 1], or a list of any of these.
        size: S.

    Raises:
        UsageError: it is none of these, or of another size.
    """
    if isinstance(given, list | tuple):
        if not given:
            raise UsageError("no images to edit: give at least one")
        return torch.cat([images_of(each, size) for each in given])
    if isinstance(given, PIL.Image.Image):
        given = np.asarray(rgb_of(given))
    if isinstance(given, np.ndarray):
        tensor = torch.from_numpy(_unit(given))
        tensor = tensor.movedim(-1, -3)
    elif isinstance(given, Tensor):
        tensor = given.detach().cpu().float()
    else:
        raise UsageError(
            f"the image is of type {type(given).__name__}: give a PIL image, an array or a tensor"
        )
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise UsageError(
            f"the image has shape {tuple(given.shape)}: give an array (N, S, S, 3) or a tensor (N, 3, S, S)"
        )
    _check_size(tensor, size, "the image")
    if not (tensor.min() >= 0 and tensor.max() <= 1):
        raise UsageError("the image has values out of [0, 1]: scale it to that range first")
    return tensor.contiguous()


def masks_of(given: ImageInput, size: int) -> Tensor:
    """Masks (N, 1, S, S) bool, True where they are at least half white.

    Args:
        given: a PIL image, an array or a tensor (N, 1, S, S), (N, S, S) or (S, S) of booleans, bytes or
            numbers in [0, 1], or a list of any of these.
        size: S.

    Raises:
        UsageError: it is none of these, of another size than the image, or black everywhere.
    """
    if isinstance(given, list | tuple):
        if not given:
            raise UsageError("no masks: give at least one")
        return torch.cat([masks_of(each, size) for each in given])
    if isinstance(given, PIL.Image.Image):
        given = np.asarray(mask_of(given))
    if isinstance(given, np.ndarray):
        tensor = torch.from_numpy(_unit(given))
    elif isinstance(given, Tensor):
        tensor = given.detach().cpu().float()
    else:
        raise UsageError(
            f"the mask is of type {type(given).__name__}: give a PIL image, an array or a tensor"
        )
    if tensor.ndim == 4 and 1 in (tensor.shape[1], tensor.shape[3]):
        tensor = tensor[:, 0] if tensor.shape[1] == 1 else tensor[..., 0]
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        raise UsageError(f"the mask has shape {tuple(given.shape)}: give one channel, (N, 1, S, S) or (S, S)")
    masks = tensor[:, None] >= 0.5
    _check_size(masks, size, "the mask")
    if not masks.flatten(1).any(dim=1).all():
        raise UsageError(
            "the mask is black everywhere, so that nothing would be remade: paint that part white"
        )
    return masks


def _unit(array: np.ndarray) -> np.ndarray:
    """Bytes as numbers in [0, 1], others as they are; float32."""
    scale = 255 if array.dtype == np.uint8 else 1
    return array.astype(np.float32) / scale


def _check_size(batch: Tensor, size: int, name: str) -> None:
    height, width = batch.shape[-2:]
    if (height, width) != (size, size):
        raise UsageError(
            f"{name} is {width} x {height} px, this model edits {size} x {size}: crop or resize it, for "
            f"example with PIL.ImageOps.fit(image, ({size}, {size}))"
        )

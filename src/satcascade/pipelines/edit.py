"""Images to edit and masks as a caller gives them, checked, and as the stages of a cascade take them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from satcascade.errors import UsageError
from satcascade.pipelines.image_input import ImageInput, images_of, masks_of
from satcascade.sampling.edit import StageEdit
from satcascade.sampling.mask import feathered, mask_at
from satcascade.sampling.membrane import REACH, joined
from satcascade.sampling.stage import SamplingStage

INPAINTING_STRENGTH, IMAGE_TO_IMAGE_STRENGTH = 1.0, 0.8
FEATHER = 8


class FullMaskWarning(UserWarning):
    """A mask is white everywhere: nothing of the image stays."""


@dataclass(frozen=True)
class ImageEdit:
    """Images to edit, for the whole cascade.

    Attributes:
        images: (B, 3, S, S) in [-1, 1], of the size of the last stage.
        mask: (B, 1, S, S) bool, True where they are remade; None where they may change everywhere.
        strength: 0 to 1, see :class:`satcascade.sampling.edit.StageEdit`.
        resampling: likewise.
        feather: pixels of the last stage over which what is made fades in, inside of the mask's edge.
        seamless: shift what is made, near the mask's edge, so that its colours meet the image's (Perez et al.
            2003, "Poisson image editing").
    """

    images: Tensor
    mask: Tensor | None = None
    strength: float = INPAINTING_STRENGTH
    resampling: int = 1
    feather: int = FEATHER
    seamless: bool = True

    def of_stage(self, stage: SamplingStage) -> StageEdit:
        """The edit as a stage takes it: of its size, and encoded."""
        mask = self.mask
        if mask is not None:
            # By way of pixels, so that a latent is remade where any pixel of it is.
            mask = mask_at(mask_at(mask, stage.image_size), stage.shape[-1])
        known = stage.codec.encode(self._images_at(stage.image_size)).float()
        return StageEdit(known, mask, self.strength, self.resampling)

    def blended(self, made: Tensor) -> Tensor:
        """Images (B, 3, s, s) that a stage has made, with the images themselves outside of the mask."""
        if self.mask is None:
            return made
        size = made.shape[-1]
        # As wide in a smaller stage as in the picture.
        width = round(self.feather * size / self.images.shape[-1])
        mask, images = mask_at(self.mask, size), self._images_at(size)
        made = joined(made, images, mask, REACH * size if self.seamless else 0.0)
        return torch.lerp(images, made, feathered(mask, width))

    def _images_at(self, size: int) -> Tensor:
        if self.images.shape[-1] == size:
            return self.images
        return F.interpolate(
            self.images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(-1, 1)


def image_edit(
    captions: int,
    images_of_each: int,
    stage: SamplingStage,
    *,
    image: ImageInput | None,
    mask_image: ImageInput | None,
    strength: float | None,
    resampling: int,
    feather: int | None,
    seamless: bool,
) -> ImageEdit | None:
    """What a call of the pipeline edits; None where it is given no image.

    Args:
        captions: how many there are; an image (and a mask) is given for each, or one for all.
        images_of_each: how many are made of each.
        stage: the last one.
        image: as :func:`satcascade.pipelines.image_input.images_of` takes it.
        mask_image: as :func:`satcascade.pipelines.image_input.masks_of` takes it.
        strength: 0 to 1; by default :data:`INPAINTING_STRENGTH` with a mask and
            :data:`IMAGE_TO_IMAGE_STRENGTH` without.
        resampling: 1 or more; only with a mask.
        feather: 0 or more; by default :data:`FEATHER`; only with a mask.
        seamless: as of :class:`ImageEdit`; without a mask it does nothing.

    Raises:
        UsageError: something is out of its range, does not fit, or needs what is not given.

    Warns:
        FullMaskWarning: a mask is white everywhere.
    """
    if image is None:
        given = {"mask_image": mask_image, "strength": strength, "feather": feather}
        given["resampling"] = None if resampling == 1 else resampling
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} says how an image is edited: give one with image")
        return None
    check_edit(strength, resampling, feather, masked=mask_image is not None)
    images = _each(images_of(image, stage.image_size), captions, images_of_each, "images") * 2 - 1
    device = stage.steps[0].timestep.device
    if mask_image is None:
        chosen = IMAGE_TO_IMAGE_STRENGTH if strength is None else strength
        return ImageEdit(images.to(device), strength=chosen)
    masks = masks_of(mask_image, stage.image_size)
    if masks.flatten(1).all(dim=1).any():
        warnings.warn(
            "the mask is white everywhere: nothing of the image stays", FullMaskWarning, stacklevel=3
        )
    return ImageEdit(
        images.to(device),
        _each(masks, captions, images_of_each, "masks").to(device),
        INPAINTING_STRENGTH if strength is None else strength,
        resampling,
        FEATHER if feather is None else feather,
        seamless,
    )


def check_edit(strength: float | None, resampling: int, feather: int | None, *, masked: bool) -> None:
    """Refuse numbers that no edit can have; None stands for the default.

    Raises:
        UsageError: a number is out of its range, or says how a masked part is made and there is no mask.
    """
    if strength is not None and not 0 <= strength <= 1:
        raise UsageError(f"strength {strength} is out of range: give 0 (as it was) to 1 (all new)")
    if resampling < 1:
        raise UsageError(f"resampling {resampling} is not possible: give 1 or more")
    if feather is not None and feather < 0:
        raise UsageError(f"feather {feather} is not possible: give 0 or more")
    if not masked and (resampling > 1 or feather is not None):
        name = "resampling" if resampling > 1 else "feather"
        raise UsageError(f"{name} is for a part of an image: say with a mask which")


def _each(batch: Tensor, captions: int, images_of_each: int, what: str) -> Tensor:
    """Images or masks, one for each image to make."""
    if len(batch) not in (1, captions):
        raise UsageError(f"{len(batch)} {what} for {captions} captions: give one for all, or one each")
    return batch.expand(captions, -1, -1, -1).repeat_interleave(images_of_each, dim=0)

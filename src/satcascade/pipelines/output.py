"""What a cascade returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import PIL.Image
from diffusers.utils import BaseOutput
from torch import Tensor

from satcascade.errors import UsageError
from satcascade.models.levels import to_levels

OutputType = Literal["pil", "np", "pt", "latent"]


@dataclass
class CascadeOutput(BaseOutput):
    """What a cascade made.

    Attributes:
        images: the final images, B of them: PIL images, or (B, S, S, 3) float32 in [0, 1] (``np``), or
            (B, 3, S, S) float32 in [0, 1] (``pt``), or what the stage diffused, for its codec to decode
            (``latent``): latents (B, C, S, S), and of a stage of pixels these, (B, 3, S, S) in [-1, 1]. With
            ``stop_at="base"`` these are the base images.
        base_images: the images of the base stage, in the same form.
    """

    images: Any
    base_images: Any


def to_output(images: Tensor, output_type: OutputType) -> Any:
    """Images (B, 3, S, S) in [-1, 1] in the form asked for; with ``latent`` any tensor as it is."""
    if output_type == "latent":
        return images
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.permute(0, 2, 3, 1).cpu()
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    levels = to_levels(channels_last).numpy()
    return [PIL.Image.fromarray(image) for image in levels]


def check_output_type(output_type: str) -> None:
    """Refuse an unknown form of output.

    Raises:
        UsageError: it is none of :data:`OutputType`.
    """
    known = get_args(OutputType)
    if output_type not in known:
        raise UsageError(f"unknown output type '{output_type}': choose one of {', '.join(known)}")


def check_size(size: int, height: int | None, width: int | None) -> None:
    """Refuse a size that a model does not make; None leaves it to the model.

    Raises:
        UsageError: height or width is not ``size``.
    """
    if height not in (None, size) or width not in (None, size):
        asked = f"{width or size} x {height or size}"
        raise UsageError(f"this model makes {size} x {size} px, not {asked}: leave height and width out")

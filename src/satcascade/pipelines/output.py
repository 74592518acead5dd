"""What a cascade returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

OutputType = Literal["pil", "np", "pt"]


@dataclass
class CascadeOutput(BaseOutput):
    """What a cascade made.

    Attributes:
        images: the final images, B of them: PIL images, or (B, S, S, 3) float32 in [0, 1] (``np``), or
            (B, 3, S, S) float32 in [0, 1] (``pt``). With ``stop_at="base"`` these are the base images.
        base_images: the images of the base stage, in the same form.
    """

    images: Any
    base_images: Any


def to_output(images: Tensor, output_type: OutputType) -> Any:
    """Images (B, 3, S, S) in [-1, 1] in the form asked for."""
    if output_type == "pt":
        return (images + 1) / 2
    channels_last = images.permute(0, 2, 3, 1).cpu()
    if output_type == "np":
        return ((channels_last + 1) / 2).numpy()
    levels = ((channels_last + 1) * 127.5).round().to(torch.uint8).numpy()
    return [PIL.Image.fromarray(image) for image in levels]

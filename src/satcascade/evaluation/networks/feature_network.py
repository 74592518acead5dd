"""What turns images into features: the form that all feature networks have here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PROTOCOL_SIZE = 256


@dataclass(frozen=True)
class FeatureNetwork:
    """What turns images into features.

    Attributes:
        name: as :func:`load_features` takes it.
        dim: width D of the features.
        weights: 16 hexadecimal digits over the weights.
        side: the input size S in pixels.
        forward: from uint8 (B, 3, S, S), RGB, to (B, D) float32.
        device: where ``forward`` computes; features come back to the CPU.
    """

    name: str
    dim: int
    weights: str
    side: int
    forward: Callable[[Tensor], Tensor]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Image.Image], progress: Callable[[int], None] | None = None, batch: int = 64
    ) -> Tensor:
        """Features of images, opened a batch at a time.

        Args:
            images: N RGB images.
            progress: called with numbers of images done.
            batch: images at once.

        Returns:
            (N, D) float64, on the CPU.
        """
        features = torch.empty(len(images), self.dim, dtype=torch.float64)
        for start in range(0, len(images), batch):
            numbers = range(start, min(start + batch, len(images)))
            pixels = torch.from_numpy(np.stack([self._pixels(images[number]) for number in numbers]))
            # The view of channels-last memory that it is: convolutions on a CPU are faster so.
            features[start : numbers.stop] = self.forward(pixels.permute(0, 3, 1, 2).to(self.device)).cpu()
            if progress:
                progress(len(numbers))
        return features

    def _pixels(self, image: Image.Image) -> np.ndarray:
        for side in (PROTOCOL_SIZE, self.side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(image)

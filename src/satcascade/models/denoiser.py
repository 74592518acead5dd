"""What the pipeline and the trainer ask of a network, whichever family it belongs to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from satcascade.diffusion.process import Prediction


@dataclass(frozen=True)
class TextCondition:
    """A batch of captions in the form that a network attends to; computed once a caption.

    Attributes:
        tokens: (B, L, C) condition tokens.
        mask: (B, L) bool, True at tokens that may be attended to; at least one in every row.
        pooled: (B, E) one vector a caption.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> TextCondition:
        return TextCondition(self.tokens[rows], self.mask[rows], self.pooled[rows])

    @staticmethod
    def cat(conditions: Sequence[TextCondition]) -> TextCondition:
        """Join batches, padded to the longest of them."""
        length = max(condition.tokens.shape[1] for condition in conditions)

        def padded(tensor: Tensor) -> Tensor:
            missing = length - tensor.shape[1]
            if not missing:
                return tensor
            return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)

        return TextCondition(
            torch.cat([padded(condition.tokens) for condition in conditions]),
            torch.cat([padded(condition.mask) for condition in conditions]),
            torch.cat([condition.pooled for condition in conditions]),
        )


class Denoiser(ModelMixin, ConfigMixin, ABC):
    """A text-conditioned denoising network, on images in [-1, 1] or on the latents of a codec.

    Its ``config`` holds ``sample_size`` S (positions a side of what is denoised: pixels or latents),
    ``low_res`` (whether it takes a low-resolution image), ``low_res_resize`` (how that image is resized),
    ``text_dim`` and ``prediction_type``.
    """

    @property
    def channels(self) -> int:
        """C, the channels of what is denoised."""
        return int(self.config.get("in_channels", 3))

    @property
    def prediction_type(self) -> Prediction:
        """What :meth:`forward` answers."""
        kind: Prediction = self.config.prediction_type
        return kind

    def guides_in_one_batch(self, device: torch.device) -> bool:
        """Whether both branches of classifier-free guidance go in one batch on that device."""
        return True

    @property
    def meaning(self) -> dict[str, Any]:
        """The settings under which the same weights mean something else, by their names in ``config``."""
        return {"prediction_type": self.prediction_type}

    def data_std(self, low_res_log_snr: Tensor | None) -> float | Tensor:
        """Standard deviation of what there is to predict, for the ``edm`` loss weighting.

        Args:
            low_res_log_snr: (B,) noise level of the low-resolution images; None in a base stage.

        Returns:
            One number, or (B,).
        """
        return 0.5

    def starting_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights to start from, of those of a network that was trained: names or shapes may still differ."""
        return dict(weights)

    @abstractmethod
    def rim_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the layers from and to what is denoised, which are not to be orthogonalised."""

    @abstractmethod
    def encode_text(self, embeddings: Tensor, mask: Tensor, keep: Tensor | None = None) -> TextCondition:
        """Condition for token embeddings (B, L, D); rows where ``keep`` (B,) is False get no caption."""

    @abstractmethod
    def forward(
        self,
        sample: Tensor,
        log_snr: Tensor,
        text: TextCondition,
        low_res: Tensor | None = None,
        low_res_log_snr: Tensor | None = None,
    ) -> Tensor:
        """Prediction (B, C, S, S) of type ``prediction_type`` for ``sample`` at ``log_snr`` (B,)."""


def resize_low_res(images: Tensor, size: int, mode: str) -> Tensor:
    """Bring low-resolution images (B, 3, h, w) to ``size`` pixels a side, as a network was trained with.

    Args:
        images: in [-1, 1].
        size: pixels a side.
        mode: ``nearest``, ``bilinear`` or ``bicubic`` (``config.low_res_resize``).
    """
    if images.shape[-1] == size:
        return images
    aligned = None if mode == "nearest" else False
    return torch.nn.functional.interpolate(images, size=(size, size), mode=mode, align_corners=aligned)

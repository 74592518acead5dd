"""What a stage's network is given beside the noised sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from satcascade.diffusion.process import add_noise
from satcascade.models.denoiser import TextCondition, resize_low_res
from satcascade.models.text import TextEmbeddings
from satcascade.sampling.stage import SamplingStage


@dataclass(frozen=True)
class LowRes:
    """A low-resolution image as a network takes it.

    Attributes:
        sample: (B, C, S, S), resized, encoded and noised.
        log_snr: (B,) its noise level.
    """

    sample: Tensor
    log_snr: Tensor


def noised_low_res(stage: SamplingStage, images: Tensor, noise: Tensor) -> LowRes:
    """Low-resolution images (B, 3, h, w) in [-1, 1], prepared for a super-resolution stage.

    They are noised to the stage's level (noise conditioning augmentation, Ho et al. 2021).
    """
    log_snr = torch.full((len(images),), stage.low_res_log_snr, device=images.device)
    # By way of [0, 1], where the stages of RSDiff meet: that rounds.
    resized = resize_low_res(
        (images + 1) * 0.5 * 2 - 1, stage.image_size, stage.denoiser.config.low_res_resize
    )
    return LowRes(add_noise(stage.codec.encode(resized), noise, log_snr), log_snr)


@dataclass(frozen=True)
class Condition:
    """Captions and low-resolution images of B images, computed once a stage.

    Attributes:
        count: B.
        text: (B) of the captions; where any step is guided, (2 B): then those that guidance leads away from,
            null captions or negative ones.
        low_res: with as many rows; None in a base stage.
    """

    count: int
    text: TextCondition
    low_res: LowRes | None

    @classmethod
    def of(
        cls,
        stage: SamplingStage,
        text: TextEmbeddings,
        low_res: LowRes | None,
        negative: TextEmbeddings | None = None,
    ) -> Condition:
        """The condition of a stage.

        Args:
            stage: the stage.
            text: embeddings of B captions.
            low_res: of B images; None in a base stage.
            negative: embeddings of B captions to take the place of the null caption of guidance; a row
                without tokens is the null caption.
        """
        count, network = len(text), stage.denoiser
        if not any(step.guided for step in stage.steps):
            return cls(count, network.encode_text(text.embeddings.to(network.dtype), text.mask), low_res)
        kept = torch.ones(count, dtype=torch.bool, device=text.mask.device)
        away, away_kept = (text, ~kept) if negative is None else (negative, negative.mask.any(dim=1))
        # Each for itself, as RSDiff's own sampler does: in one batch they may round otherwise.
        both = TextCondition.cat(
            [
                network.encode_text(side.embeddings.to(network.dtype), side.mask, keep)
                for side, keep in ((text, kept), (away, away_kept))
            ]
        )
        if low_res is not None:
            low_res = LowRes(low_res.sample.repeat(2, 1, 1, 1), low_res.log_snr.repeat(2))
        return cls(count, both, low_res)

    def captioned(self) -> dict[str, Any]:
        """The network's arguments for the captions."""
        return self._arguments(slice(self.count))

    def null(self) -> dict[str, Any]:
        """The network's arguments for null or negative captions."""
        return self._arguments(slice(self.count, None))

    def both(self) -> dict[str, Any]:
        """The network's arguments for the captions and then null or negative captions."""
        return self._arguments(slice(None))

    def _arguments(self, rows: slice) -> dict[str, Any]:
        arguments: dict[str, Any] = {"text": self.text[rows]}
        if self.low_res is not None:
            arguments["low_res"] = self.low_res.sample[rows]
            arguments["low_res_log_snr"] = self.low_res.log_snr[rows]
        return arguments

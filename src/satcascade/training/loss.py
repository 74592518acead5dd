"""The training loss of a stage."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from satcascade.diffusion.process import add_noise, training_target
from satcascade.diffusion.weighting import loss_weight
from satcascade.models.denoiser import Denoiser
from satcascade.training.batches import Batch


class DenoisingLoss(nn.Module):
    """Weighted squared error of a network's prediction; a module, so that it can be distributed whole.

    Args:
        model: the network; it says what it is asked for and, for the ``edm`` weighting, the standard
            deviation of that.
        weighting: see :func:`satcascade.diffusion.weighting.loss_weight`.
        compiled: compile it whole, noising and text head included; anew for every new shape.
    """

    def __init__(self, model: Denoiser, weighting: str, compiled: bool = False):
        super().__init__()
        self.model = model
        self.weighting = weighting
        self._error = torch.compile(self._weighted_error, dynamic=False) if compiled else self._weighted_error

    def forward(self, batch: Batch) -> Tensor:
        """Mean over the pixels of each image, (B,) float32."""
        error: Tensor = self._error(batch)
        return error

    def _weighted_error(self, batch: Batch) -> Tensor:
        model: Denoiser = self.model
        low_res = None
        if batch.low_res is not None:
            assert batch.low_res_noise is not None
            assert batch.low_res_log_snr is not None
            low_res = add_noise(batch.low_res, batch.low_res_noise, batch.low_res_log_snr)
        x_t = add_noise(batch.images, batch.noise, batch.log_snr)
        kind = model.prediction_type
        text = model.encode_text(batch.text.embeddings, batch.text.mask, batch.keep)
        prediction = model(x_t, batch.log_snr, text, low_res, batch.low_res_log_snr)
        target = training_target(batch.images, batch.noise, batch.log_snr, kind)
        sigma_data = model.data_std(batch.low_res_log_snr)
        weight = loss_weight(batch.log_snr, kind, self.weighting, sigma_data=sigma_data)
        return weight * (prediction.float() - target).square().mean(dim=(1, 2, 3))


def attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    """Plain attention on a CPU: the backward pass of the fused kernel is several times slower there."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()

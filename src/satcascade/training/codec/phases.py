"""The optimisers of a phase of an autoencoder's training."""

from __future__ import annotations

import torch
from torch import nn

from satcascade.config.codec import Phase
from satcascade.training.optimizers import Muon


def phase_optimizers(network: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """AdamW, and beside it Muon for the kernels, where the phase asks for it.

    Args:
        network: the encoder or the decoder.
        phase: how it is trained.
    """
    muon = phase.optimizer == "muon"
    kernels = [each for each in network.parameters() if muon and each.ndim > 1]
    others = [each for each in network.parameters() if not muon or each.ndim == 1]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)]
    return [*optimizers, Muon(kernels, lr=phase.learning_rate)] if kernels else optimizers

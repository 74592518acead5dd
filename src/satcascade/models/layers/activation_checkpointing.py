"""Activation checkpointing: memory of the backward pass for time (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class CheckpointedBlock(nn.Module):
    """A block that keeps its inputs only, and computes the rest again in the backward pass, if it is told to.

    ``enable_gradient_checkpointing`` of the network that it belongs to tells it
    (:class:`diffusers.ModelMixin`).
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """As of any module."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(super().__call__, *args)
        return super().__call__(*args)

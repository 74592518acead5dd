"""Moving averages of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from satcascade.training.post_hoc_averages import exponent
from satcascade.training.sharded import fill


class PowerAverages:
    """Power function averages of a network's parameters (see :mod:`satcascade.training.post_hoc_averages`).

    Args:
        model: the network whose parameters are followed.
        lengths: of the averages, relative to the run so far; may be none.
    """

    def __init__(self, model: nn.Module, lengths: Sequence[float]):
        self._exponents = {f"{length:g}": exponent(length) for length in lengths}
        self._names = [name for name, _ in model.named_parameters()]
        self.tensors = {
            f"{length}/{name}": value.detach().clone()
            for length in self._exponents
            for name, value in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow the parameters after a step, counted from 1."""
        now = [value.detach() for value in model.parameters()]
        for length, power in self._exponents.items():
            averages = [self.tensors[f"{length}/{name}"] for name in self._names]
            torch._foreach_lerp_(averages, now, 1 - (1 - 1 / step) ** (power + 1))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from averages saved earlier."""
        for name, value in self.tensors.items():
            fill(value, tensors[name])


class WeightAverage:
    """Averages parameters with a half-life counted in images seen (Karras et al. 2022, appendix F.1).

    The half-life is at most a fifth of the images seen so far, so that the random start is soon forgotten.

    Args:
        model: the network whose parameters are followed.
        half_life: in images.
    """

    def __init__(self, model: nn.Module, half_life: int):
        self.half_life = half_life
        self.shadow = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, images_seen: int, images: int) -> None:
        """Follow the parameters after a step on ``images`` images, ``images_seen`` with them."""
        half_life = max(min(self.half_life, images_seen / 5), 1e-8)
        weight = 1 - 0.5 ** (images / half_life)
        now = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.shadow.values()), [now[name].detach() for name in self.shadow], weight)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into ``model``, and its own weights back at the end."""
        own = {name: value.detach().clone() for name, value in model.named_parameters()}
        self._copy(self.shadow, model)
        try:
            yield
        finally:
            self._copy(own, model)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from averages saved earlier."""
        for name, value in self.shadow.items():
            fill(value, weights[name])

    @staticmethod
    @torch.no_grad()
    def _copy(weights: dict[str, Tensor], model: nn.Module) -> None:
        for name, value in model.named_parameters():
            value.copy_(weights[name])

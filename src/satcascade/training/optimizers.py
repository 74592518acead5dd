"""The optimisers of the trainer: AdamW, and Muon for the inner matrices of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from satcascade.config.training import Training
from satcascade.hardware.precision import bf16_is_fast
from satcascade.models.denoiser import Denoiser

# Coefficients of the quintic iteration of Jordan et al. 2024 ("Muon: an optimizer for hidden layers"):
# they push all singular values near 1 in five rounds, without converging exactly.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for matrices and convolution kernels.

    A kernel (out, in, h, w) is taken as a matrix (out, h w in). The update is scaled by
    0.2 sqrt(max(rows, columns)), which gives it the root mean square of a typical AdamW step (Liu et al.
    2025, "Muon is scalable for LLM training"), so that one learning rate serves both optimisers.

    Args:
        params: parameters of two or more dimensions.
        lr: learning rate.
        momentum: of the (Nesterov) momentum.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            keep, rate = group["momentum"], group["lr"]
            for parameters in _alike(group["params"]):
                for parameter in parameters:
                    if not self.state[parameter]:
                        self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                momenta = [self.state[parameter]["momentum"] for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - keep)
                updates = torch._foreach_lerp(gradients, momenta, keep)
                # Kernels lie channels-last in memory: this order of columns needs no copy.
                laid_out = [update.movedim(1, -1) for update in updates]
                matrices = orthogonalize(torch.stack([update.flatten(1) for update in laid_out]))
                steps = [
                    matrix.view(update.shape).movedim(-1, 1)
                    for matrix, update in zip(matrices, laid_out, strict=True)
                ]
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
                torch._foreach_add_(parameters, steps, alpha=-0.2 * max(matrices.shape[1:]) ** 0.5 * rate)


def _alike(parameters: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """The parameters that have a gradient, those of equal shape together, to take few kernel launches.

    On a CPU each alone: there it is the cache that counts.
    """
    groups: dict[Any, list[Tensor]] = {}
    for number, parameter in enumerate(parameters):
        if parameter.grad is not None:
            groups.setdefault(number if parameter.is_cpu else parameter.shape, []).append(parameter)
    return groups.values()


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: all singular values between about 0.7 and 1.2.

    Args:
        matrices: (N, rows, columns); batched, so that a network takes few kernel launches.

    Returns:
        The same shape and type; computed in bfloat16, which the iteration tolerates, where that is fast.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    if bf16_is_fast(matrices.device):
        x = x.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    unused = x.new_zeros(1, 1, 1)
    for _ in range(_ROUNDS):
        # A product alone: on a CPU this form of it is faster than `x @ x.mT`.
        gram = torch.baddbmm(unused, x, x.mT, beta=0)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(model: Denoiser, training: Training) -> list[torch.optim.Optimizer]:
    """The optimisers of a run; each parameter belongs to one of them.

    Weight decay is applied to matrices and kernels only. Muon takes the inner ones: not those of the
    network's rim.
    """
    at_the_rim = {id(parameter) for parameter in model.rim_parameters()}
    settings = training.optimizer
    matrices, inner, vectors = [], [], []
    for parameter in model.parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif settings.name == "muon" and id(parameter) not in at_the_rim:
            inner.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
    ]
    if inner:
        optimizers.append(Muon(inner, lr=settings.learning_rate, weight_decay=settings.weight_decay))
    return optimizers


def learning_rate(step: int, peak: float, *, steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, plateau, linear decay to zero at the end.

    Args:
        step: in [0, steps).
        peak: the rate of the plateau.
        steps: of the run.
        warmup_steps: before the plateau.
        decay_steps: after it.
    """
    warm = (step + 1) / warmup_steps if warmup_steps else 1.0
    left = (steps - step) / decay_steps if decay_steps else 1.0
    return peak * min(1.0, warm, left)

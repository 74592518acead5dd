"""Callbacks after the steps of sampling, with the conventions of ``diffusers``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from satcascade.errors import UsageError
from satcascade.sampling.stage import SamplingStage

StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], "dict[str, Any] | None"]

# Two names of one tensor: that of diffusers, and that of this package.
TENSOR_INPUTS = ("latents", "sample")


@dataclass(frozen=True)
class StepCallbacks:
    """A callback and what it is shown.

    Attributes:
        pipeline: given to the callback first.
        callback: a function, or a ``PipelineCallback`` of ``diffusers``, which says itself what it is shown.
        tensor_inputs: names of tensors for the callback, of :data:`TENSOR_INPUTS`.

    Raises:
        UsageError: a name is none of them.
    """

    pipeline: Any
    callback: StepCallback
    tensor_inputs: Sequence[str] = TENSOR_INPUTS

    def __post_init__(self) -> None:
        for name in self._shown:
            if name not in TENSOR_INPUTS:
                raise UsageError(
                    f"callbacks are not shown '{name}': choose from {', '.join(TENSOR_INPUTS)} in "
                    "callback_on_step_end_tensor_inputs"
                )

    def __call__(self, stage: SamplingStage, step: int, x: Tensor) -> Tensor:
        """What x (B, C, S, S) is after the callback has seen it."""
        state: dict[str, Any] = {"stage": stage.name, **dict.fromkeys(self._shown, x)}
        answer = self.callback(self.pipeline, step, stage.steps[step].timestep, state) or {}
        changed = (answer.get(name, x) for name in TENSOR_INPUTS)
        # A callback that changes the one may well return the other as it was.
        return next((tensor for tensor in changed if tensor is not x), x)

    @property
    def _shown(self) -> Sequence[str]:
        names: Sequence[str] = getattr(self.callback, "tensor_inputs", self.tensor_inputs)
        return names

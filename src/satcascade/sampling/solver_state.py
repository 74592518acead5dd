"""What a scheduler remembers between two steps, taken out of it and put back."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

Remembered = dict[str, Any]


def remembered(scheduler: Any) -> tuple[Remembered, dict[str, Tensor]]:
    """What a scheduler of ``diffusers`` remembers: tables, counters, and predictions of steps before.

    Returns:
        What is no tensor, fit for JSON, with the names of tensors in their places (``{"tensor": name}``),
        and the tensors by these names.
    """
    tensors: dict[str, Tensor] = {}

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, list | tuple | deque):
            return [plain(f"{name}.{number}", each) for number, each in enumerate(value)]
        return value

    simple = (Tensor, list, int, float, str, bool, type(None))
    state = {
        name: plain(name, value)
        for name, value in vars(scheduler).items()
        if name != "_internal_dict" and isinstance(value, simple)
    }
    return state, tensors


def remember(scheduler: Any, state: Remembered, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`remembered` took out of a scheduler of the same kind, set to the same steps.

    Tensors go to the device on which the scheduler has those of the same name, canvases to ``device``.
    """

    def full(value: Any, before: Any) -> Any:
        if isinstance(value, dict):
            tensor = tensors[value["tensor"]]
            return tensor.to(before.device if isinstance(before, Tensor) else device)
        if isinstance(value, list):
            known = before if isinstance(before, list) else []
            return [full(each, known[n] if n < len(known) else None) for n, each in enumerate(value)]
        return value

    for name, value in state.items():
        setattr(scheduler, name, full(value, getattr(scheduler, name, None)))
